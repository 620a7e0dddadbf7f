"""Where boxes were in the frame before: the prior of ``importance='boxes'``.

At inference on frames in their order, one a batch, the model's own predictions of a frame say where
the next one may matter.
"""
from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

CAMERA_KEYS = ('cam2img', 'lidar2cam', 'img_aug_matrix')
MIN_SCORE = .1  # of a box that counts
MAX_GAP = 2.  # seconds after which a frame is of another scene, where frames tell their time
NEAR = .1  # metres in front of a camera


class FrameMemory:
    """The boxes of the last frame, in pixels of the network's input."""

    def __init__(self):
        self.forget()

    def forget(self) -> None:
        self.boxes: Optional[List[Tensor]] = None
        self.shape: Optional[Tuple[int, ...]] = None
        self.time: Optional[float] = None

    def keep(self, shape: Tuple[int, ...], samples) -> None:
        """Takes in what a model predicted.

        Args:
            shape: Of its input, see :class:`~.metadata.ToldBatch`.
            samples: Its output; anything but data samples with predicted boxes is passed over.
        """
        if not isinstance(samples, (list, tuple)) or not all(map(_has_boxes, samples)):
            return
        check_one_frame(shape)
        sample, = samples
        self.shape, self.time = shape, sample.metainfo.get('timestamp')
        self.boxes = boxes_in_images(sample, shape[1] if len(shape) == 5 else 1)

    def prior(self, shape: Tuple[int, ...], sample, grid: Tuple[int, int], side: int,
              device: torch.device) -> Optional[Tensor]:
        """How much of each token lay within a box.

        Args:
            shape: Of the model's input.
            sample: Of the frame.
            grid: Height and width of the map, in tokens.
            side: Of a token, in pixels.
            device: Of the result.

        Returns:
            (V, *grid) fp32 in [0, 1]; None where the last frame is none before this one.

        Raises:
            ValueError: The batch holds several frames.
        """
        check_one_frame(shape)
        if self.boxes is None or shape != self.shape:
            return None
        time = sample.metainfo.get('timestamp')
        if None not in (time, self.time) and not 0 <= time - self.time <= MAX_GAP:
            return None
        return torch.stack([cover(boxes, grid, side) for boxes in self.boxes]).to(device)


def check_one_frame(shape: Tuple[int, ...]) -> None:
    if shape[0] != 1:
        raise ValueError(f"importance 'boxes' goes by the frame before, so a batch must hold one "
                         f'frame, not {shape[0]}')


def cover(boxes: Tensor, grid: Tuple[int, int], side: int) -> Tensor:
    """How much of each token of a map lies within a box: that which covers it most counts.

    Args:
        boxes: (M, 4), left, top, right and bottom in pixels.
        grid: Height and width of the map, in tokens.
        side: Of a token, in pixels.

    Returns:
        ``grid`` fp32 in [0, 1].
    """
    down, across = (_overlap(boxes[:, i], boxes[:, i + 2], tokens, side)
                    for i, tokens in ((1, grid[0]), (0, grid[1])))
    if not len(boxes):
        return boxes.new_zeros(grid)
    return (down[:, :, None] * across[:, None, :]).amax(0)


def _overlap(low: Tensor, high: Tensor, tokens: int, side: int) -> Tensor:
    """(M,) intervals in pixels -> (M, tokens): the share of each token's side within them."""
    first = side * torch.arange(tokens, dtype=low.dtype)
    return (torch.minimum(high[:, None], first + side)
            - torch.maximum(low[:, None], first)).clamp(min=0) / side


def boxes_in_images(sample, views: int) -> List[Tensor]:
    """Predicted boxes of a score of :data:`MIN_SCORE` or more in each view, (M, 4) fp32 on the CPU:
    left, top, right and bottom in pixels of the network's input. 3D boxes become the bounds of
    their corners; those not wholly in front of a camera are left out.

    Raises:
        ValueError: 3D boxes whose metadata do not hold the cameras.
    """
    meta = sample.metainfo
    found = getattr(sample, 'pred_instances_3d', None)
    if found is None or not hasattr(found, 'bboxes_3d'):
        found = sample.pred_instances
        boxes = found.bboxes[found.scores >= MIN_SCORE].detach().float().cpu()
        across, down = meta.get('scale_factor', (1., 1.))[:2]
        return [boxes * boxes.new_tensor([across, down, across, down])]
    missing = [key for key in CAMERA_KEYS if key not in meta]
    if missing:
        raise ValueError(f"importance 'boxes' projects boxes into the images: the packing step "
                         f'must keep {", ".join(missing)} in its meta_keys')
    corners = found.bboxes_3d[found.scores_3d >= MIN_SCORE].corners.detach().double().cpu()
    matrices = zip(*(torch.as_tensor(_stacked(meta[key])).double() for key in CAMERA_KEYS))
    return [_bounds(corners, augment @ intrinsics @ extrinsics[:3])
            for intrinsics, extrinsics, augment in matrices]


def _stacked(matrices: Sequence) -> Tensor:
    return torch.stack([torch.as_tensor(matrix) for matrix in matrices])


def _bounds(corners: Tensor, lidar2img: Tensor) -> Tensor:
    """(M, 8, 3) corners in metres and a (3, 4) projection -> (M', 4) fp32."""
    points = corners @ lidar2img[:, :3].T + lidar2img[:, 3]
    points = points[(points[..., 2] > NEAR).all(1)]
    pixels = points[..., :2] / points[..., 2:]
    return torch.cat([pixels.amin(1), pixels.amax(1)], dim=1).float()


def _has_boxes(sample) -> bool:
    return any(hasattr(getattr(sample, kind, None), key)
               for kind, key in (('pred_instances', 'bboxes'), ('pred_instances_3d', 'bboxes_3d')))
