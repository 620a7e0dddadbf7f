"""Sparse vision transformers for OpenMMLab: window pruning in Swin (SparseViT), token evolution in
ViT and LeViT (Evo-ViT), and sparse training (SViTE).

Importing the package registers backbones and hooks in mmengine's root registries, where mmdet,
mmseg and mmdet3d find them by name. It requires no toolkit.
"""
import mmcv
import mmengine
from mmengine.utils import digit_version

from .budget import Front, set_latency_budget
from .hooks import (SparseTrainingHook, SparsityAdaptationHook, StructuredSparseTrainingHook,
                    TokenEvolutionHook, TokenSelectorHook)
from .models import EvoLeViT, EvoVisionTransformer, SparseSwinTransformer, get_sparse_backbone
from .models.checkpoints import allow_mmengine_checkpoints
from .sparsity import SparsityConfig, SparsitySpace
from .version import __version__

for _package, _low, _high in ((mmengine, '0.8.0', '1.0.0'), (mmcv, '2.0.0', '2.2.0')):
    if not digit_version(_low) <= digit_version(_package.__version__) < digit_version(_high):
        raise ImportError(f'sparsevit_mm needs {_package.__name__} >= {_low}, < {_high}; '
                          f'{_package.__version__} is installed')

allow_mmengine_checkpoints()

__all__ = [
    'EvoLeViT', 'EvoVisionTransformer', 'Front', 'SparseSwinTransformer', 'SparseTrainingHook',
    'SparsityAdaptationHook', 'SparsityConfig', 'SparsitySpace', 'StructuredSparseTrainingHook',
    'TokenEvolutionHook', 'TokenSelectorHook', 'get_sparse_backbone', 'set_latency_budget',
    '__version__'
]
