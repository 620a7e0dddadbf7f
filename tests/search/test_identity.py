from copy import deepcopy

import pytest
from mmengine.config import Config

from sparsevit_mm.search.identity import config_identity, differences, file_identity

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


@pytest.mark.parametrize('options', [
    {'optim_wrapper.lr': 2, 'work_dir': 'v', 'train_cfg.max_epochs': 3},
    {'default_hooks.logger.interval': 5, 'log_level': 'ERROR', 'vis_backends': []},
    {'val_dataloader.num_workers': 8, 'val_dataloader.persistent_workers': True},
    {'env_cfg.cudnn_benchmark': True}, {'model.init_cfg': dict(type='Pretrained')},
    {'test_dataloader.batch_size': 4}])
def test_training_place_and_speed_do_not_matter(options):
    assert changed(**options) == set()


def test_data_may_move_but_not_change(tmp_path):
    def at(folder, content='{}'):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / 'val.json').write_text(content)
        root = f'{tmp_path}/{folder}/'
        return config_identity(Config(dict(
            model=dict(type='A'), val_evaluator=dict(ann_file=f'{root}val.json'),
            val_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dict(
                data_root=root, ann_file='val.json', data_prefix=dict(img='val/')))))))

    assert at('here') == at('there')
    assert {key for key, value in at('here', '[]').items() if value != at('there')[key]} == {
        'config, val_dataloader', 'config, val_evaluator'}


def test_differences_are_shown_line_by_line():
    cfg = deepcopy(CONFIG)
    cfg.model.width = 4
    lines = differences({**config_identity(CONFIG), 'seed': 0},
                        {**config_identity(cfg), 'seed': 1})
    assert lines == ['config, model (- in the study, + now):', '  - "width": 3', '  + "width": 4',
                     'seed: 0 in the study, 1 now']


def test_files_are_known_by_their_content(tmp_path):
    for name, content in ('a', b'1'), ('b', b'1'), ('c', b'2'):
        (tmp_path / name).write_bytes(content)
    a, b, c = (file_identity(str(tmp_path / name)) for name in 'abc')
    assert a == b != c
    assert file_identity('https://host/model.pth') == 'https://host/model.pth'
