import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config

from sparsevit_mm.config.reading import (find_backbone, is_type, load_config, nested, set_sparsity,
                                         without_adaptation)

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
    ({}, ['0 sparse backbones', 'none']),
    (dict(backbone=dict(type='ResNet')), ['0 sparse backbones', 'model.backbone (ResNet)']),
    (dict(detector=dict(img_backbone=dict(type='mmdet.SwinTransformer'))),
     ['0 sparse backbones', 'model.detector.img_backbone (mmdet.SwinTransformer)']),
    (dict(teacher=dict(backbone=SPARSE), student=dict(backbone=SPARSE)),
     ['2 sparse backbones', 'model.teacher.backbone', 'model.student.backbone'])])
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
