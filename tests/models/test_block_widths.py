"""Backbones whose blocks have heads and FFN neurons of their own number."""
import pytest
import torch
import torch.nn.functional as F
from helpers import backbone
from mmengine.registry import MODELS
from torch import nn

from sparsevit_mm.config.arguments import check_swin, check_vit
from sparsevit_mm.cost.macs import backbone_macs

SWIN = dict(embed_dims=16, num_heads=(2, 4))
VIT = dict(type='EvoVisionTransformer', img_size=16, patch_size=4, embed_dims=24, num_layers=3,
           num_heads=3, sparsity=0.)
NARROW_SWIN = dict(SWIN, block_heads=[1, None, 3, 4], ffn_widths=[5, 64, None, 1])
NARROW_VIT = dict(VIT, block_heads=[1, None, 2], ffn_widths=[None, 7, 1])


def vit(**changes):
    return MODELS.build({**VIT, **changes})


def test_heads_keep_their_channels_and_none_is_the_default():
    swin, evo = backbone(**NARROW_SWIN), MODELS.build(NARROW_VIT)
    blocks = [block for stage in swin.stages for block in stage.blocks]
    assert [tuple(b.attn.w_msa.qkv.weight.shape) for b in blocks] == [
        (24, 16), (48, 16), (72, 32), (96, 32)]
    assert [tuple(b.attn.w_msa.proj.weight.shape) for b in blocks] == [
        (16, 8), (16, 16), (32, 24), (32, 32)]
    assert [b.attn.w_msa.relative_position_bias_table.shape[1] for b in blocks] == [1, 2, 3, 4]
    assert [b.ffn.layers[1].in_features for b in blocks] == [5, 64, 128, 1]
    assert [tuple(la.attn.attn.in_proj_weight.shape) for la in evo.layers] == [
        (24, 24), (72, 24), (48, 24)]
    assert [tuple(la.attn.attn.out_proj.weight.shape) for la in evo.layers] == [
        (24, 8), (24, 24), (24, 16)]
    assert [la.ffn.layers[1].in_features for la in evo.layers] == [96, 7, 1]


@pytest.mark.parametrize('make', [lambda **c: backbone(**SWIN, **c), vit], ids=['swin', 'vit'])
def test_defaults_given_make_the_same_model(make, randomise):
    blocks = 4 if make is not vit else 3
    plain, given = make(), make(block_heads=[None] * blocks, ffn_widths=(None, ) * blocks)
    given.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 16, 16)
    for one, other in zip(plain.eval()(image), given.eval()(image)):
        assert torch.equal(one, other)
    assert plain.identity() == given.identity()


@pytest.mark.parametrize('config', [dict(type='SparseSwinTransformer', patch_size=2, window_size=2,
                                         depths=(2, 2), strides=(2, 2), out_indices=(0, 1),
                                         **NARROW_SWIN), NARROW_VIT], ids=['swin', 'vit'])
@pytest.mark.parametrize('ratio', [0., .5])
def test_all_paths_agree_and_train(config, ratio, randomise):
    model = randomise(MODELS.build({**config, 'drop_path_rate': 0.})).eval()
    model.sparsity = ratio
    image = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        chunked = model(image)
    with torch.enable_grad():
        plain = model(image)
    for one, other in zip(chunked, plain):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    sum(out.square().sum() for out in plain).backward()
    lacking = [name for name, p in model.named_parameters() if p.grad is None]
    assert not [name for name in lacking if 'attn' in name or 'ffn' in name]
    assert len(model.sparsity.ratios) == len(model.depths)
    recomputing = MODELS.build({**config, 'with_cp': True, 'drop_path_rate': 0.})
    recomputing.load_state_dict(model.state_dict())
    recomputing.sparsity = ratio
    for one, other in zip(recomputing.train()(image), plain):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def counted_macs(model, image):
    """Products of linear layers and of attention, from the shapes they were given."""
    macs = [0]
    linear, attention, conv = F.linear, F.scaled_dot_product_attention, nn.Conv2d.forward

    def count_linear(x, weight, *args):
        macs[0] += x[..., 0].numel() * weight.numel()
        return linear(x, weight, *args)

    def count_attention(q, k, v, *args, **kwargs):
        macs[0] += q.numel() * k.shape[-2] + q.shape[:-1].numel() * v.shape[-2] * v.shape[-1]
        return attention(q, k, v, *args, **kwargs)

    def count_conv(self, x):
        out = conv(self, x)
        macs[0] += out[:, 0].numel() * self.weight.numel()
        return out
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(nn.Conv2d, 'forward', count_conv)
        patch.setattr(F, 'linear', count_linear)
        patch.setattr(F, 'scaled_dot_product_attention', count_attention)
        model(image)
    return macs[0]


@pytest.mark.parametrize('make, narrow', [
    (lambda **c: backbone(**{**SWIN, **c}), NARROW_SWIN), (vit, NARROW_VIT)],
    ids=['swin', 'vit'])
def test_macs_are_those_that_run(make, narrow):
    image = torch.randn(1, 3, 16, 16)
    figures = []
    for model in (make(), make(**{k: v for k, v in narrow.items() if k != 'type'})):
        model.eval()
        figures.append(backbone_macs(model, (16, 16), 1, 0))
        assert figures[-1] == counted_macs(model, image)
    assert figures[1] < figures[0]


def test_identity_tells_widths_apart():
    dense, narrow = vit(), MODELS.build(NARROW_VIT)
    assert (dense.identity()['heads'], dense.identity()['hidden channels']) == (3, 96)
    assert narrow.identity()['heads'] == [1, 3, 2]
    swin = backbone(**NARROW_SWIN).identity()
    assert swin['heads'] == [[1, 2], [3, 4]] and swin['hidden channels'] == [[5, 64], [128, 1]]


BAD = [
    (dict(block_heads=[1, 2]), r'block_heads \[1, 2\] does not have one entry for each of the'),
    (dict(block_heads=2), 'block_heads 2 does not have one entry'),
    (dict(block_heads=[1, 0, 1, 1]), 'block_heads of block 1 is 0'),
    (dict(block_heads=[1, 1, 1, 9]), 'block_heads of block 3 is 9'),
    (dict(ffn_widths=[1, 1, 2.5, 1]), 'ffn_widths of block 2 is 2.5'),
    (dict(ffn_widths=[True] * 4), 'ffn_widths of block 0 is True')]


@pytest.mark.parametrize('arguments, message', BAD)
def test_widths_that_do_not_fit_are_refused(arguments, message):
    swin = {**SWIN, 'depths': (2, 2), 'strides': (2, 2), 'patch_size': 2, 'out_indices': (0, )}
    for build in (lambda: backbone(**SWIN, **arguments), lambda: vit(num_layers=4, **arguments),
                  lambda: check_swin({**swin, **arguments}),
                  lambda: check_vit(dict(num_layers=4, num_heads=3, embed_dims=24, **arguments))):
        with pytest.raises(ValueError, match=message):
            build()
