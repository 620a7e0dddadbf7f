"""SimpleFeaturePyramid: multi-scale maps from the last map of a plain ViT (ViTDet, ECCV 2022)."""
from typing import Optional, Sequence, Tuple, Union

import torch.nn.functional as F
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn

SCALES = 4., 2., 1., .5  # relative to the input map: strides 4 to 32 for patches of 16


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels at each position of a (B, C, H, W) map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Simple feature pyramid of ViTDet (arXiv 2203.16527, section 3), as in its released code.

    The last map is scaled by 4 (two deconvolutions with LayerNorm and GELU between, each halving
    the channels), 2 (one deconvolution, halving the channels), 1 (identity) and 0.5 (max pooling).
    A 1x1 and a 3x3 convolution follow at each scale, both with LayerNorm and without bias.

    Args:
        in_channels: Number of channels C of the last map, a multiple of 4. Of a sequence, as mmdet
            passes to other necks, the last entry is used.
        out_channels: Number of channels of the outputs.
        num_outs: Number of output maps, at least 4. Extra maps subsample the previous one by 2, as
            in mmdet's ``FPN``, for the region proposals of large objects.
        init_cfg: mmengine's initialisation config; by default PyTorch's initialisation.

    Raises:
        ValueError: If `in_channels` is not a multiple of 4, or `num_outs` is below 4.
    """

    def __init__(self, in_channels: Union[int, Sequence[int]], out_channels: int = 256,
                 num_outs: int = 5, init_cfg: Optional[dict] = None):
        super().__init__(init_cfg=init_cfg)
        width = in_channels if isinstance(in_channels, int) else in_channels[-1]
        if width < 4 or width % 4:
            raise ValueError(f'in_channels {width} is not a multiple of 4')
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
        """Compute the maps, from the largest to the smallest.

        Args:
            inputs: Outputs of a backbone. Only the last is used: (B, C, H, W), or a sequence that
                begins with this map, such as a pair with the class token.

        Returns:
            Maps (B, out_channels, h, w). The first three have 4, 2 and 1 times the size (H, W);
            each further one has half the size of the previous one, rounded up.
        """
        x = inputs[-1] if hasattr(inputs[-1], 'shape') else inputs[-1][0]
        outs = [level(x) for level in self.levels]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)


def _scaling(scale: float, width: int) -> Tuple[Sequence[nn.Module], int]:
    """Return the layers that scale a map, and their number of output channels."""
    if scale == 4:
        return (nn.ConvTranspose2d(width, width // 2, 2, stride=2), LayerNorm2d(width // 2),
                nn.GELU(), nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2)), width // 4
    if scale == 2:
        return (nn.ConvTranspose2d(width, width // 2, 2, stride=2), ), width // 2
    if scale == .5:
        return (nn.MaxPool2d(2, ceil_mode=True), ), width
    return (), width
