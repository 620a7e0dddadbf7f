"""Scale-NMS (BEVDet, arXiv 2112.11790): NMS on boxes enlarged or shrunk by a factor per class.
In bird's eye view, two detections of the same pedestrian need not overlap."""
from typing import List, NamedTuple, Sequence, Tuple

import torch
from mmcv.ops import nms_rotated
from mmdet3d.models import layers
from torch import Tensor


class TaskNMS(NamedTuple):
    """NMS settings of one task.

    Attributes:
        nms_type: 'rotate' uses the IoU of the scaled boxes, 'circle' the distance of box centres.
        threshold: Maximum IoU with a higher-scored box; for 'circle', the *squared* distance in m²
            up to which a box is dropped, as in mmdet3d.
        factors: Scale factors of length and width, one per class of the task. Only for 'rotate'.
    """
    nms_type: str
    threshold: float
    factors: Tuple[float, ...]


def read_task_nms(test_cfg: dict, class_names: Sequence[Sequence[str]]) -> List[TaskNMS]:
    """Read the NMS settings of each task.

    Args:
        test_cfg: Holds lists with one entry per task: ``nms_type``; ``nms_thr``, the IoU;
            ``nms_rescale_factor``, one number or one per class; and, if any task uses 'circle',
            ``min_radius``, the squared distance.
        class_names: Class names of each task.

    Raises:
        ValueError: If a list does not have one entry per task or class, or a type is unknown.
    """
    tasks = [f'[{", ".join(names)}]' for names in class_names]

    def by_task(key: str) -> Sequence:
        values = test_cfg.get(key)
        if not isinstance(values, (list, tuple)) or len(values) != len(tasks):
            raise ValueError(f'test_cfg.{key} must be a list with one entry for each of the tasks '
                             f'{" ".join(tasks)}, got {values}')
        return values

    types, thresholds = by_task('nms_type'), list(by_task('nms_thr'))
    for i, (task, nms_type) in enumerate(zip(tasks, types)):
        if nms_type not in ('rotate', 'circle'):
            raise ValueError(f"test_cfg.nms_type of task {task} is {nms_type!r}, neither 'rotate' "
                             "nor 'circle'")
        if nms_type == 'circle':
            thresholds[i] = by_task('min_radius')[i]
    settings = []
    for task, names, *values, factors in zip(tasks, class_names, types, thresholds,
                                             by_task('nms_rescale_factor')):
        if not isinstance(factors, (list, tuple)):
            factors = [factors] * len(names)
        if len(factors) != len(names):
            raise ValueError(f'test_cfg.nms_rescale_factor of task {task} must be one number or '
                             f'one per class, got {factors}')
        settings.append(TaskNMS(*values, tuple(factors)))
    return settings


def scale_nms(boxes: Tensor, scores: Tensor, labels: Tensor, nms: TaskNMS, pre_max_size: int,
              post_max_size: int) -> Tensor:
    """Apply NMS to the boxes of a task, across all of its classes.

    Args:
        boxes: (N, 7 or more): x, y, z, length, width, height, yaw.
        scores: (N,).
        labels: (N,) int64, class within the task.
        nms: Settings of the task.
        pre_max_size: Number of highest-scored boxes to consider.
        post_max_size: Maximum number of boxes to keep.

    Returns:
        Indices of the kept boxes, (K,) int64, in descending order of score.
    """
    order = scores.argsort(descending=True)[:pre_max_size]
    if not len(order):
        return order
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    if nms.nms_type == 'circle':
        keep = circle_nms(boxes[:, :2], scores, nms.threshold)
    else:
        factors = boxes.new_tensor(nms.factors)[labels, None]
        sizes = boxes[:, 3:5] * factors
        keep = rotated_nms(torch.cat([boxes[:, :2], sizes, boxes[:, 6:7]], 1), scores,
                           nms.threshold)
    return order[keep[:post_max_size]]


def rotated_nms(bev: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Apply greedy NMS to rotated rectangles.

    Runs in float64: in float32 mmcv's intersection can be empty if edges of two boxes are within
    about 1e-5 m of each other.

    Args:
        bev: (N, 5) with N > 0: x, y, length, width, yaw; yaw in radians as in mmdet3d,
            counterclockwise from x to y.
        scores: (N,).
        iou_threshold: Maximum IoU with a higher-scored box; boxes above it are dropped.

    Returns:
        Indices of the kept boxes, (K,) int64, in descending order of score.
    """
    # mmcv calls this direction clockwise because its y axis points down.
    return nms_rotated(bev.double(), scores.double(), iou_threshold, clockwise=True)[1]


def circle_nms(centres: Tensor, scores: Tensor, squared_radius: float) -> Tensor:
    """Apply greedy NMS by distance to (N, 2) centres in metres with (N,) scores. Boxes within
    `squared_radius` (m²) of a higher-scored one are dropped. Return the indices of the kept boxes,
    (K,) int64, in descending order of score."""
    dets = torch.cat([centres, scores[:, None]], 1).detach().cpu().numpy()
    keep = layers.circle_nms(dets, squared_radius, len(dets))
    return torch.tensor(keep, dtype=torch.long, device=scores.device)
