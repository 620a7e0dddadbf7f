from .sparse_training_hook import SparseTrainingHook
from .sparsity_adaptation_hook import SparsityAdaptationHook
from .token_evolution_hook import TokenEvolutionHook

__all__ = ['SparseTrainingHook', 'SparsityAdaptationHook', 'TokenEvolutionHook']
