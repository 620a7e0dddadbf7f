from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config

from sparsevit_mm.config import (check_data, find_backbone, is_type, load_config, nested,
                                 set_sparsity, without_adaptation)

SPARSE = dict(type='SparseSwinTransformer')
keys = st.lists(st.text('abcdef', min_size=1, max_size=3), max_size=4)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.py'):
        load_config(str(tmp_path / 'nowhere.py'))


def test_file_and_toolkit_path_are_read_with_options(tmp_path):
    (tmp_path / 'config.py').write_text("model = dict(backbone=dict(type='A'))")
    assert load_config(str(tmp_path / 'config.py')).model.backbone.type == 'A'
    path = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
    changed = load_config(path, {'model.backbone.type': 'SparseSwinTransformer'})
    assert load_config(path).model.backbone.type == 'SwinTransformer'
    assert changed.model.backbone.pop('type') == 'SparseSwinTransformer'
    assert changed.model.backbone.embed_dims == 96


@given(keys, st.booleans(), st.sampled_from(['', 'mmdet.', 'mmseg.']))
def test_backbone_is_found_at_any_depth(path, in_list, scope):
    node = dict(type=f'{scope}SparseSwinTransformer', depths=(2, 2))
    path = [*path, 'backbone']
    inner = [dict(type='Other'), nested(path, node)] if in_list else nested(path, node)
    cfg = Config(dict(model=dict(wrapped=inner, neck=dict(type='FPN'))))
    expected = ('model', 'wrapped', *(['1'] if in_list else []), *path)
    assert find_backbone(cfg) == expected
    set_sparsity(cfg, [[.3, .3], 0])
    found = cfg
    for key in expected:
        found = found[int(key)] if isinstance(found, list) else found[key]
    assert found.to_dict() == dict(node, sparsity=[[.3, .3], 0])
    assert cfg.model.neck == dict(type='FPN')


@pytest.mark.parametrize('model, named', [
    ({}, ['0 SparseSwin', 'none']),
    (dict(backbone=dict(type='ResNet')), ['0 SparseSwin', 'model.backbone (ResNet)']),
    (dict(detector=dict(img_backbone=dict(type='mmdet.SwinTransformer'))),
     ['0 SparseSwin', 'model.detector.img_backbone (mmdet.SwinTransformer)']),
    (dict(teacher=dict(backbone=SPARSE), student=dict(backbone=SPARSE)),
     ['2 SparseSwin', 'model.teacher.backbone', 'model.student.backbone'])])
def test_no_single_sparse_backbone_is_an_error_that_lists_backbones(model, named):
    cfg = Config(dict(model=model))
    for call in (lambda: find_backbone(cfg), lambda: set_sparsity(cfg, .5)):
        with pytest.raises(ValueError) as error:
            call()
        assert all(text in str(error.value) for text in named)


@given(st.lists(st.sampled_from([
    'EMAHook', 'SparsityAdaptationHook', 'mmdet.SparsityAdaptationHook', 'NumClassCheckHook',
    'MySparsityAdaptationHook'])))
def test_only_the_adaptation_hook_is_taken_out_and_order_is_kept(types):
    hooks = [dict(type=name, number=i) for i, name in enumerate(types)]
    left = without_adaptation(hooks)
    assert left == [h for h in hooks if h['type'].split('.')[-1] != 'SparsityAdaptationHook']
    assert without_adaptation(None) == []


def test_type_is_recognised_by_name_scoped_name_and_class():
    class CocoMetric:
        pass

    for kind in ('CocoMetric', 'mmdet.CocoMetric', CocoMetric):
        assert is_type(dict(type=kind), 'CocoMetric')
    for other in ('MyCocoMetric', 'CocoMetric.Other', None):
        assert not is_type(dict(type=other), 'CocoMetric')


@pytest.fixture
def data(tmp_path):
    """A config whose data are all there: a plain, a wrapped and a concatenated split."""
    def dataset(split):
        (tmp_path / split).mkdir()
        (tmp_path / f'{split}.json').touch()
        return dict(type='CocoDataset', data_root=str(tmp_path), ann_file=f'{split}.json',
                    data_prefix=dict(img=f'{split}/'))

    test = dataset('test')
    del test['data_root']
    return Config(dict(
        train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=dict(
            type='ConcatDataset', datasets=[dataset('train'), dataset('extra')]))),
        val_dataloader=dict(dataset=dataset('val')),
        val_evaluator=[dict(type='CocoMetric', ann_file=f'{tmp_path}/val.json')],
        test_dataloader=dict(dataset=dict(
            test, ann_file=f'{tmp_path}/test.json', data_prefix=f'{tmp_path}/test'))))


def test_data_that_are_there_pass(data):
    check_data(data, 'train', 'val', 'test')


@pytest.mark.parametrize('split, name', [
    (split, f'{file}{suffix}') for split, file in (
        ('train', 'train'), ('train', 'extra'), ('val', 'val'), ('test', 'test'))
    for suffix in ('', '.json')])
def test_missing_file_or_folder_is_named_with_its_split(data, tmp_path, split, name):
    path: Path = tmp_path / name
    path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError) as error:
        check_data(data, 'train', 'val', 'test')
    assert f'{split} {path}' in str(error.value)
    check_data(data, *({'train', 'val', 'test'} - {split}))


def test_every_missing_file_is_named_once(data, tmp_path):
    names = ['train.json', 'extra.json', 'val.json', 'test.json']
    for name in names:
        (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError) as error:
        check_data(data, 'train', 'val', 'val', 'test')
    for name in names:
        assert str(error.value).count(f' {tmp_path / name}') == (2 if name == 'val.json' else 1)
    assert f'val evaluator {tmp_path / "val.json"}' in str(error.value)


def test_remote_data_are_not_looked_for_on_this_disk(data, tmp_path):
    (tmp_path / 'val.json').unlink()
    data.val_dataloader.dataset.backend_args = dict(backend='petrel')
    data.val_evaluator[0].ann_file = None
    check_data(data, 'val')


def test_split_without_a_loader_is_an_error(data):
    data.pop('val_dataloader')
    with pytest.raises(ValueError, match='no val_dataloader'):
        check_data(data, 'train', 'val')
