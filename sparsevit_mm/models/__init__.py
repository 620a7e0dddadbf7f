from .interface import SparseBackbone, backbone_names, get_sparse_backbone
from .swin.sparse_swin import SparseSwinTransformer
from .vit.evo_levit import EvoLeViT
from .vit.evo_vit import EvoVisionTransformer
from .vit.simple_feature_pyramid import SimpleFeaturePyramid

__all__ = ['EvoLeViT', 'EvoVisionTransformer', 'SimpleFeaturePyramid', 'SparseBackbone',
           'SparseSwinTransformer', 'backbone_names', 'get_sparse_backbone']
