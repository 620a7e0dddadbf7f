"""Where the features of six cameras lie in bird's eye view: pure tensor functions.

Frames: a pixel (u, v) of the augmented image, with pixel centres at integers; the camera, z ahead;
the LiDAR, in which boxes are given; the augmented LiDAR, in which boxes are learnt.
"""
from typing import NamedTuple, Sequence, Tuple

import torch
from torch import Tensor


class BEVGrid(NamedTuple):
    """Cells on the ground around the car, in the augmented LiDAR frame.

    Attributes:
        x, y: First edge, last edge and size of a cell, in metres.
        z: Lowest and highest point that counts, in metres; there is one cell over this height.
    """
    x: Tuple[float, float, float]
    y: Tuple[float, float, float]
    z: Tuple[float, float]

    @property
    def shape(self) -> Tuple[int, int]:
        """Rows, along y, and columns, along x: the axes in which CenterHead draws its targets."""
        return tuple(round((last - first) / size) for first, last, size in (self.y, self.x))


def view_to_bev(cam2img: Tensor, lidar2cam: Tensor, img_aug: Tensor, bev_aug: Tensor) -> Tensor:
    """One matrix a view that lifts pixels with a depth into the augmented LiDAR frame.

    Args:
        cam2img: (..., 3, 3) intrinsics of the stored image.
        lidar2cam: (..., 4, 4).
        img_aug: (..., 3, 3), pixel of the stored image -> pixel of the augmented image.
        bev_aug: (..., 4, 4), LiDAR -> augmented LiDAR; broadcast over views.

    Returns:
        (..., 3, 4): (d u, d v, d, 1) -> (x, y, z) in metres, where d is the depth along the
        camera's axis in metres.
    """
    pixel_to_lidar = lidar2cam.inverse()
    ray = torch.zeros_like(lidar2cam)  # (d u, d v, d, 1) -> homogeneous point of the camera
    ray[..., :3, :3] = (img_aug @ cam2img).inverse()
    ray[..., 3, 3] = 1
    return (bev_aug @ pixel_to_lidar @ ray)[..., :3, :]


def cell_centres(feature_size: Sequence[int], stride: int) -> Tensor:
    """(h, w, 3) float32: homogeneous pixel at the centre of each cell of a feature map."""
    v, u = (torch.arange(n) * stride + (stride - 1) / 2 for n in feature_size)
    v, u = torch.meshgrid(v, u, indexing='ij')
    return torch.stack([u, v, torch.ones_like(u)], dim=-1)


def lift(matrices: Tensor, depths: Tensor, feature_size: Sequence[int], stride: int) -> Tensor:
    """Points that the cells of feature maps stand for at each depth.

    Args:
        matrices: (B, V, 3, 4), from :func:`view_to_bev`.
        depths: (D,), in metres.
        feature_size: h and w of the feature map.
        stride: Pixels of the augmented image to a cell.

    Returns:
        (B, V, D, h, w, 3) in the dtype of `matrices`, in metres in the augmented LiDAR frame.
    """
    pixels = cell_centres(feature_size, stride).to(matrices)
    rays = torch.einsum('bvij,hwj->bvhwi', matrices[..., :3], pixels)
    offset = matrices[:, :, None, None, None, :, 3]
    return rays[:, :, None] * depths[:, None, None, None] + offset


def find_cells(points: Tensor, grid: BEVGrid) -> Tensor:
    """Cell of each point.

    Args:
        points: (B, ..., 3) float, in metres.
        grid: The cells.

    Returns:
        (B, ...) int64: index into (B, rows, columns) flattened; -1 for points outside.
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
