import os
import re

import pytest
from mmengine.config import Config

from sparsevit_mm.config.export import check_exportable, export_config
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.sparsity import SparsityConfig

RATIOS = [[.3, .3], [0, 0], [.1, .1, .2, .2, .4, .5], [.8, .8]]
SPARSITY = SparsityConfig(RATIOS, (2, 2, 6, 2))
COCO = 'configs/mask_rcnn_sparsevit.py'
OTHER = '''
model = dict(type='Any', backbone=dict(type='SparseSwinTransformer', depths={depths}))
train_dataloader = dict(dataset=dict(type='RepeatDataset', dataset=dict({dataset})))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=100)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, weight_decay=.1))
param_scheduler = [dict(type='PolyLR', begin=0, end=100)]
custom_hooks = [dict(type='EMAHook', momentum=.1), dict(type='SparsityAdaptationHook', seed=4),
                dict(type='NumClassCheckHook')]
'''


@pytest.fixture
def other(tmp_path):
    """Path of a config that is not COCO's."""
    path = tmp_path / 'configs' / 'other.py'
    path.parent.mkdir()
    path.write_text(OTHER.format(depths=(2, 2, 6, 2), dataset="type='CityscapesDataset'"))
    return str(path)


def exported(config, out, options=None, checkpoint='/data/adapted.pth', comments=(), scope=None):
    cfg = load_config(config, options)
    export_config(cfg, config, options, SPARSITY, checkpoint, out, comments, scope)
    return Config.fromfile(out)


def differences(child, base, keys=()):
    """Dotted paths at which two configs differ."""
    if isinstance(child, dict) and isinstance(base, dict):
        return {path for key in {*child, *base}
                for path in differences(child.get(key), base.get(key), (*keys, key))}
    return set() if child == base else {'.'.join(keys)}


def test_child_differs_in_sparsity_checkpoint_schedule_and_hook_alone(other, tmp_path):
    child, base = exported(other, tmp_path / 'winner.py'), Config.fromfile(other)
    assert child.model.backbone.sparsity == RATIOS
    assert child.load_from == '/data/adapted.pth'
    assert child.optim_wrapper.optimizer.lr == pytest.approx(2e-4)
    assert child.custom_hooks == [base.custom_hooks[0], base.custom_hooks[2]]
    assert differences(child.to_dict(), base.to_dict()) == {
        'model.backbone.sparsity', 'load_from', 'optim_wrapper.optimizer.lr', 'custom_hooks'}


def test_a_scope_goes_along_with_the_ratios(tmp_path):
    child = exported(COCO, tmp_path / 'winner.py', scope='group')
    assert child.model.backbone.scope == 'group' and child.model.backbone.sparsity == RATIOS


def test_coco_gets_the_published_schedule(tmp_path):
    child, base = exported(COCO, tmp_path / 'winner.py'), Config.fromfile(COCO)
    assert child.train_cfg.max_epochs == 36 and child.optim_wrapper.optimizer.lr == 1e-5
    assert child.optim_wrapper.optimizer.weight_decay == .05
    steps = [s for s in child.param_scheduler if s.type == 'MultiStepLR']
    assert [s.milestones for s in steps] == [[27, 33]] and steps[0].end == 36
    assert child.custom_hooks == []
    assert {path.split('.')[0] for path in differences(child.to_dict(), base.to_dict())} == {
        'model', 'load_from', 'custom_hooks', 'train_cfg', 'param_scheduler'}


@pytest.mark.parametrize('dataset, loop, published', [
    ("type='CocoDataset'", 'EpochBasedTrainLoop', True),
    ("type='mmdet.CocoDataset'", 'EpochBasedTrainLoop', True),
    ("type='CocoDataset'", 'IterBasedTrainLoop', False),
    ("type='CocoDataset', metainfo=dict(classes=('a', 'b'))", 'EpochBasedTrainLoop', False)])
def test_published_schedule_is_for_all_of_coco_by_epoch(other, tmp_path, dataset, loop, published):
    text = OTHER.format(depths=(2, 2, 6, 2), dataset=dataset)
    if loop.startswith('Epoch'):
        text = text.replace("'IterBasedTrainLoop', max_iters", f"'{loop}', max_epochs")
    with open(other, 'w') as file:
        file.write(text)
    child = exported(other, tmp_path / 'winner.py')
    assert (child.optim_wrapper.optimizer.lr == 1e-5) == published
    assert (child.train_cfg.get('max_epochs') == 36) == published
    assert child.train_cfg.type == loop


