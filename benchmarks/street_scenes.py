"""Street scenes in the layout of Cityscapes, kept in memory, and their mIoU with intervals over
blocks of frames."""
import json
from pathlib import Path
from typing import Dict, NamedTuple, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmseg.evaluation import IoUMetric
from torch import Tensor, nn

from sparsevit_mm.evaluation.bootstrap import Areas, Resampler
from sparsevit_mm.evaluation.intervals import Resampled

IGNORED, BLOCK = 255, 5  # ignored label; consecutive frames that a resample draws together
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Split(NamedTuple):
    """Normalised images (N, 3, H, W), and labels (N, h, w) int64 at the size of the files."""
    images: Tensor
    labels: Tensor


def read_split(data: Path, part: str, size: Sequence[int]) -> Split:
    """Read a split at an image size of (H, W); raise a FileNotFoundError if it has no images."""
    files = sorted((data / 'leftImg8bit' / part).rglob('*_leftImg8bit.png'))
    if not files:
        raise FileNotFoundError(f'{data} contains no images of {part} in the layout of Cityscapes')
    images = np.stack([cv2.resize(cv2.imread(str(f)), (size[1], size[0]),
                                  interpolation=cv2.INTER_AREA)[..., ::-1] for f in files])
    labels = [cv2.imread(str(f).replace('leftImg8bit/', 'gtFine/').replace(
        '_leftImg8bit', '_gtFine_labelTrainIds'), cv2.IMREAD_GRAYSCALE) for f in files]
    images = (images.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
                 torch.from_numpy(np.stack(labels)).long())


def both_ways(split: Split) -> Split:
    """Return the split followed by its horizontal flip."""
    return Split(*(torch.cat([x, x.flip(-1)]) for x in split))


def small_labels(split: Split) -> Tensor:
    """Resize the labels to the size of the images, (N, H, W), for training."""
    return F.interpolate(split.labels[:, None].float(), size=split.images.shape[2:],
                         mode='nearest-exact')[:, 0].long()


def upsampled(logits: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(logits, size=tuple(size), mode='bilinear', align_corners=False)


@torch.no_grad()
def areas_of(model: nn.Module, split: Split, classes: int) -> np.ndarray:
    """Return intersection and union of each image and class in pixels, (2, N, classes)."""
    areas = [IoUMetric.intersect_and_union(
        upsampled(model(image[None]), truth.shape).argmax(1)[0], truth, classes, IGNORED)[:2]
        for image, truth in zip(split.images, split.labels)]
    return np.stack([torch.stack(kind).numpy() for kind in zip(*areas)])


def figures(result: Path) -> Dict[str, Resampled]:
    """Return the mIoU by keep ratio, mean over draws; images must be in the order of the video."""
    return {keep: Resampled.mean([_mean_iou(np.array(areas)) for areas in draws])
            for keep, draws in json.loads(result.read_text()).items()}


def _mean_iou(areas: np.ndarray) -> Resampled:
    return Resampler(lambda: Areas(areas, None, None), Areas.mean_iou)(block=BLOCK)
