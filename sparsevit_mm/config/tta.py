"""Test-time augmentation, set up as in the test.py of mmdet and mmseg."""
from copy import deepcopy

from mmengine.config import Config

from .data import leaves
from .reading import is_type

META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip',
             'flip_direction')


def use_tta(cfg: Config) -> None:
    """Wrap the model in the config's ``tta_model``, and use its ``tta_pipeline`` for the test data.

    An mmdet config without them gets flipping and NMS at IoU 0.5, as in mmdet.

    Raises:
        ValueError: If the config has none (the message names what is missing), or the model
            predicts masks, which mmdet cannot merge.
    """
    datasets = list(leaves(cfg.test_dataloader.dataset))
    if cfg.get('default_scope') == 'mmdet':
        cfg.setdefault('tta_model', dict(type='DetTTAModel', tta_cfg=dict(
            nms=dict(type='nms', iou_threshold=.5), max_per_img=100)))
        masks = (cfg.model.get('roi_head') or {}).get('mask_head')
        if masks and is_type(cfg.tta_model, 'DetTTAModel'):
            raise ValueError('--tta: mmdet\'s DetTTAModel merges boxes, but not masks')
        flips = [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)]
        pack = dict(type='PackDetInputs', meta_keys=META_KEYS)
        cfg.setdefault('tta_pipeline', [
            *deepcopy(datasets[0].pipeline[:-1]),
            dict(type='TestTimeAug', transforms=[flips, [pack]])])
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise ValueError(f'--tta: the config has no {" and no ".join(missing)}')
    for dataset in datasets:
        dataset.pipeline = deepcopy(cfg.tta_pipeline)
    cfg.model = dict(deepcopy(cfg.tta_model), module=cfg.model)
