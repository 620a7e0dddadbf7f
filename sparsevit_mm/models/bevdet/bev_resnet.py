"""Backbone of BEVDet's encoder in bird's eye view."""
from typing import Optional, Sequence, Tuple

from mmdet3d.registry import MODELS
from mmdet.models.backbones.resnet import BasicBlock
from mmengine.model import BaseModule
from torch import Tensor, nn


@MODELS.register_module()
class BEVResNet(BaseModule):
    """Residual stages without a stem, each at half the resolution of the previous one (BEVDet,
    table 2).

    Args:
        in_channels: Number of input channels.
        channels: Number of channels of each stage.
        num_blocks: Number of basic blocks per stage.
        init_cfg: As in mmengine.
    """

    def __init__(self,
                 in_channels: int = 64,
                 channels: Sequence[int] = (128, 256, 512),
                 num_blocks: int = 2,
                 init_cfg: Optional[dict] = None):
        super().__init__(init_cfg)
        stages = []
        for width in channels:
            shortcut = nn.Conv2d(in_channels, width, 3, stride=2, padding=1)
            stages.append(nn.Sequential(
                BasicBlock(in_channels, width, stride=2, downsample=shortcut),
                *[BasicBlock(width, width) for _ in range(num_blocks - 1)]))
            in_channels = width
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Map (B, C, h, w) to one output per stage, (B, C_i, h / 2^i, w / 2^i) for stage i from 1,
        sizes rounded up."""
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return tuple(outputs)
