from .sparse_training_hook import SparseTrainingHook
from .sparsity_adaptation_hook import SparsityAdaptationHook
from .structured_sparse_training_hook import StructuredSparseTrainingHook
from .token_evolution_hook import TokenEvolutionHook
from .token_selector_hook import TokenSelectorHook

__all__ = ['SparseTrainingHook', 'SparsityAdaptationHook', 'StructuredSparseTrainingHook',
           'TokenEvolutionHook', 'TokenSelectorHook']
