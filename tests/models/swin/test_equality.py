"""At zero sparsity the backbone is the toolkits' own Swin: features, gradients, state dict."""
import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevit_mm import SparseSwinTransformer
from sparsevit_mm.models.swin.kernels import reference

TOOLKITS = ['mmdet', 'mmseg']
DROPS = dict(drop_rate=.2, attn_drop_rate=.3, drop_path_rate=.4)


def swin_of(toolkit):
    return importlib.import_module(f'{toolkit}.models.backbones.swin').SwinTransformer


@pytest.fixture
def pair(narrow, randomise):
    """The toolkit's Swin and ours, with the same weights and in the same mode."""

    def make(toolkit, training=False, ours=(), **changes):
        theirs = randomise(swin_of(toolkit)(**narrow(**changes)))
        sparse = SparseSwinTransformer(**dict(narrow(**changes), **dict(ours)))
        sparse.load_state_dict(theirs.state_dict(), strict=True)
        for model in (theirs, sparse):
            model.train(training)
        return theirs, sparse

    return make


@st.composite
def cases(draw):
    """Arguments of a Swin and the size of an image: smaller than a window, odd, or none such."""
    depths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    heads = draw(st.sampled_from([1, 2, 4]))
    patch = draw(st.sampled_from([2, 4]))
    strides = [patch] + [draw(st.sampled_from([2, 2, 3])) for _ in depths[1:]]
    size = draw(st.tuples(st.integers(1, 75), st.integers(1, 75)))
    args = dict(
        embed_dims=8 * draw(st.integers(1, 2)),
        depths=depths,
        num_heads=[heads * 2**i for i in range(len(depths))],
        window_size=draw(st.integers(1, 7)),
        patch_size=patch,
        strides=strides,
        mlp_ratio=draw(st.sampled_from([1, 4])),
        out_indices=sorted(draw(st.sets(st.integers(0, len(depths) - 1), min_size=1))),
        qkv_bias=draw(st.booleans()),
        qk_scale=draw(st.sampled_from([None, .3])),
        patch_norm=draw(st.booleans()),
        act_cfg=dict(type=draw(st.sampled_from(['GELU', 'ReLU']))))
    if draw(st.booleans()):  # the toolkits add the embedding at its own size only
        size = tuple(-(-side // patch) * patch for side in size)
        args.update(use_abs_pos_embed=True, pretrain_img_size=size)
    return args, size


def run(model, image, seed=5):
    """Features, and the gradients of the image and of every parameter."""
    torch.manual_seed(seed)
    image = image.clone().requires_grad_()
    model.zero_grad()
    features = model(image)
    sum((f * f.detach().cos()).sum() for f in features).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return features, dict(gradients, image=image.grad)


def assert_equal(theirs, ours):
    """Within 1e-5: features absolutely (the last norm makes them of order 1), gradients relative
    to each tensor's largest."""
    assert len(theirs[0]) == len(ours[0])
    for expected, got in zip(theirs[0], ours[0]):
        assert got.shape == expected.shape and got.is_contiguous()
        assert (got - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())
    assert theirs[1].keys() == ours[1].keys()
    largest = max(g.abs().max() for g in theirs[1].values() if g is not None)
    for name, expected in theirs[1].items():
        got = ours[1][name]
        if expected is None:
            assert got is None or not got.any(), name
        else:
            scale = max(expected.abs().max(), 1e-3 * largest)  # some are 0 but for rounding
            assert (got - expected).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize('toolkit', TOOLKITS)
@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
@given(case=cases())
def test_dense_equals_the_toolkits_swin(pair, toolkit, training, case):
    args, size = case
    theirs, ours = pair(toolkit, training, **args, **DROPS)
    image = torch.randn(2, 3, *size)
    assert_equal(run(theirs, image), run(ours, image))


@pytest.mark.parametrize('toolkit', TOOLKITS)
@given(case=cases())
def test_state_dicts_load_strictly_both_ways(narrow, toolkit, case):
    args, _ = case
    theirs, ours = swin_of(toolkit)(**narrow(**args)), SparseSwinTransformer(**narrow(**args))
    state = theirs.state_dict()
    for name, value in ours.state_dict().items():
        assert state[name].shape == value.shape and state[name].dtype == value.dtype
        if not value.is_floating_point():
            assert torch.equal(state[name], value), f'{name}, a computed buffer'
    ours.load_state_dict(state, strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)


@pytest.mark.parametrize('sparsity', [0, .5])
@pytest.mark.parametrize('toolkit', TOOLKITS)
def test_checkpointing_gives_the_same_gradients(pair, toolkit, sparsity):
    theirs, plain = pair(toolkit, True, dict(sparsity=sparsity), **DROPS)
    _, saving = pair(toolkit, True, dict(sparsity=sparsity, with_cp=True), **DROPS)
    image = torch.randn(2, 3, 50, 61)
    assert_equal(run(plain, image), run(saving, image))
    if not sparsity:
        assert_equal(run(theirs, image), run(saving, image))


def test_checkpointing_recomputes_each_block(make_swin, monkeypatch):
    calls, run = [], reference._run_tokens
    monkeypatch.setattr(reference, '_run_tokens', lambda *args: calls.append(0) or run(*args))
    model = make_swin(with_cp=True, sparsity=.5)
    model(torch.randn(1, 3, 32, 32))[1].sum().backward()
    assert len(calls) == 2 * sum(model.depths)


@pytest.mark.parametrize('toolkit', TOOLKITS)
@pytest.mark.parametrize('frozen', [-1, 0, 1, 2])
@pytest.mark.parametrize('out_indices', [(0, 1), (1, )])
def test_the_same_parameters_freeze(pair, toolkit, frozen, out_indices):
    theirs, ours = pair(
        toolkit, True, frozen_stages=frozen, out_indices=out_indices, use_abs_pos_embed=True,
        pretrain_img_size=32, **DROPS)
    assert {name for name, p in ours.named_parameters() if p.requires_grad} == {
        name for name, p in theirs.named_parameters() if p.requires_grad}
    modes = dict((name, m.training) for name, m in theirs.named_modules())
    assert all(modes[name] == m.training for name, m in ours.named_modules() if name in modes)
    if frozen < 2:
        image = torch.randn(2, 3, 32, 32)
        assert_equal(run(theirs, image), run(ours, image))


def test_train_and_eval_return_the_model(make_swin):
    model = make_swin()
    assert model.eval() is model and model.train() is model and model.train(False) is model


@pytest.mark.parametrize('toolkit', TOOLKITS)
def test_a_position_embedding_of_another_size_is_resized(pair, toolkit):
    """Where the toolkits fail. At 1.5 times the size, three steps make two of the old ones."""
    theirs, ours = pair(toolkit, use_abs_pos_embed=True, pretrain_img_size=(32, 64))
    image = torch.randn(1, 3, 48, 96)
    with pytest.raises(RuntimeError):
        theirs(image)
    ramp = torch.arange(8.)[:, None] * 3 + torch.arange(16.)
    ours.absolute_pos_embed.data[:] = ramp.reshape(1, -1, 1)
    resized = ours._position_embedding((12, 24)).reshape(12, 24, 16)[3:-3, 3:-3]
    down, right = resized[3:] - resized[:-3], resized[:, 3:] - resized[:, :-3]
    torch.testing.assert_close(down, torch.full_like(down, 2 * 3.))
    torch.testing.assert_close(right, torch.full_like(right, 2 * 1.))
    assert [f.shape[2:] for f in ours(image)] == [(12, 24), (6, 12)]


LOW = [(torch.float16, 2e-2), (torch.bfloat16, 1.5e-1)]


@pytest.mark.parametrize('dtype, tolerance', LOW)
@pytest.mark.parametrize('size', [(64, 64), (50, 61)])
def test_low_precision_stays_near_fp32(pair, dtype, tolerance, size):
    image = torch.randn(2, 3, *size)
    theirs, model = pair('mmdet')
    expected = model(image)
    with torch.autocast('cpu', dtype):
        mixed, their_mixed = model(image), theirs(image)
    model = model.to(dtype)
    dense = model(image.to(dtype))
    for low in (dense, mixed):
        assert all((f.float() - e).abs().max() < tolerance for f, e in zip(low, expected))
    assert {f.dtype for f in dense} == {dtype}
    assert [f.dtype for f in mixed] == [f.dtype for f in their_mixed]
    model.sparsity = [[.3, .6], [0, .5]]
    sparse = model(image.to(dtype))
    assert all(s.dtype == dtype and s.isfinite().all() and s.shape == d.shape
               for s, d in zip(sparse, dense))


@pytest.mark.parametrize('sparsity', [0, .5])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_trains(make_swin, dtype, sparsity):
    model = make_swin(sparsity=sparsity, **DROPS).train()
    with torch.autocast('cpu', dtype):
        loss = sum(f.float().square().mean() for f in model(torch.randn(2, 3, 50, 61)))
    loss.backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all()
               for p in model.parameters())


@settings(max_examples=10)
@given(st.tuples(st.integers(1, 75), st.integers(1, 75)))
def test_sparse_features_have_the_shapes_of_swin(make_swin, size):
    up = [-(-side // 4) for side in size]
    features = make_swin(sparsity=.5)(torch.randn(1, 3, *size))
    assert features[0].shape == (1, 16, *up)
    assert features[1].shape == (1, 32, *(-(-side // 2) for side in up))
