from copy import deepcopy

import pytest
from mmengine.config import Config

from sparsevit_mm.search.identity import config_identity, file_identity

CONFIG = Config(dict(
    model=dict(type='A', width=3), val_dataloader=dict(batch_size=1, dataset=dict(ann_file='a')),
    val_evaluator=dict(type='CocoMetric'), custom_hooks=[dict(type='EMAHook')],
    optim_wrapper=dict(lr=1), work_dir='w'))


def changed(**options):
    cfg = deepcopy(CONFIG)
    cfg.merge_from_dict(options)
    before, after = config_identity(CONFIG), config_identity(cfg)
    assert list(before) == list(after)
    return {key for key in after if after[key] != before[key]}


@pytest.mark.parametrize('option, value, part', [
    ('model.width', 4, 'config, model'),
    ('val_dataloader.dataset.ann_file', 'b', 'config, val_dataloader'),
    ('val_evaluator.type', 'IoUMetric', 'config, val_evaluator'),
    ('custom_hooks.0.type', 'Other', 'config, other settings')])
def test_what_the_metric_depends_on_is_told_apart_by_name(option, value, part):
    assert changed(**{option: value}) == {part}


def test_training_and_place_do_not_matter():
    assert changed(**{'optim_wrapper.lr': 2, 'work_dir': 'v', 'train_cfg.max_epochs': 3}) == set()


def test_files_are_known_by_their_content(tmp_path):
    for name, content in ('a', b'1'), ('b', b'1'), ('c', b'2'):
        (tmp_path / name).write_bytes(content)
    a, b, c = (file_identity(str(tmp_path / name)) for name in 'abc')
    assert a == b != c
    assert file_identity('https://host/model.pth') == 'https://host/model.pth'
