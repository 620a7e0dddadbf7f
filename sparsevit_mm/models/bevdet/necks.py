"""Neck of both encoders of BEVDet."""
from typing import Optional, Sequence

import torch
from mmcv.cnn import ConvModule
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F


def _conv(in_channels: int, out_channels: int) -> ConvModule:
    return ConvModule(in_channels, out_channels, 3, padding=1, norm_cfg=dict(type='BN'))


@MODELS.register_module()
class FPN_LSS(BaseModule):
    """Neck that fuses two levels at the resolution of the finer one (BEVDet, table 2).

    The coarser level is upsampled (bilinear, corners aligned), concatenated with the finer one and
    passed through two convolutions. With `upsample` the result is upsampled again and passed
    through two more.

    Args:
        in_channels: Number of channels of both levels together.
        out_channels: Number of output channels.
        levels: Indices of the finer and the coarser level.
        upsample: Size of the output relative to the finer level; None for the same size.
        init_cfg: As in mmengine.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 levels: Sequence[int] = (0, 1),
                 upsample: Optional[int] = None,
                 init_cfg: Optional[dict] = None):
        super().__init__(init_cfg)
        self.levels, self.upsample = tuple(levels), upsample
        width = out_channels if upsample is None else 2 * out_channels
        self.conv = nn.Sequential(_conv(in_channels, width), _conv(width, width))
        self.head = None
        if upsample is not None:
            self.head = nn.Sequential(
                _conv(width, out_channels), nn.Conv2d(out_channels, out_channels, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Fuse the levels, (B, C, h, w) each, into (B, out_channels, h, w), where (h, w) is the
        size of the finer level times `upsample`."""
        fine, coarse = (features[level] for level in self.levels)
        # Resize to the exact size: at 616 pixels the levels have 39 and 20 columns.
        coarse = F.interpolate(coarse, fine.shape[2:], mode='bilinear', align_corners=True)
        x = self.conv(torch.cat([fine, coarse], dim=1))
        if self.head is None:
            return x
        x = F.interpolate(x, scale_factor=self.upsample, mode='bilinear', align_corners=True)
        return self.head(x)
