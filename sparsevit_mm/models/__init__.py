from .swin.sparse_swin import SparseSwinTransformer, get_sparse_backbone

__all__ = ['SparseSwinTransformer', 'get_sparse_backbone']
