import importlib

import pytest
import torch
from helpers import refused, run_tool
from mmengine.registry import MODELS, init_default_scope

from sparsevit_mm import get_sparse_backbone
from sparsevit_mm.config.reading import load_config

SHIPPED = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
NAME = 'mask-rcnn_swin-t-p4-w7_fpn_1x_coco_sparse.py'
FCOS3D = '''
_base_ = ['mmdet3d::fcos3d/fcos3d_r101-caffe-dcn_fpn_head-gn_8xb2-1x_nus-mono3d.py']
model = dict(
    backbone=dict(_delete_=True, type='mmdet.SwinTransformer', embed_dims=8,
                  num_heads=(1, 1, 2, 4)),
    neck=dict(in_channels=[8, 16, 32, 64]))
'''


def test_what_was_swapped_and_written_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = run_tool('swap_backbone', SHIPPED)
    assert outcome.code == 0, outcome.error
    assert outcome.output.splitlines() == [
        'model.backbone: SwinTransformer -> SparseSwinTransformer', f'wrote {NAME}']
    assert load_config(NAME).model.backbone.type == 'SparseSwinTransformer'
    again = run_tool(
        'swap_backbone', SHIPPED, '--overwrite', '--adapt', '--sparsity', '[.1,.2,.3,.4]')
    assert again.code == 0, again.error
    child = load_config(NAME)
    assert child.model.backbone.sparsity == [[.1] * 2, [.2] * 2, [.3] * 6, [.4] * 2]
    assert child.custom_hooks == [dict(type='SparsityAdaptationHook', distillation=1.)]


@pytest.mark.parametrize('settings', ['', "load_from = 'coco.pth'\n"])
def test_the_checkpoint_of_the_dense_model_is_asked_for(tmp_path, settings):
    (tmp_path / 'base.py').write_text(settings + "model = dict(a=dict(type='SwinTransformer'))")
    outcome = run_tool('swap_backbone', tmp_path / 'base.py', '-o', tmp_path / 'new.py', '--adapt')
    assert 'set load_from to its checkpoint' in outcome.output
    assert ('coco.pth now' in outcome.output) == bool(settings)


def test_several_backbones_are_told_of(tmp_path):
    swin = dict(type='SwinTransformer')
    (tmp_path / 'base.py').write_text(f'model = dict(a={swin}, b=[{swin}])')
    outcome = run_tool('swap_backbone', tmp_path / 'base.py', '-o', tmp_path / 'new.py')
    *swapped, warning, wrote = outcome.output.splitlines()
    assert swapped == ['model.a: SwinTransformer -> SparseSwinTransformer',
                       'model.b.0: SwinTransformer -> SparseSwinTransformer']
    assert warning.startswith('2 backbones: SparsityAdaptationHook, ')
    assert wrote == f'wrote {tmp_path}/new.py'


@pytest.mark.parametrize('config, options, named', [
    ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', [],
     '; its backbones: model.backbone (ResNet)'),
    (SHIPPED, ['--sparsity', '[.1,.2,.3]'], '3 entries; depths (2, 2, 6, 2)'),
    ('nowhere.py', [], 'nowhere.py'), (SHIPPED, [], '--overwrite')])
def test_refusals_are_one_line_and_write_nothing(config, options, named, tmp_path):
    out = tmp_path / 'new.py'
    if not options and config == SHIPPED:
        out.touch()
    message = refused('swap_backbone', config, '-o', out, *options)
    assert named in message and '\n' not in message
    assert not out.exists() or not out.read_text()


@pytest.mark.slow
@torch.no_grad()
def test_a_3d_detector_with_a_swin_is_swapped(tmp_path, randomise):
    (tmp_path / 'fcos3d_swin.py').write_text(FCOS3D)
    outcome = run_tool('swap_backbone', tmp_path / 'fcos3d_swin.py', '-o', tmp_path / 'new.py')
    assert outcome.code == 0, outcome.error
    importlib.import_module('mmdet3d.utils').register_all_modules(False)
    init_default_scope('mmdet3d')
    theirs, ours = (MODELS.build(load_config(str(tmp_path / name)).model).eval()
                    for name in ('fcos3d_swin.py', 'new.py'))
    ours.load_state_dict(randomise(theirs).state_dict(), strict=True)
    image = torch.randn(1, 3, 72, 100)
    dense = theirs.extract_feat(dict(imgs=image))
    for got, expected in zip(ours.extract_feat(dict(imgs=image)), dense):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    get_sparse_backbone(ours).sparsity = .5
    pruned = ours.extract_feat(dict(imgs=image))
    assert [a.shape for a in pruned] == [a.shape for a in dense]
    assert not torch.allclose(pruned[0], dense[0], atol=1e-3)
