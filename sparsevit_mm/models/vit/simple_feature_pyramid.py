"""SimpleFeaturePyramid: maps of four strides from the last of a plain ViT (ViTDet, ECCV 2022)."""
from typing import Optional, Sequence, Tuple, Union

import torch.nn.functional as F
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn

SCALES = 4., 2., 1., .5  # of the size of the map: strides 4 to 32 with patches of 16


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each place of a (B, C, H, W) map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """The simple feature pyramid of ViTDet (arXiv 2203.16527, section 3), as its code has it.

    The last map is scaled by deconvolutions (4: two with LayerNorm and GELU between, halving the
    channels twice; 2: one, halving them), not at all, and by max pooling. Each result goes through
    a 1x1 and a 3x3 convolution, both with LayerNorm and without bias.

    Args:
        in_channels: Channels C of the last map, a multiple of 4. A sequence, as mmdet gives other
            necks, counts by its last.
        out_channels: Channels of the outputs.
        num_outs: Maps, at least 4: those beyond take every second place of the one before, as in
            mmdet's ``FPN``, for the region proposals of large objects.
        init_cfg: Of mmengine; by default PyTorch's own initialisation.

    Raises:
        ValueError: `in_channels` is no multiple of 4, or `num_outs` below 4.
    """

    def __init__(self, in_channels: Union[int, Sequence[int]], out_channels: int = 256,
                 num_outs: int = 5, init_cfg: Optional[dict] = None):
        super().__init__(init_cfg=init_cfg)
        width = in_channels if isinstance(in_channels, int) else in_channels[-1]
        if width < 4 or width % 4:
            raise ValueError(f'in_channels {width} is no multiple of 4')
        if num_outs < len(SCALES):
            raise ValueError(f'num_outs {num_outs} is below {len(SCALES)}')
        self.num_outs = num_outs
        self.levels = ModuleList()
        for scale in SCALES:
            scaling, channels = _scaling(scale, width)
            self.levels.append(nn.Sequential(
                *scaling,
                nn.Conv2d(channels, out_channels, 1, bias=False), LayerNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                LayerNorm2d(out_channels)))

    def forward(self, inputs: Sequence[Union[Tensor, Sequence[Tensor]]]) -> Tuple[Tensor, ...]:
        """Maps from the largest to the smallest.

        Args:
            inputs: Outputs of a backbone, of which the last counts: (B, C, H, W), or a pair of that
                and a class token.

        Returns:
            (B, out_channels, h, w) with h, w of 4, 2 and 1 times H, W, then each half of the one
            before, rounded up.
        """
        x = inputs[-1] if hasattr(inputs[-1], 'shape') else inputs[-1][0]
        outs = [level(x) for level in self.levels]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)


def _scaling(scale: float, width: int) -> Tuple[Sequence[nn.Module], int]:
    """Layers that scale a map, and the channels that they leave."""
    if scale == 4:
        return (nn.ConvTranspose2d(width, width // 2, 2, stride=2), LayerNorm2d(width // 2),
                nn.GELU(), nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2)), width // 4
    if scale == 2:
        return (nn.ConvTranspose2d(width, width // 2, 2, stride=2), ), width // 2
    if scale == .5:
        return (nn.MaxPool2d(2, ceil_mode=True), ), width
    return (), width
