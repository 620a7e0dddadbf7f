"""Input images of another size: a choice of the search beside sparsity, and its baseline.

SparseViT compares its configurations with the dense model at 640, 576, 544 and 512 of 672 pixels.
"""
import copy
from typing import Sequence, Tuple

from mmengine.config import Config, ConfigDict
from mmengine.utils import to_2tuple

from .data import step_name

_MULTIPLE = 32  # pixels; no stage of a backbone of stride 32 pads then


def at_scale(cfg: Config, factor: float,
             splits: Sequence[str] = ('val', )) -> Tuple[Config, Tuple[int, int]]:
    """Return a config whose pipelines make images of another size.

    The evaluators of mmdet and mmseg score at the size of the original images, so that metrics at
    all sizes are comparable.

    Args:
        cfg: Config; not modified. Its pipelines must load, resize to a fixed scale (as bounds if
            `keep_ratio`) and pack, as those of mmdet and mmseg do.
        factor: Factor of each side. Sides are rounded to multiples of 32 pixels.
        splits: Data splits whose pipelines to change, such as 'val' and 'test'.

    Returns:
        tuple: The config, and the (height, width) that its pipelines resize to. With `keep_ratio`
        these are the bounds of an image that is wider than high.

    Raises:
        ValueError: If the factor is not positive, a pipeline has another step (the message names
            it) or no resize, or the sizes of the splits differ.
    """
    if not factor > 0:
        raise ValueError(f'image scale {factor} is not positive')
    cfg = copy.deepcopy(cfg)
    sizes = {split: _scale(cfg[f'{split}_dataloader'].dataset, factor, split) for split in splits}
    if len({*sizes.values()}) > 1:
        raise ValueError(f'the pipelines make images of different sizes: {sizes}')
    return cfg, next(iter(sizes.values()))


def _scale(dataset: ConfigDict, factor: float, split: str) -> Tuple[int, int]:
    """Change the pipeline of a dataset in place, and return the (height, width) it resizes to."""
    if 'pipeline' not in dataset:
        raise ValueError(f'{dataset.get("type")} has no pipeline in which to set another image '
                         f'size')
    size = None
    for step in dataset.pipeline:
        name = step_name(step)
        if name == 'Resize' and step.get('scale') is not None and size is None:
            scale = tuple(max(1, round(side * factor / _MULTIPLE)) * _MULTIPLE
                          for side in to_2tuple(step['scale']))
            step['scale'] = scale
            size = (min(scale), max(scale)) if step.get('keep_ratio') else scale[::-1]
        elif name == 'ImageAugmentation':
            raise ValueError(f'the size of the {split} images is set by ImageAugmentation, and '
                             'BEVDet\'s view transformer is made for it: the size cannot change')
        elif not name.startswith(('Load', 'Pack')):
            raise ValueError(f'the {split} pipeline has a step {dict(step)}: the image size '
                             'can only change if there is just one Resize of fixed scale '
                             'between loading and packing')
    if size is None:
        raise ValueError(f'the {split} pipeline has no Resize of fixed scale')
    return size
