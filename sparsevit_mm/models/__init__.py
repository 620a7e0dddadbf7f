from .interface import SparseBackbone, backbone_names, get_sparse_backbone
from .swin.sparse_swin import SparseSwinTransformer

__all__ = ['SparseBackbone', 'SparseSwinTransformer', 'backbone_names', 'get_sparse_backbone']
