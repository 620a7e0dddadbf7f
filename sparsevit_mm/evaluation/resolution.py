"""The rival of sparsity: the dense model on smaller images (SparseViT sets 640, 576, 544 and 512
pixels of 672 beside its configurations)."""
import copy
from typing import Tuple

from mmengine.config import Config
from mmengine.utils import to_2tuple

from ..config.data import step_name

_MULTIPLE = 32  # of pixels: no stage of a backbone of stride 32 pads then


def at_scale(cfg: Config, factor: float) -> Tuple[Config, Tuple[int, int]]:
    """A config whose val pipeline makes images of another size.

    The evaluators of mmdet and mmseg score at the size of the original images, so the figures of
    all sizes compare.

    Args:
        cfg: Left alone. Its val pipeline must load, resize to a fixed scale (as bounds if
            `keep_ratio`) and pack, as those of mmdet and mmseg do.
        factor: By which each side changes; sides become multiples of 32 pixels, the nearest ones.

    Returns:
        The config; height and width that its pipeline resizes to. With `keep_ratio` these are
        the bounds of an image that is wider than high.

    Raises:
        ValueError: A factor that is not positive, or a pipeline that does more; names the step.
    """
    if not factor > 0:
        raise ValueError(f'images can not be made {factor} times as large')
    cfg = copy.deepcopy(cfg)
    dataset = cfg.val_dataloader.dataset
    if 'pipeline' not in dataset:
        raise ValueError(f'{dataset.get("type")} has no pipeline of its own to set another image '
                         f'size in')
    size = None
    for step in dataset.pipeline:
        name = step_name(step)
        if name == 'Resize' and step.get('scale') is not None and size is None:
            scale = tuple(max(1, round(side * factor / _MULTIPLE)) * _MULTIPLE
                          for side in to_2tuple(step['scale']))
            step['scale'] = scale
            size = (min(scale), max(scale)) if step.get('keep_ratio') else scale[::-1]
        elif name == 'ImageAugmentation':
            raise ValueError('the size of the val images is set by ImageAugmentation, and '
                             'BEVDet\'s view transformer is made for it: no other size is tried')
        elif not name.startswith(('Load', 'Pack')):
            raise ValueError(f'the val pipeline has a step {dict(step)}: images of another size '
                             'are made only by one Resize of fixed scale between loading and '
                             'packing')
    if size is None:
        raise ValueError('the val pipeline has no Resize of fixed scale')
    return cfg, size