@pytest.mark.parametrize('config, expected', [
    ('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py',
     '_base_ = ["mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py"]'),
    (COCO, None)])
def test_base_is_found_from_any_directory(config, expected, tmp_path):
    out = tmp_path / 'far' / 'away' / 'winner.py'
    options = {'model.backbone.type': 'SparseSwinTransformer'}
    assert exported(config, out, options).model.backbone.sparsity == RATIOS
    base = re.search(r'^_base_ = .*', out.read_text(), re.MULTILINE).group()
    if expected:
        assert base.replace("'", '"') == expected
    assert os.listdir(out.parent) == ['winner.py']


def test_relative_paths_mean_the_same_from_the_directory_of_the_child(
        other, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    child = exported('configs/other.py', tmp_path / 'out' / 'winner.py', checkpoint='a/b.pth')
    assert child.load_from == f'{tmp_path}/a/b.pth'
    assert child.model.type == 'Any'
    monkeypatch.chdir('/')
    assert Config.fromfile(tmp_path / 'out' / 'winner.py').model.type == 'Any'


def test_address_of_a_checkpoint_stays_an_address(other, tmp_path):
    url = 'https://example.org/swin.pth'
    assert exported(other, tmp_path / 'winner.py', checkpoint=url).load_from == url


@pytest.mark.parametrize('options', [
    {'custom_hooks.0.momentum': .5},
    {'param_scheduler.0.end': 50, 'train_cfg.max_iters': 50},
    {'train_dataloader.dataset.dataset.type': 'ADE20KDataset', 'new.deep.key': [1, {'a': 2}]},
    {'model.backbone': dict(type='SparseSwinTransformer', depths=(2, 2, 6, 2), with_cp=True)},
    {'optim_wrapper.optimizer.lr': 1e-2, 'work_dir': 'some/where'}])
def test_options_of_the_search_are_carried(other, tmp_path, options):
    child = exported(other, tmp_path / 'winner.py', options)
    searched = load_config(other, options)
    assert differences(child.to_dict(), searched.to_dict()) == {
        'model.backbone.sparsity', 'load_from', 'optim_wrapper.optimizer.lr', 'custom_hooks'}
    assert child.custom_hooks == [searched.custom_hooks[0], searched.custom_hooks[2]]
    assert child.optim_wrapper.optimizer.lr == pytest.approx(
        searched.optim_wrapper.optimizer.lr / 10)


def test_comments_stand_at_the_top_and_change_nothing(other, tmp_path):
    comments = ['found by a search', "mAP 0.3 at 12.5 ms, 'quoted' # and {braces}"]
    child = exported(other, tmp_path / 'a.py', comments=comments)
    assert (tmp_path / 'a.py').read_text().splitlines()[:2] == [f'# {c}' for c in comments]
    assert child.to_dict() == exported(other, tmp_path / 'b.py').to_dict()


def test_existing_file_is_refused_without_overwrite(tmp_path):
    out = tmp_path / 'winner.py'
    check_exportable(COCO, out, overwrite=False)
    out.touch()
    with pytest.raises(FileExistsError, match=f'{out}.*--overwrite'):
        check_exportable(COCO, out, overwrite=False)
    check_exportable(COCO, out, overwrite=True)


def test_new_style_config_is_refused(tmp_path):
    config = tmp_path / 'lazy.py'
    config.write_text('from mmengine.config import read_base\nwith read_base():\n    pass\n')
    with pytest.raises(ValueError, match=f'{config}.*read_base'):
        check_exportable(str(config), tmp_path / 'winner.py', overwrite=False)


def test_failed_export_leaves_what_was_there(other, tmp_path, monkeypatch):
    out = tmp_path / 'winner.py'
    exported(other, out, comments=['first'])
    before = out.read_text()

    def fail(self):
        raise OSError('disk full')

    monkeypatch.setattr(Config, 'pretty_text', property(fail))
    with pytest.raises(OSError):
        exported(other, out, comments=['second'])
    assert out.read_text() == before


def test_a_config_without_a_training_part_gets_no_schedule(tmp_path):
    """As a deployment's: it is searched to the end, and the winner must be written."""
    path = tmp_path / 'deploy.py'
    path.write_text("model = dict(backbone=dict(type='SparseSwinTransformer'))")
    child = exported(str(path), tmp_path / 'winner.py')
    assert child.model.backbone.sparsity == RATIOS and 'optim_wrapper' not in child
    assert '# no schedule: the config has no training part' in (tmp_path / 'winner.py').read_text()
