"""Infer and resize the grid of a position embedding. A checkpoint only stores the number of
positions."""
import math
from typing import Sequence, Tuple, Union

import torch.nn.functional as F
from torch import Tensor


def image_size(size: Union[int, Sequence[int]]) -> Tuple[int, int]:
    """Return height and width from one or two numbers of pixels.

    Raises:
        ValueError: If `size` is anything else.
    """
    sides = [size] if isinstance(size, int) else list(size)
    if len(sides) not in (1, 2) or not all(isinstance(s, int) and s > 0 for s in sides):
        raise ValueError(f'pretrain_img_size {size} is not one or two numbers of pixels')
    return sides[0], sides[-1]


def grid_of(count: int, like: Sequence[int], what: str) -> Tuple[int, int]:
    """Infer height and width of a grid from its number of positions.

    The grid is a square, as in nearly all pretrainings, or has the aspect ratio of `like`.

    Args:
        count: Number of positions.
        like: Height and width of the grid that it will be resized to.
        what: Name of the grid, for error messages.

    Raises:
        ValueError: If the number fits neither, or both with different shapes. The message names
            the candidates and `like`.
    """
    side, (height, width) = math.isqrt(count), like
    square = {(side, side)} if side**2 == count else set()
    divisor = math.gcd(height, width)
    unit = (height // divisor, width // divisor)
    times = math.isqrt(count // (unit[0] * unit[1]))
    alike = {(times * unit[0], times * unit[1])} if times**2 * unit[0] * unit[1] == count else set()
    shapes = sorted(square | alike)
    if len(shapes) != 1:
        guess = ' or '.join(f'{h}x{w}' for h, w in shapes)
        guess = guess or f'no square, nor like {height}x{width}'
        raise ValueError(f'{what} of {count} positions ({guess}) cannot be resized to '
                         f'{height}x{width}: set the image size to that of the pretraining')
    return shapes[0]


def resize_grid(positions: Tensor, source: Sequence[int], target: Sequence[int],
                mode: str = 'bicubic') -> Tensor:
    """Interpolate a grid of positions, (1, h * w, C), to (1, H * W, C).

    Args:
        positions: The grid, row by row.
        source, target: Heights and widths, (h, w) and (H, W).
        mode: Mode of :func:`torch.nn.functional.interpolate`.
    """
    grid = positions.transpose(1, 2).reshape(1, -1, *source)
    grid = F.interpolate(grid, size=tuple(target), mode=mode,
                         align_corners=False if mode in ('bilinear', 'bicubic') else None)
    return grid.flatten(2).transpose(1, 2).contiguous()
