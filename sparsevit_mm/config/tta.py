"""Test-time augmentation, as mmdet's and mmseg's test.py turn it on."""
from copy import deepcopy

from mmengine.config import Config

META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip',
             'flip_direction')


def use_tta(cfg: Config) -> None:
    """Puts the config's ``tta_model`` around its model and its ``tta_pipeline`` into the test data.
    A config of mmdet that has none gets flipping and NMS at 0.5, as there.

    Raises:
        ValueError: The config has none (names what is missing), or predicts masks, which mmdet
            can't merge.
    """
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    if cfg.get('default_scope') == 'mmdet':
        if cfg.model.get('roi_head', {}).get('mask_head'):
            raise ValueError('--tta: mmdet\'s DetTTAModel merges boxes, no masks')
        cfg.setdefault('tta_model', dict(type='DetTTAModel', tta_cfg=dict(
            nms=dict(type='nms', iou_threshold=.5), max_per_img=100)))
        flips = [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)]
        pack = dict(type='PackDetInputs', meta_keys=META_KEYS)
        cfg.setdefault('tta_pipeline', [
            *deepcopy(dataset.pipeline[:-1]), dict(type='TestTimeAug', transforms=[flips, [pack]])])
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise ValueError(f'--tta: the config has no {" and no ".join(missing)}')
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(deepcopy(cfg.tta_model), module=cfg.model)
