from .interface import SparseBackbone, backbone_names, get_sparse_backbone
from .swin.sparse_swin import SparseSwinTransformer
from .vit.evo_levit import EvoLeViT
from .vit.evo_vit import EvoVisionTransformer

__all__ = ['EvoLeViT', 'EvoVisionTransformer', 'SparseBackbone', 'SparseSwinTransformer',
           'backbone_names', 'get_sparse_backbone']
