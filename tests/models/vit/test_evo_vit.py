"""EvoVisionTransformer: mmseg's class where dense, and the laws of token evolution."""
import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevit_mm import EvoVisionTransformer, SparsityConfig
from sparsevit_mm.models.selection.ranking import Selection
from sparsevit_mm.models.vit import evolution

NARROW = dict(img_size=32, patch_size=4, embed_dims=24, num_layers=6, num_heads=3,
              out_indices=(1, 3, 5))
PRUNED = [0, 0, .5, .8, .3, .5]


@pytest.fixture(scope='module')
def make(randomise):

    def make(**changes):
        return randomise(EvoVisionTransformer(**{**NARROW, **changes})).eval()

    return make


def flat(outs):
    return [part for out in outs for part in (out if isinstance(out, (list, tuple)) else [out])]


@pytest.mark.parametrize('changes', [
    {}, dict(with_cls_token=False), dict(output_cls_token=True, final_norm=True),
    dict(pre_norm=True, patch_norm=True, patch_bias=True, out_origin=True),
    dict(qkv_bias=False, num_fcs=3, out_indices=-1), dict(img_size=(32, 48)),
    dict(drop_path_rate=.3, norm_eval=True, interpolate_mode='bilinear')])
@pytest.mark.parametrize('size', [(32, 32), (32, 48), (41, 30), (16, 64)])
def test_dense_it_equals_mmseg_with_gradients(make, changes, size):
    mmseg = pytest.importorskip('mmseg.models.backbones')
    ours = make(**changes)
    theirs = mmseg.VisionTransformer(**{**NARROW, **changes})
    theirs.load_state_dict(ours.state_dict())  # strict: the names are the same
    theirs.train(False)
    if size == (16, 64) and changes.get('img_size') is None:
        size = (16, 48)  # where the number of patches is the same, mmseg's does not resize
    image = torch.randn(2, 3, *size)
    outs, expected = flat(ours(image)), flat(theirs(image))
    assert len(outs) == len(expected)
    for ours_out, their_out in zip(outs, expected):
        torch.testing.assert_close(ours_out, their_out, rtol=1e-5, atol=1e-5)
    for result in (outs, expected):
        sum(out.square().mean() for out in result).backward()
    theirs_grad = {n: p.grad for n, p in theirs.named_parameters()}
    for name, param in ours.named_parameters():
        if param.grad is None or theirs_grad[name] is None:
            assert param.grad is None and theirs_grad[name] is None, name
        else:
            torch.testing.assert_close(param.grad, theirs_grad[name], rtol=1e-4, atol=1e-5)


def test_a_grid_of_other_sides_and_as_many_patches_is_resized(make):
    """Where mmseg's class takes the embedding as it is."""
    model = make(num_layers=1, out_indices=-1)
    square, wide = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 16, 64)
    (a, ), (b, ) = model(square), model(wide)
    assert a.shape[2:] == (8, 8) and b.shape[2:] == (4, 16)
    assert not torch.allclose(a.flatten(2), b.flatten(2), atol=1e-3)


@pytest.mark.parametrize('fast', ['copy', 'representative'])
@pytest.mark.parametrize('reselect, sparsity', [
    ('layer', PRUNED), ('layer', [0, .9, .1, .9, .1, .9]), ('stage', [0, .5, .7])])
def test_maps_are_whole_and_images_are_independent(make, fast, reselect, sparsity):
    model = make(fast=fast, reselect=reselect, sparsity=sparsity, out_indices=range(6))
    images = torch.randn(3, 3, 36, 28)
    with torch.no_grad():
        outs = model(images)
        alone = [model(image[None]) for image in images]
        again = model(images)
    for i, out in enumerate(outs):
        assert out.shape == (3, 24, 9, 7) and out.is_contiguous()
        torch.testing.assert_close(out, torch.cat([one[i] for one in alone]), atol=1e-5, rtol=1e-5)
        assert torch.equal(out, again[i])  # nothing is left of a pass before


def test_patches_that_never_run_leave_a_copying_model_bit_by_bit(make):
    model = make(fast='copy', sparsity=[0, 0, .7, .7, .7, .7], out_indices=(1, 5), reselect='layer')
    with torch.no_grad(), model.recording() as maps:
        before, after = model(torch.randn(2, 3, 32, 32))
    never = ~torch.stack(maps[0][2:]).any(0)
    assert 0 < never.sum() < never.numel()
    same = (before == after).all(1)
    assert same[never].all() and not same[~never].any()


def test_others_take_what_the_representative_gained(make):
    """The difference is one vector for all others of an image, in a group's every output."""
    model = make(reselect='stage', sparsity=[0, .5, 0], out_indices=(1, 2, 3))
    with torch.no_grad(), model.recording() as maps:
        before, inside, after = model(torch.randn(1, 3, 32, 32))
    others = ~maps[1][0][0]
    for out in (inside, after):
        gained = (out - before)[0][:, others]
        torch.testing.assert_close(gained, gained[:, :1].expand_as(gained), atol=1e-5, rtol=1e-5)
        assert gained.abs().max() > 1e-3


