"""From features of the cameras to one map in bird's eye view."""
from typing import Optional, Sequence, Tuple

import torch
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from .bev_pool import PoolTable, bev_pool, make_table
from .geometry import BEVGrid, find_cells, lift


@MODELS.register_module()
class LSSViewTransformer(BaseModule):
    """Lift-Splat view transformer (BEVDet, section 3.2; Lift-Splat-Shoot, section 3).

    Each cell of a feature map predicts a distribution over depths and a context vector; their
    outer product is summed into the cells of the grid.

    Args:
        in_channels: Of the image features.
        out_channels: Of the bird's eye view.
        x, y: First edge, last edge and size of a cell, in metres.
        z: Lowest and highest point that counts, in metres.
        depth: First, last (not included) and step of the depth bins, in metres.
        stride: Pixels of the image to a cell of its features.
        init_cfg: As in mmengine.
    """

    def __init__(self,
                 in_channels: int = 512,
                 out_channels: int = 64,
                 x: Sequence[float] = (-51.2, 51.2, 0.8),
                 y: Sequence[float] = (-51.2, 51.2, 0.8),
                 z: Sequence[float] = (-10., 10.),
                 depth: Sequence[float] = (1., 60., 1.),
                 stride: int = 16,
                 init_cfg: Optional[dict] = None):
        super().__init__(init_cfg)
        self.grid = BEVGrid(tuple(x), tuple(y), tuple(z))
        self.stride, self.out_channels = stride, out_channels
        self.register_buffer('depths', torch.arange(*depth), persistent=False)
        self.depth_net = nn.Conv2d(in_channels, len(self.depths) + out_channels, 1)
        self._cache: Optional[Tuple[tuple, PoolTable]] = None

    def forward(self, features: Tensor, matrices: Tensor) -> Tensor:
        """
        Args:
            features: (B, V, C, h, w).
            matrices: (B, V, 3, 4) float64 on the CPU, from
                :func:`~sparsevit_mm.models.bevdet.geometry.view_to_bev`.

        Returns:
            (B, out_channels, rows, columns) float32, rows along y and columns along x.
        """
        batch, views, _, height, width = features.shape
        both = self.depth_net(features.flatten(0, 1)).unflatten(0, (batch, views))
        depth, context = both.split([len(self.depths), self.out_channels], dim=2)
        table = self._table(matrices, (height, width), features.device)
        bev = bev_pool(depth.float().softmax(dim=2), context.permute(0, 1, 3, 4, 2), table)
        return bev.view(batch, *self.grid.shape, -1).permute(0, 3, 1, 2).contiguous()

    def _table(self, matrices: Tensor, size: Tuple[int, int], device) -> PoolTable:
        """The last table serves again while cameras, augmentations and sizes are the same."""
        key = (matrices.shape, matrices.numpy().tobytes(), size, device)
        if self._cache is None or self._cache[0] != key:
            points = lift(matrices.float().to(device), self.depths, size, self.stride)
            rows, columns = self.grid.shape
            table = make_table(find_cells(points, self.grid), len(matrices) * rows * columns)
            self._cache = key, table
        return self._cache[1]
