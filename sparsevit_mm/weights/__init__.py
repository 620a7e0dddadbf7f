from .blocks import unit_groups
from .compaction import compact, cut
from .densities import erk_densities, uniform_densities
from .layers import maskable_weights
from .masking import WeightMasks
from .masks import initial_mask, nm_mask
from .ordering import order_units
from .units import drop_and_grow_units, head_importance, unit_norms
from .update import drop_and_grow, drop_fraction

__all__ = [
    'WeightMasks', 'compact', 'cut', 'drop_and_grow', 'drop_and_grow_units', 'drop_fraction',
    'erk_densities', 'head_importance', 'initial_mask', 'maskable_weights', 'nm_mask',
    'order_units', 'uniform_densities', 'unit_groups', 'unit_norms'
]
