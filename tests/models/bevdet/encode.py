"""A head with the published settings on narrow features, and outputs of it that state the truth."""
from pathlib import Path
from typing import Dict, List, Tuple

import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor

import sparsevit_mm.models.bevdet  # noqa: F401

BASE = Path(__file__).parents[3] / 'configs' / '_base_' / 'bevdet.py'
CHANNELS = 8
META = dict(box_type_3d=LiDARInstance3DBoxes)


def head_config(**changes) -> Config:
    """The head of the configs; a dict among `changes` is merged into what is there."""
    config = Config(Config.fromfile(BASE).model.pts_bbox_head)
    config.merge_from_dict(dict(in_channels=CHANNELS, share_conv_channel=CHANNELS, **changes))
    return config


def make_head(**changes):
    init_default_scope('mmdet3d')
    return MODELS.build(head_config(**changes)._cfg_dict).eval()


def instances(boxes, labels) -> InstanceData:
    """Ground truth of a sample.

    Args:
        boxes: N times x, y, z of the centre of gravity, length, width, height, yaw, vx, vy.
        labels: N classes, in the order of the tasks.
    """
    boxes = LiDARInstance3DBoxes(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 9), 9,
                                 origin=(.5, .5, .5))
    return InstanceData(bboxes_3d=boxes, labels_3d=torch.as_tensor(labels, dtype=torch.long))


def encode(targets: Tuple[List[Tensor], ...], logit: float = 10.) -> Tuple[List[Dict], ...]:
    """Targets to the outputs from which they are decoded.

    Args:
        targets: What ``head.get_targets`` gives.
        logit: Of the heatmap where there is a centre; its negative elsewhere. Where two boxes of
            a task have their centres in one cell, the last one is stated.

    Returns:
        What ``head.forward`` gives.
    """
    outputs = []
    for heatmap, boxes, cells, masks in zip(*targets):
        maps = boxes.new_zeros(len(boxes), heatmap.shape[2] * heatmap.shape[3], boxes.shape[2])
        for sample, box, cell, mask in zip(maps, boxes, cells, masks.bool()):
            for i in mask.nonzero()[:, 0].tolist():
                sample[cell[i]] = box[i]
        maps = maps.transpose(1, 2).unflatten(2, heatmap.shape[2:])
        reg, height, dim, rot, vel = maps.split([2, 1, 3, 2, 2], dim=1)
        outputs.append([dict(heatmap=torch.where(heatmap == 1, logit, -logit), reg=reg,
                             height=height, dim=dim, rot=rot, vel=vel)])
    return tuple(outputs)
