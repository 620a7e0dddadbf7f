"""Which windows ran: counts per window and block, and the overlay on an image."""
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional, Sequence

import matplotlib

matplotlib.use('Agg')  # noqa: E402 - no screen is needed
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import SparseSwinTransformer
from ..models.windows import WindowPartition


@contextmanager
def record_windows(backbone: SparseSwinTransformer) -> Iterator[List[List[Tensor]]]:
    """Within the context each forward pass leaves, per stage and block, a (B, H, W) bool map of
    the tokens that ran, H and W being the stage's size in tokens."""
    maps: List[List[Tensor]] = [[] for _ in backbone.stages]
    handles, execution = [], backbone.execution
    backbone.execution = 'eager'  # recordings run no hooks
    for stage_maps, stage in zip(maps, backbone.stages):
        for block in stage.blocks:
            handles.append(
                block.register_forward_pre_hook(
                    lambda _, args, into=stage_maps: into.append(_ran(*args))))
    try:
        yield maps
    finally:
        backbone.execution = execution
        for handle in handles:
            handle.remove()


def _ran(x: Tensor, windows: WindowPartition, selected: Optional[Tensor] = None) -> Tensor:
    size = (len(x), windows.height * windows.width + 1)  # the last entry takes the padding
    if selected is None:
        ran = x.new_ones(size, dtype=torch.bool)
    else:
        ran = x.new_zeros(size, dtype=torch.bool)
        ran.scatter_(1, windows.table[selected].flatten(1), True)
    return ran[:, :-1].reshape(-1, windows.height, windows.width).cpu()


def share_of_blocks(blocks: Sequence[Tensor], size: Sequence[int], patch: int) -> np.ndarray:
    """Share of a stage's blocks that ran at each pixel, for the first image of the batch.

    Args:
        blocks: (B, H, W) bool per block.
        size: (height, width) of the image in pixels.
        patch: Side of a token of this stage, in pixels.

    Returns:
        (height, width) float32 in [0, 1].
    """
    share = torch.stack([block[0] for block in blocks]).float().mean(0)
    return F.interpolate(share[None, None], scale_factor=patch, mode='nearest')[
        0, 0, :size[0], :size[1]].numpy()


def draw_kept_windows(path: Path, image: np.ndarray, maps: List[List[Tensor]], patch_size: int,
                      title: str) -> None:
    """Draws the image, and per stage the image with the windows darkened that ran in few blocks.

    Args:
        path: PNG to write.
        image: (H, W, 3) uint8, RGB, as the backbone saw it.
        maps: From :func:`record_windows`.
        patch_size: Side of a token of the first stage, in pixels.
        title: Of the figure.
    """
    figure, axes = plt.subplots(1, len(maps) + 1, figsize=(3 * (len(maps) + 1), 3.4),
                                constrained_layout=True)
    axes[0].imshow(image)
    axes[0].set_title('image', fontsize=10)
    for i, (axis, blocks) in enumerate(zip(axes[1:], maps)):
        share = share_of_blocks(blocks, image.shape[:2], patch_size * 2**i)
        axis.imshow((image * (.2 + .8 * share[..., None])).astype(np.uint8))
        axis.set_title(f'stage {i}: {share.mean():.0%} of windows run', fontsize=10)
    for axis in axes:
        axis.axis('off')
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=80)
    plt.close(figure)