@pytest.mark.parametrize('importance', ['class_attention', 'received', 'magnitude', 'distinct'])
def test_without_positions_a_permutation_of_patches_permutes_the_result(make, importance):
    model = make(sparsity=PRUNED, importance=importance, out_indices=-1)
    model.pos_embed.data.zero_()
    image = torch.randn(1, 3, 32, 32)
    order = torch.randperm(64)
    patches = image.unfold(2, 4, 4).unfold(3, 4, 4).reshape(3, 64, 4, 4)[:, order]
    moved = patches.reshape(1, 3, 8, 8, 4, 4).permute(0, 1, 2, 4, 3, 5).reshape(1, 3, 32, 32)
    with torch.no_grad():
        (out, ), (out_moved, ) = model(image), model(moved)
    torch.testing.assert_close(out.flatten(2)[:, :, order], out_moved.flatten(2), atol=1e-4,
                               rtol=1e-4)


@given(st.integers(1, 3), st.integers(2, 30), st.integers(0, 1), st.data())
def test_gather_scatter_and_representative(batch, total, prefix, data):
    k = data.draw(st.integers(1, total - 1))
    x = torch.randn(batch, prefix + total, 5)
    importance = torch.rand(batch, total).mul(4).floor()  # many ties
    kept = evolution.select(importance, k, prefix)
    assert kept.patches.dtype == kept.rows.dtype == torch.int64
    for scores, patches in zip(importance.tolist(), kept.patches.tolist()):
        assert patches == sorted(range(total), key=lambda i: (-scores[i], i))[:k]
    tokens = evolution.gather(x, kept)
    assert torch.equal(tokens[:, :prefix], x[:, :prefix])
    assert torch.equal(evolution.scatter(x, tokens, kept), x)
    summary = evolution.representative(x[:, prefix:], importance, kept.patches)
    others = [[i for i in range(total) if i not in p] for p in kept.patches.tolist()]
    for b, rest in enumerate(others):
        part = x[b, prefix:][rest]
        assert (summary[b, 0] <= part.max(0).values + 1e-5).all()
        assert (summary[b, 0] >= part.min(0).values - 1e-5).all()


@pytest.mark.parametrize('settings, named', [
    (dict(sparsity=[.5] + [0] * 5), "first layer is 0.5.*'magnitude' or 'random'"),
    (dict(sparsity=[.5] + [0] * 5, importance='received', with_cls_token=False), 'first layer'),
    (dict(sparsity=.5, with_cls_token=False), "with_cls_token.*'received'"),
    (dict(reselect='stage', sparsity=[0, 0, .5, .4, .5, .5]), r'stage 1 is \[0.5, 0.4\]'),
    (dict(sparsity=[.5, .5]), r'2 entries.*per block \(6\)'),
    (dict(sparsity=[0, 0, 0, 1., 0, 0]), 'block 3 is 1.0, outside'),
    (dict(importance='learned'), "importance 'learned'"), (dict(fast='mean'), "fast 'mean'"),
    (dict(reselect='block'), "reselect 'block'"),
    (dict(reselect='stage', stages=(4, 2)), r'stages \[4, 2\]'),
    (dict(blend=[.5, .5]), 'blend has 2 values for 6'), (dict(blend=1.5), 'layer 0 is 1.5'),
    (dict(dense_layers=9), r'dense_layers 9 .*6\]'),
    (dict(reselect='stage', dense_layers=3), r'dense_layers 3 .*\[2, 4\]'),
    (dict(output_cls_token=True, with_cls_token=False), 'needs with_cls_token'),
    (dict(pretrained='a', init_cfg=dict(type='Pretrained', checkpoint='b')),
     'pretrained and init_cfg')])
def test_settings_that_do_not_fit_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        EvoVisionTransformer(**{**NARROW, **settings})


def test_what_is_refused_at_once_is_refused_later_too(make):
    model = make(importance='magnitude', sparsity=.5)
    model.sparsity = [.5] * 6
    with pytest.raises(ValueError, match='first layer'):
        model.selection = Selection('class_attention')
    assert model.selection.importance == 'magnitude'
    dense = make(with_cls_token=False)
    dense(torch.zeros(1, 3, 32, 32))  # dense, class attention is not asked for
    with pytest.raises(ValueError, match='with_cls_token'):
        dense.sparsity = .5


def test_one_number_leaves_the_first_third_dense_and_one_patch_always_runs(make):
    model = make(sparsity=.999)
    assert model.sparsity == SparsityConfig([0, 0] + [.999] * 4, (6, ))
    with torch.no_grad(), model.recording() as maps:
        model(torch.randn(1, 3, 32, 32))
    assert [int(m.sum()) for m in maps[0]] == [64, 64, 1, 1, 1, 1]


