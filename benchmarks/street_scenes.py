"""Street scenes in the layout of Cityscapes, in memory; mIoU, and its intervals over blocks of
frames."""
import json
from pathlib import Path
from typing import Dict, NamedTuple, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit_mm.evaluation.bootstrap import Resampler
from sparsevit_mm.evaluation.intervals import Resampled

IGNORED, BLOCK = 255, 5  # label; consecutive frames that are drawn together
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Split(NamedTuple):
    """Images (N, 3, H, W), normalised, and labels (N, h, w) int64 as large as the files."""
    images: Tensor
    labels: Tensor


def read_split(data: Path, part: str, size: Sequence[int]) -> Split:
    """Raises FileNotFoundError where there are no images."""
    files = sorted((data / 'leftImg8bit' / part).rglob('*_leftImg8bit.png'))
    if not files:
        raise FileNotFoundError(f'{data} holds no images of {part} in the layout of Cityscapes')
    images = np.stack([cv2.resize(cv2.imread(str(f)), (size[1], size[0]),
                                  interpolation=cv2.INTER_AREA)[..., ::-1] for f in files])
    labels = [cv2.imread(str(f).replace('leftImg8bit/', 'gtFine/').replace(
        '_leftImg8bit', '_gtFine_labelTrainIds'), cv2.IMREAD_GRAYSCALE) for f in files]
    images = (images.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
                 torch.from_numpy(np.stack(labels)).long())


def both_ways(split: Split) -> Split:
    """The images, and after them the same flipped."""
    return Split(*(torch.cat([x, x.flip(-1)]) for x in split))


def small_labels(split: Split) -> Tensor:
    """(N, H, W), labels as large as the input, for training."""
    return F.interpolate(split.labels[:, None].float(), size=split.images.shape[2:],
                         mode='nearest-exact')[:, 0].long()


def upsampled(logits: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(logits, size=tuple(size), mode='bilinear', align_corners=False)


@torch.no_grad()
def areas_of(model: nn.Module, split: Split, classes: int) -> np.ndarray:
    """(2, N, classes) int: intersection and union of each image."""
    areas = []
    for image, truth in zip(split.images, split.labels):
        found = upsampled(model(image[None]), truth.shape).argmax(1)[0]
        valid = truth < classes
        counts = torch.bincount(truth[valid] * classes + found[valid], minlength=classes**2)
        counts = counts.view(classes, classes)
        hits = counts.diag()
        areas.append((hits, counts.sum(0) + counts.sum(1) - hits))
    return np.stack([np.stack([x.numpy() for x in kind]) for kind in zip(*areas)])


class Areas:
    """What a resampler asks of the images: they are in the order of the video."""
    frames, sequence = None, 'sequence'

    def __init__(self, areas: np.ndarray):
        self.areas, self.num_images = areas, areas.shape[1]

    def mean_iou(self, weights: np.ndarray) -> float:
        intersection, union = weights @ self.areas
        return 100 * float((intersection[union > 0] / union[union > 0]).mean())


def figures(result: Path) -> Dict[str, Resampled]:
    """mIoU of each keep ratio, the mean over draws."""
    return {keep: Resampled.mean([Resampler(lambda: Areas(np.array(areas)), Areas.mean_iou)(
        block=BLOCK) for areas in draws])
        for keep, draws in json.loads(result.read_text()).items()}
