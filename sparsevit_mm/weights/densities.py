"""Distribute a density over the layers of a model."""
import math
from typing import Dict, Mapping, Sequence

Shapes = Mapping[str, Sequence[int]]


def check_density(density: float) -> None:
    """Check that a density is in (0, 1].

    Raises:
        ValueError: If it is not.
    """
    if not 0 < density <= 1:
        raise ValueError(f'density is {density}: must be in (0, 1]')


def uniform_densities(shapes: Shapes, density: float) -> Dict[str, float]:
    """Give every layer the same density.

    Args:
        shapes: Shapes of the weights, by name.
        density: Density over all weights.

    Raises:
        ValueError: See :func:`check_density`.
    """
    check_density(density)
    return {name: float(density) for name in shapes}


def erk_densities(shapes: Shapes, density: float) -> Dict[str, float]:
    """Compute Erdos-Renyi-Kernel densities, which are higher in small layers (Evci et al. 2020, as
    used by SViTE).

    The density of a layer is eps * sum(shape) / prod(shape). Layers that would reach 1 are dense,
    and eps is solved again for the others, so that the mean over all weights is `density`.

    Args:
        shapes: Shapes of the weights, by name: (out, in) or (out, in, height, width).
        density: Density over all weights.

    Raises:
        ValueError: See :func:`check_density`.
    """
    check_density(density)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    sums = {name: sum(shape) for name, shape in shapes.items()}
    sparse, kept = set(shapes), density * sum(sizes.values())
    while sparse:
        eps = kept / sum(sums[name] for name in sparse)
        full = {name for name in sparse if eps * sums[name] >= sizes[name]}
        if not full:
            break
        sparse -= full
        kept -= sum(sizes[name] for name in full)
    return {name: eps * sums[name] / sizes[name] if name in sparse else 1. for name in shapes}
