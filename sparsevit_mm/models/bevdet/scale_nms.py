"""Scale-NMS (BEVDet, arXiv 2112.11790): boxes are enlarged or shrunk, by class, before their
overlap is measured, since two detections of one pedestrian seen from above need not touch."""
from typing import List, NamedTuple, Sequence, Tuple

import torch
from mmcv.ops import nms_rotated
from mmdet3d.models import layers
from torch import Tensor


class TaskNMS(NamedTuple):
    """How the detections of one task are thinned out.

    Attributes:
        nms_type: 'rotate', by the overlap of the scaled boxes, or 'circle', by the distance of
            their centres.
        threshold: What a box may share with a better one: an IoU; of 'circle' the *squared*
            distance in m² up to which it is dropped, as in mmdet3d.
        factors: What length and width are multiplied with, one for each class of the task.
    """
    nms_type: str
    threshold: float
    factors: Tuple[float, ...]


def read_task_nms(test_cfg: dict, class_names: Sequence[Sequence[str]]) -> List[TaskNMS]:
    """The settings of each task.

    Args:
        test_cfg: Lists with an entry for each task: ``nms_type``; ``nms_thr``, the IoU;
            ``nms_rescale_factor``, a number or one for each class; where a task is of type
            'circle', ``min_radius``, the squared distance.
        class_names: Of each task.

    Raises:
        ValueError: A list without exactly one entry for each task, or class, or an unknown type.
    """
    tasks = [f'[{", ".join(names)}]' for names in class_names]

    def by_task(key: str) -> Sequence:
        values = test_cfg.get(key)
        if not isinstance(values, (list, tuple)) or len(values) != len(tasks):
            raise ValueError(f'test_cfg.{key} must be a list with an entry for each of the tasks '
                             f'{" ".join(tasks)}; it is {values}')
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
            raise ValueError(f'test_cfg.nms_rescale_factor of task {task} must be a number or one '
                             f'for each class; it is {factors}')
        settings.append(TaskNMS(*values, tuple(factors)))
    return settings


def scale_nms(boxes: Tensor, scores: Tensor, labels: Tensor, nms: TaskNMS, pre_max_size: int,
              post_max_size: int) -> Tensor:
    """Which boxes of a task stay. A box competes with those of all classes of its task.

    Args:
        boxes: (N, 7 or more), x, y, z, length, width, height, yaw.
        scores: (N,).
        labels: (N,) int64, the class within the task.
        nms: The task's settings.
        pre_max_size: How many boxes, by score, are looked at.
        post_max_size: How many boxes may stay.

    Returns:
        (K,) int64 indices, the best score first.
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
    """Greedy NMS of rotated rectangles.

    In float64: where edges of two boxes lie within some 1e-5 m of each other, mmcv's intersection
    can come out empty in float32.

    Args:
        bev: (N, 5), x, y, length, width, yaw, N > 0; yaw as in mmdet3d, counterclockwise from x
            to y, in radians.
        scores: (N,).
        iou_threshold: A box with a higher IoU with a better one is dropped.

    Returns:
        (K,) int64 indices, the best score first.
    """
    # mmcv calls this sense clockwise, since its y axis points down.
    return nms_rotated(bev.double(), scores.double(), iou_threshold, clockwise=True)[1]


def circle_nms(centres: Tensor, scores: Tensor, squared_radius: float) -> Tensor:
    """Greedy NMS by distance: (N, 2) in metres, (N,) and m² -> (K,) int64, best score first."""
    dets = torch.cat([centres, scores[:, None]], 1).detach().cpu().numpy()
    keep = layers.circle_nms(dets, squared_radius, len(dets))
    return torch.tensor(keep, dtype=torch.long, device=scores.device)
