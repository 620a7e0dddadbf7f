"""Schedules derived from a model's training schedule: for its adaptation, and for fine-tuning the
winner of a search.
"""
from copy import deepcopy
from typing import Any, Dict, List, Optional

from .reading import is_type

SHORTER, SLOWER = 3, 10  # a third of the training, at a tenth of the learning rate
ADAM = 'AdamW', 'Adam'
LENGTHS = 'max_epochs', 'max_iters'
WARM_UPS = 'LinearLR', 'ConstantLR'


def adaptation_schedule(cfg: Dict) -> Dict[str, Any]:
    """Return the top-level settings that turn a training config into one of adaptation.

    Adaptation takes a third of the epochs or iterations at a tenth of the learning rate, as
    published (SparseViT, section 3.2: 12 of 36 epochs). Warm-ups keep their length. Settings that
    the config does not have are left out.
    """
    new: Dict[str, Any] = {}
    train_cfg = deepcopy(cfg.get('train_cfg') or {})
    for key in LENGTHS:
        if train_cfg.get(key):
            train_cfg[key] = _shorter(train_cfg[key])
            if train_cfg.get('val_interval', 0) > train_cfg[key]:
                train_cfg['val_interval'] = train_cfg[key]
            if train_cfg.get('val_begin', 1) > 1:
                train_cfg['val_begin'] = _shorter(train_cfg['val_begin'])
            if train_cfg.get('dynamic_intervals'):
                train_cfg['dynamic_intervals'] = [
                    (_shorter(begin), interval)
                    for begin, interval in train_cfg['dynamic_intervals']]
            new['train_cfg'] = train_cfg
    wrapper = deepcopy(cfg.get('optim_wrapper') or {})
    if _rate(cfg) is not None:
        wrapper['optimizer']['lr'] = _rate(cfg) / SLOWER
        new['optim_wrapper'] = wrapper
    schedulers = _schedulers(cfg)
    if schedulers and new:
        warm = max((s.get('end', 0) for s in schedulers if _is_warm_up(s)), default=0)
        new['param_scheduler'] = [_shortened(s, warm) for s in schedulers]
    return new


def finetune_schedule(cfg: Dict) -> Dict[str, Any]:
    """Return settings for fine-tuning, to be merged into the config.

    On COCO, these are the published 36 epochs with steps at 27 and 33, at learning rate 1e-5 under
    AdamW or Adam, else at a tenth of the config's rate. On other data, or if training is not
    counted in epochs, the config keeps its schedule at a tenth of its learning rate. A config
    without a training part gets no settings.
    """
    if not cfg.get('train_dataloader') or not cfg.get('train_cfg') or _rate(cfg) is None:
        return {}
    slower = dict(optim_wrapper=dict(optimizer=dict(lr=_rate(cfg) / SLOWER)))
    if not (_is_coco(cfg) and 'max_epochs' in cfg['train_cfg']):
        if any(s.get('eta_min') for s in _schedulers(cfg)):
            slower['param_scheduler'] = [_slower(deepcopy(s)) for s in _schedulers(cfg)]
        return slower
    adam = any(is_type(cfg['optim_wrapper']['optimizer'], name) for name in ADAM)
    return dict(
        slower if not adam else dict(optim_wrapper=dict(optimizer=dict(lr=1e-5))),
        train_cfg=dict(max_epochs=36),
        param_scheduler=[
            dict(type='LinearLR', start_factor=.001, by_epoch=False, begin=0, end=1000),
            dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[27, 33],
                 gamma=.1)
        ])


def _rate(cfg: Dict) -> Optional[float]:
    return ((cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('lr')


def _shorter(length: int) -> int:
    return max(1, round(length / SHORTER))


def _is_warm_up(scheduler: Dict) -> bool:
    return any(is_type(scheduler, name) for name in WARM_UPS)


def _shortened(scheduler: Dict, warm: int) -> Dict:
    """Return a shorter scheduler. A `begin` within the warm-up or at its end stays as it is."""
    new = deepcopy(scheduler)
    if _is_warm_up(scheduler):
        return new
    for key in ('begin', 'end', 'T_max', 'total_iters', 'total_steps', 'step_size'):
        if new.get(key) and not (key == 'begin' and new[key] <= warm):
            new[key] = _shorter(new[key])
    if new.get('milestones'):
        new['milestones'] = _distinct([_shorter(m) for m in new['milestones']])
    return _slower(new)


def _slower(scheduler: Dict) -> Dict:
    """Return a scheduler with a tenth of its lowest rate, if that is set."""
    if not scheduler.get('eta_min'):
        return scheduler
    return {**scheduler, 'eta_min': scheduler['eta_min'] / SLOWER}


def _schedulers(cfg: Dict) -> List[Dict]:
    schedulers = cfg.get('param_scheduler') or []
    return list(schedulers) if isinstance(schedulers, (list, tuple)) else [schedulers]


def _distinct(milestones: List[int]) -> List[int]:
    return list(dict.fromkeys(milestones))


def _is_coco(cfg: Dict) -> bool:
    """Whether training uses COCO itself: a CocoDataset with its 80 classes."""
    dataset = cfg['train_dataloader']['dataset']
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return is_type(dataset, 'CocoDataset') and 'classes' not in dataset.get('metainfo', {})
