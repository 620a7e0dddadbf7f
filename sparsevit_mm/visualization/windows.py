"""Number of blocks run at each pixel of an image."""
from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from ..models import SparseBackbone
from .overlay import Counts


class Placement(NamedTuple):
    """Placement of an image in the network input: at the top left corner, resized and possibly
    flipped. The rest of the input is padding.

    Attributes:
        size: (height, width) of the image as the network sees it, in pixels.
        flip: None, 'horizontal', 'vertical' or 'diagonal'.
    """
    size: Sequence[int]
    flip: Optional[str] = None

    @classmethod
    def from_metainfo(cls, metainfo: Dict) -> 'Placement':
        """Read the metainfo of a data sample.

        ``img_shape`` includes the padding of a pipeline's ``Pad``; ``scale_factor``, (width,
        height), tells the image from the padding.
        """
        size = tuple(metainfo['img_shape'][:2])
        scale = metainfo.get('scale_factor')
        if scale is not None and 'ori_shape' in metainfo:
            across, down = np.broadcast_to(np.ravel(scale)[:2], 2)
            height, width = metainfo['ori_shape'][:2]
            size = (min(size[0], round(height * down)), min(size[1], round(width * across)))
        return cls(size, metainfo.get('flip_direction') if metainfo.get('flip') else None)


def count_blocks(backbone: SparseBackbone, maps: List[List[Tensor]], shape: Sequence[int],
                 placement: Placement, index: int = 0) -> List[Counts]:
    """Count how many blocks of each stage ran at each pixel of an image.

    Args:
        backbone: Recorded backbone.
        maps: Maps of one forward pass, from the backbone's ``recording()``.
        shape: (height, width) of the image to draw on, in pixels.
        placement: Placement of the image in the network input.
        index: Index of the image in the batch.

    Raises:
        ValueError: If the backbone did not run exactly once, for example with sliding-window
            inference, where there is no single map of the image.
    """
    passes = len(maps[0]) / backbone.depths[0]
    if passes != 1:
        raise ValueError(f'the model ran its backbone {passes:g} times for one image, not once '
                         f'(sliding windows, or test-time augmentation?): its windows cannot be '
                         f'drawn on the image')
    return [Counts(f'stage {i}', _count(blocks, side, shape, placement, index), len(blocks))
            for i, (blocks, side) in enumerate(zip(maps, backbone.token_sides()))]


def _count(blocks: Sequence[Tensor], side: int, shape: Sequence[int], placement: Placement,
           index: int) -> np.ndarray:
    """Return (height, width) int64: for each pixel, the count of the token at its centre."""
    count = torch.stack([block[index] for block in blocks]).sum(0).numpy()
    rows, cols = (
        np.minimum((np.arange(pixels) + .5) * extent / pixels // side, tokens - 1).astype(int)
        for pixels, extent, tokens in zip(shape, placement.size, count.shape))
    if placement.flip in ('vertical', 'diagonal'):
        rows = rows[::-1]
    if placement.flip in ('horizontal', 'diagonal'):
        cols = cols[::-1]
    return count[rows[:, None], cols]
