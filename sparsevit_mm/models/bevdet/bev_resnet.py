"""The encoder of the map in bird's eye view."""
from typing import Optional, Sequence, Tuple

from mmdet3d.registry import MODELS
from mmdet.models.backbones.resnet import BasicBlock
from mmengine.model import BaseModule
from torch import Tensor, nn


@MODELS.register_module()
class BEVResNet(BaseModule):
    """Residual stages without a stem, each at half the resolution of the one before (BEVDet,
    table 2).

    Args:
        in_channels: Of the map.
        channels: Of each stage.
        num_blocks: Basic blocks a stage.
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
        """(B, C, h, w) -> a map of each stage, (B, C_i, h / 2^i, w / 2^i) with i from 1."""
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return tuple(outputs)
