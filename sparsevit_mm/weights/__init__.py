from .densities import erk_densities, uniform_densities
from .layers import maskable_weights
from .masking import WeightMasks
from .masks import initial_mask, nm_mask
from .update import drop_and_grow, drop_fraction

__all__ = [
    'WeightMasks', 'drop_and_grow', 'drop_fraction', 'erk_densities', 'initial_mask',
    'maskable_weights', 'nm_mask', 'uniform_densities'
]
