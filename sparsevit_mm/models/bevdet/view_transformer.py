"""View transformer from camera features to a map in bird's eye view (BEV)."""
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

    Each cell of a feature map predicts a depth distribution and a context vector; their outer
    product is summed into the cells of the BEV grid.

    Args:
        in_channels: Number of channels of the image features.
        out_channels: Number of channels of the BEV map.
        x, y: First edge, last edge and cell size in metres.
        z: Lower and upper bound in metres; points outside are dropped.
        depth: Start, stop (exclusive) and step of the depth bins in metres.
        stride: Stride of the image features in pixels.
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
        """Transform image features to BEV.

        Args:
            features: Image features, (B, V, C, h, w).
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
        """Return the pooling table, reusing the last one if cameras, augmentations, feature size
        and device are unchanged."""
        key = (matrices.shape, matrices.numpy().tobytes(), size, device)
        if self._cache is None or self._cache[0] != key:
            points = lift(matrices.float().to(device), self.depths, size, self.stride)
            rows, columns = self.grid.shape
            table = make_table(find_cells(points, self.grid), len(matrices) * rows * columns)
            self._cache = key, table
        return self._cache[1]
