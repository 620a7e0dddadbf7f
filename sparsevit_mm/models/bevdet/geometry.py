"""Projection of camera features into bird's eye view, as pure tensor functions.

Frames: pixels (u, v) of the augmented image, with pixel centres at integers; the camera frame, with
z pointing ahead; the LiDAR frame, that of the annotations; the augmented LiDAR frame, that of the
training targets.
"""
from typing import NamedTuple, Sequence, Tuple

import torch
from torch import Tensor


class BEVGrid(NamedTuple):
    """Grid of ground cells around the car, in the augmented LiDAR frame.

    Attributes:
        x, y: First edge, last edge and cell size in metres.
        z: Lower and upper bound in metres; a single cell spans this height.
    """
    x: Tuple[float, float, float]
    y: Tuple[float, float, float]
    z: Tuple[float, float]

    @property
    def shape(self) -> Tuple[int, int]:
        """Number of rows (along y) and columns (along x), the axes of CenterHead's targets."""
        return tuple(round((last - first) / size) for first, last, size in (self.y, self.x))


def view_to_bev(cam2img: Tensor, lidar2cam: Tensor, img_aug: Tensor, bev_aug: Tensor) -> Tensor:
    """Return one matrix per view that lifts pixels with depth into the augmented LiDAR frame.

    Args:
        cam2img: Intrinsics of the stored image, (..., 3, 3).
        lidar2cam: LiDAR to camera, (..., 4, 4).
        img_aug: Pixel of the stored image to pixel of the augmented image, (..., 3, 3).
        bev_aug: LiDAR to augmented LiDAR, (..., 4, 4); broadcast over views.

    Returns:
        (..., 3, 4) matrices that map (d u, d v, d, 1) to (x, y, z) in metres, where d is the depth
        along the camera's axis in metres.
    """
    pixel_to_lidar = lidar2cam.inverse()
    ray = torch.zeros_like(lidar2cam)  # (d u, d v, d, 1) -> homogeneous camera point
    ray[..., :3, :3] = (img_aug @ cam2img).inverse()
    ray[..., 3, 3] = 1
    return (bev_aug @ pixel_to_lidar @ ray)[..., :3, :]


def cell_centres(feature_size: Sequence[int], stride: int) -> Tensor:
    """Return the homogeneous pixel at the centre of each cell of a feature map, (h, w, 3)
    float32."""
    v, u = (torch.arange(n) * stride + (stride - 1) / 2 for n in feature_size)
    v, u = torch.meshgrid(v, u, indexing='ij')
    return torch.stack([u, v, torch.ones_like(u)], dim=-1)


def lift(matrices: Tensor, depths: Tensor, feature_size: Sequence[int], stride: int) -> Tensor:
    """Lift the cells of feature maps to 3D points at each depth.

    Args:
        matrices: Matrices from :func:`view_to_bev`, (B, V, 3, 4).
        depths: Depths in metres, (D,).
        feature_size: Height and width (h, w) of the feature map.
        stride: Stride of the feature map in pixels of the augmented image.

    Returns:
        Points in metres in the augmented LiDAR frame, (B, V, D, h, w, 3), in the dtype of
        `matrices`.
    """
    pixels = cell_centres(feature_size, stride).to(matrices)
    rays = torch.einsum('bvij,hwj->bvhwi', matrices[..., :3], pixels)
    offset = matrices[:, :, None, None, None, :, 3]
    return rays[:, :, None] * depths[:, None, None, None] + offset


def find_cells(points: Tensor, grid: BEVGrid) -> Tensor:
    """Find the cell of each point.

    Args:
        points: Points in metres, (B, ..., 3) float.
        grid: Grid of cells.

    Returns:
        (B, ...) int64, index into the flattened (B, rows, columns); -1 for points outside.
    """
    rows, columns = grid.shape
    x, y, z = points.unbind(-1)
    column = ((x - grid.x[0]) / grid.x[2]).floor()
    row = ((y - grid.y[0]) / grid.y[2]).floor()
    inside = ((column >= 0) & (column < columns) & (row >= 0) & (row < rows)
              & (z >= grid.z[0]) & (z < grid.z[1]))
    sample = torch.arange(len(points), device=points.device)
    sample = sample.view(-1, *[1] * (points.dim() - 2))
    cell = (sample * rows + row.long()) * columns + column.long()
    return torch.where(inside, cell, torch.full_like(cell, -1))
