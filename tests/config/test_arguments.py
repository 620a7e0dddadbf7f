import pytest
import torch

from sparsevit_mm import SparseSwinTransformer
from sparsevit_mm.config.arguments import check_swin, from_mmpretrain

TINY = dict(embed_dims=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], strides=[4, 2, 2, 2],
            patch_size=4, out_indices=[3])
NARROW = dict(embed_dims=16, depths=[2, 2, 2], num_heads=[2, 4, 8])
PRETRAINED = dict(type='Pretrained', checkpoint='a.pth')
# Arguments of mmpretrain's Swin that have a counterpart, and what they are here beyond TINY.
SAME = [
    ({}, {}),
    (dict(arch='T', drop_path_rate=.2, norm_eval=True, img_size=384), dict(drop_path_rate=.2)),
    (dict(arch='base', out_indices=(0, 1, 2, 3)),
     dict(embed_dims=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32],
          out_indices=[0, 1, 2, 3])),
    (dict(arch=NARROW, out_indices=(2, ), patch_size=(2, 2)),
     dict(NARROW, patch_size=2, strides=[2, 2, 2], out_indices=[2])),
    (dict(arch='small', frozen_stages=1), dict(depths=[2, 2, 18, 2], frozen_stages=2)),
    (dict(arch='large', stage_cfgs=dict(block_cfgs=dict(window_size=12, ffn_ratio=2.))),
     dict(embed_dims=192, depths=[2, 2, 18, 2], num_heads=[6, 12, 24, 48], window_size=12,
          mlp_ratio=2.)),
    (dict(use_abs_pos_embed=True, img_size=(224, 256)),
     dict(use_abs_pos_embed=True, pretrain_img_size=(224, 256))),
    (dict(init_cfg=dict(PRETRAINED, prefix='backbone.'), in_channels=4, with_cp=True),
     dict(init_cfg=PRETRAINED, in_channels=4, with_cp=True)),
    (dict(init_cfg=dict(PRETRAINED, prefix='student.backbone')),
     dict(init_cfg=dict(PRETRAINED, prefix='student.backbone')))]
DIFFERENT = [
    (dict(pad_small_map=False), 'pad_small_map=False'),
    (dict(out_after_downsample=True), 'out_after_downsample=True'),
    (dict(drop_rate=.1), 'drop_rate=0.1'),
    (dict(norm_cfg=None), 'norm_cfg=None'),
    (dict(norm_cfg=dict(type='LN', eps=1e-6)), 'norm_cfg=.*eps'),
    (dict(patch_cfg=dict(padding=0)), 'patch_cfg='),
    (dict(arch='huge'), "arch 'huge' .*tiny, small"),
    (dict(arch=dict(embed_dims=8, depths=[2])), 'arch .*num_heads'),
    (dict(use_abs_pos_embed=True, img_size=225), 'img_size 225'),
    (dict(use_abs_pos_embed=True, interpolate_mode='area'), "interpolate_mode='area'"),
    (dict(use_abs_pos_embed=True, frozen_stages=0), 'frozen_stages=0 with use_abs_pos_embed'),
    (dict(stage_cfgs=dict(downsample_cfg=dict(is_post_norm=True))), 'stage_cfgs .*downsample_cfg'),
    (dict(stage_cfgs=dict(block_cfgs=dict(window_size=12, attn_cfgs={}))),
     'stage_cfgs .*attn_cfgs'),
    (dict(stage_cfgs=[dict(block_cfgs={})] * 4), 'stage_cfgs'),
    (dict(init_cfg=[dict(type='TruncNormal', layer='Linear')]), 'init_cfg .*TruncNormal'),
    (dict(init_cfg=dict(type='Pretrained', prefix='backbone')), 'init_cfg .*no checkpoint'),
    (dict(gap=True, extra=1), 'no counterpart .*extra, gap')]


@pytest.mark.parametrize('theirs, ours', SAME)
def test_arguments_of_mmpretrain_that_mean_the_same_are_translated(theirs, ours):
    given = dict(theirs, pad_small_map=True)
    before = repr(given)
    translated = from_mmpretrain(given)
    assert translated == {**TINY, **ours}
    assert check_swin(translated).depths == tuple(translated['depths'])
    assert repr(given) == before


@pytest.mark.parametrize('theirs, named', DIFFERENT)
def test_argument_of_mmpretrain_without_a_counterpart_is_named(theirs, named):
    with pytest.raises(ValueError, match=named):
        from_mmpretrain(dict(dict(pad_small_map=True), **theirs))


def test_mmpretrain_pads_no_small_maps_by_default():
    with pytest.raises(ValueError, match='pad_small_map=False'):
        from_mmpretrain({})


@torch.no_grad()
@pytest.mark.parametrize('theirs', [
    dict(out_indices=(0, 1, 2)), dict(window_size=5, frozen_stages=1, in_channels=2),
    dict(use_abs_pos_embed=True, img_size=(64, 96)), dict(patch_size=(2, 2), drop_path_rate=.4),
    dict(stage_cfgs=dict(block_cfgs=dict(window_size=4, ffn_ratio=2.)))])
def test_translated_backbone_gives_the_same_features_as_mmpretrain(theirs, randomise):
    backbones = pytest.importorskip('mmpretrain.models.backbones')
    theirs = dict(dict(arch=NARROW, out_indices=(2, ), pad_small_map=True), **theirs)
    ours = SparseSwinTransformer(**from_mmpretrain(theirs))
    theirs = randomise(backbones.SwinTransformer(**theirs))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for model in (ours, theirs):
        model.train()
    assert [p.requires_grad for _, p in sorted(ours.named_parameters())] == [
        p.requires_grad for _, p in sorted(theirs.named_parameters())]
    for model in (ours, theirs):
        model.eval()
    for size in ((101, 133), (28, 28)):  # the latter's maps are as small as a window and smaller
        image = torch.randn(1, ours.in_channels, *size)
        for got, expected in zip(ours(image), theirs(image)):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('changes, named', [
    (dict(own=1, extra=2), 'takes no argument extra, own'),
    (dict(num_heads=(1, )), r'num_heads \(1,\) .*depths \(2, 2\)'),
    (dict(strides=(4, )), r'strides \(4,\) .*depths'),
    (dict(patch_size=2), r'strides\[0\] is 4, patch_size 2'),
    (dict(out_indices=(0, 2)), r'out_indices \(0, 2\)'),
    (dict(num_heads=(2, 3)), r'num_heads \(2, 3\).*32 channels of stage 1'),
    (dict(window_size=0), 'window_size 0'),
    (dict(window_size=(7, 7)), 'window_size'),
    (dict(sparsity=[.1, .2, .3]), r'3 entries.*depths \(2, 2\)')])
def test_arguments_that_do_not_fit_are_named(changes, named, narrow):
    check_swin(narrow())
    with pytest.raises(ValueError, match=named):
        check_swin(narrow(**changes))
