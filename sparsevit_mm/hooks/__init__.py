from .sparsity_adaptation_hook import SparsityAdaptationHook
from .token_evolution_hook import TokenEvolutionHook

__all__ = ['SparsityAdaptationHook', 'TokenEvolutionHook']
