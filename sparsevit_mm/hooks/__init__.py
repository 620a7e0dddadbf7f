from .sparsity_adaptation_hook import SparsityAdaptationHook

__all__ = ['SparsityAdaptationHook']
