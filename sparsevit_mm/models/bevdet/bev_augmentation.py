"""BEVDet's augmentation in bird's eye view (BEV)."""
from typing import NamedTuple, Tuple

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures import LiDARInstance3DBoxes


class BEVDraw(NamedTuple):
    """Random parameters of one frame."""
    rotate: float  # radians about z, from x towards y
    scale: float
    flip_x: bool
    flip_y: bool


@TRANSFORMS.register_module()
class BEVAugmentation(BaseTransform):
    """Rotate, scale and flip the boxes of a frame: BEVDet's augmentation of the BEV space
    (arXiv 2112.11790, section 3.3). The view transformer moves the features by the same matrix.

    mmdet3d's GlobalRotScaleTrans and RandomFlip3D do not fit: the former needs points, the latter
    flips the images as well.

    Required keys: ``gt_bboxes_3d`` (LiDARInstance3DBoxes, possibly empty; not changed in place) and
    ``token``, for error messages.

    Modified key: ``gt_bboxes_3d``. Velocities are rotated, scaled and flipped with the boxes;
    unknown velocities (NaN) stay NaN.

    Added key: ``bev_aug_matrix`` (ndarray), (4, 4) float64, maps homogeneous LiDAR points to
    augmented ones.

    Args:
        rotate (float): Maximum rotation about z in radians; the angle is uniform in
            [-rotate, rotate].
        scale (tuple[float, float]): Range of the uniform scale factor.
        flip_x (float): Probability of x -> -x; in nuScenes' LiDAR frame x points right of the car.
        flip_y (float): Probability of y -> -y; in nuScenes' LiDAR frame y points ahead of the car.

    Raises:
        ValueError: If a probability or the range of the scale factor is invalid, or if a box is not
            finite or has a non-positive size.
    """

    def __init__(self,
                 rotate: float = 0.3925,
                 scale: Tuple[float, float] = (0.95, 1.05),
                 flip_x: float = 0.5,
                 flip_y: float = 0.5) -> None:
        self.rotate = rotate
        self.scale = tuple(scale)
        self.flip_x = flip_x
        self.flip_y = flip_y
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f'scale must be (low, high), both positive, got {scale}')
        if not (0 <= flip_x <= 1 and 0 <= flip_y <= 1):
            raise ValueError(f'flip_x and flip_y must be probabilities, got {flip_x}, {flip_y}')

    @cache_randomness
    def draw(self) -> BEVDraw:
        """Draw the parameters of one frame from numpy's global generator."""
        return BEVDraw(
            rotate=np.random.uniform(-self.rotate, self.rotate),
            scale=np.random.uniform(*self.scale),
            flip_x=np.random.uniform() < self.flip_x,
            flip_y=np.random.uniform() < self.flip_y)

    def transform(self, results: dict) -> dict:
        boxes = results['gt_bboxes_3d'].clone()
        check_boxes(boxes, results['token'])
        draw = self.draw()
        move_boxes(boxes, draw)
        results['gt_bboxes_3d'] = boxes
        results['bev_aug_matrix'] = bev_matrix(draw)
        return results

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(rotate={self.rotate}, scale={self.scale}, '
                f'flip_x={self.flip_x}, flip_y={self.flip_y})')


def check_boxes(boxes: LiDARInstance3DBoxes, token: str) -> None:
    """Raise a ValueError if a box is not finite (a NaN velocity is allowed) or has a non-positive
    size."""
    tensor = boxes.tensor
    bad = ~tensor[:, :7].isfinite().all(1) | tensor.isinf().any(1) | (boxes.dims <= 0).any(1)
    if bad.any():
        index = int(torch.nonzero(bad)[0])
        raise ValueError(f'sample {token}: ground truth box {index} is not finite or has a '
                         f'non-positive size: {tensor[index].tolist()}')


def move_boxes(boxes: LiDARInstance3DBoxes, draw: BEVDraw) -> None:
    """Transform boxes in place, as :func:`bev_matrix` transforms points."""
    boxes.rotate(draw.rotate)
    boxes.scale(draw.scale)
    if draw.flip_x:
        boxes.flip('vertical')  # negates x, which points up in mmdet3d's BEV
    if draw.flip_y:
        boxes.flip('horizontal')


def bev_matrix(draw: BEVDraw) -> np.ndarray:
    """Return the matrix of rotation, then scaling, then flips, (4, 4) float64."""
    cos, sin = np.cos(draw.rotate), np.sin(draw.rotate)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    flips = np.diag([-1. if draw.flip_x else 1., -1. if draw.flip_y else 1., 1.])
    matrix = np.eye(4)
    matrix[:3, :3] = flips @ (draw.scale * rotation)
    return matrix