@pytest.mark.parametrize('importance', ['class_attention', 'magnitude', 'random', 'variation'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_selects_among_more_than_256_patches(make, importance, dtype):
    model = make(sparsity=PRUNED, importance=importance)
    model = copy.deepcopy(model).to(dtype)
    with torch.no_grad(), model.recording() as maps:
        outs = model(torch.randn(1, 3, 96, 96, dtype=dtype))  # 576
    assert [int(m.sum()) for m in maps[0]] == [576, 576, 288, 115, 403, 288]
    assert all(out.dtype == dtype and out.isfinite().all() for out in outs)


@pytest.mark.parametrize('score', [evolution.class_attention, evolution.received_attention])
def test_importance_is_fp32_under_autocast(score):
    query, key = torch.randn(1, 2, 1, 8), torch.randn(1, 2, 500, 8)
    expected = score(query, key, .3)
    with torch.autocast('cpu', torch.bfloat16):
        found = score(query, key, .3)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


@pytest.mark.parametrize('pad', ['corner', 'same', 0, 2])
@pytest.mark.parametrize('size', [(32, 32), (41, 30)])
def test_totals_are_the_patches_whatever_the_padding(make, pad, size):
    model = make(patch_pad=pad, out_indices=-1)
    with torch.no_grad():
        out, = model(torch.randn(1, 3, *size))
    assert model.totals(size) == [out[0, 0].numel()]


def test_autocast_trains(make):
    model = make(sparsity=PRUNED).train()
    with torch.autocast('cpu', torch.bfloat16):
        loss = sum(out.float().square().mean() for out in model(torch.randn(2, 3, 32, 32)))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('with_cp', [False, True])
def test_every_parameter_trains_and_checkpointing_changes_nothing(make, with_cp):
    model, plain = (make(sparsity=PRUNED, with_cp=cp).train() for cp in (with_cp, False))
    image = torch.randn(2, 3, 32, 32)
    for m in (model, plain):
        sum(out.square().mean() for out in m(image)).backward()
    for a, b in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(a.grad, b.grad)
        assert a.grad.abs().sum() > 0


def test_training_mode_returns_self_and_frozen_parts_stay(make):
    model = make(frozen_exclude=['ln', 'pos_embed'])
    assert model.train() is model and model.train(False) is model
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trains == {n for n, _ in model.named_parameters() if 'ln' in n or 'pos_embed' in n}


def test_macs_are_those_of_the_layers_that_run(make):
    model = make()
    per_token, patches = 12 * 24**2, 64 * 24 * 48

    def macs(*tokens):
        return patches + sum(t * per_token + 2 * t**2 * 24 for t in tokens)

    assert model.macs((32, 32), model.sparsity) == macs(*[65] * 6)
    kept = [65, 65, 1 + 32 + 1, 1 + 12 + 1, 1 + 44 + 1, 34]
    assert model.macs((32, 32), model.space.config(PRUNED)) == macs(*kept)
    model.fast = 'copy'
    kept = [65, 65, 33, 13, 45, 33]
    assert model.macs((30, 31), model.space.config(PRUNED)) == macs(*kept)


@pytest.mark.parametrize('changes', [
    dict(sparsity=PRUNED),
    pytest.param(dict(sparsity=PRUNED, importance='magnitude', fast='copy'),
                 marks=pytest.mark.slow),
    pytest.param(dict(sparsity=[0, .5, .5], reselect='stage'), marks=pytest.mark.slow)])
def test_the_exported_program_is_the_model(make, tmp_path, changes):
    from sparsevit_mm.deploy.check import check_program
    from sparsevit_mm.deploy.export import export_program
    model = make(**changes)
    export_program(model, tmp_path / 'vit.pt2', (32, 48), dynamic_batch=True)
    assert check_program(tmp_path / 'vit.pt2', model, [1, 3]) < 1e-4


@pytest.mark.slow
def test_the_onnx_file_is_the_model(make, tmp_path):
    from sparsevit_mm.deploy.check import check_onnx
    from sparsevit_mm.deploy.export import export_onnx
    model = make(sparsity=PRUNED)
    for layer in model.layers:
        layer.attn.attn.in_proj_weight.data *= .3  # else attention is 0 for many patches: ties
    export_onnx(model, tmp_path / 'vit.onnx', (32, 48), dynamic_batch=True)
    assert check_onnx(tmp_path / 'vit.onnx', model, [1, 3]) < 1e-4


@pytest.mark.slow
def test_compiled_it_equals_eager(make):
    model = make(sparsity=PRUNED)
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(image)
        model.execution = 'compiled'
        for a, b in zip(model(image), expected):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_importance_is_blended_where_patches_ran():
    old, new = torch.tensor([[.1, .2, .3, .4]]), torch.tensor([[1., 2.]])
    kept = torch.tensor([[3, 1]])
    blended = evolution.blend(old, new, .5, kept)
    np.testing.assert_allclose(blended, [[.1, 1.1, .3, .7]], rtol=1e-6)
    assert evolution.blend(None, old, .5) is old
