"""The linear update of skipped windows."""
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from test_kernels import forward, small_chunks  # noqa: F401

from sparsevit_mm import SparseSwinTransformer
from sparsevit_mm.cost.macs import backbone_macs
from sparsevit_mm.deploy import check_program, export_program
from sparsevit_mm.models.swin.bypass import Bypass, update_skipped
from sparsevit_mm.models.windows import partition
from sparsevit_mm.sparsity import kept_windows

LINEAR = dict(skipped='linear')
SIZES = [(64, 64), (50, 61)]
groups = pytest.mark.parametrize('selection', [{}, dict(scope='group', group_size=2)])


def bypasses(model):
    return [m for m in model.modules() if isinstance(m, Bypass)]


@torch.no_grad()
@pytest.mark.parametrize('size', SIZES)
def test_a_fresh_one_copies_bit_by_bit_and_dense_checkpoints_load_strictly(make_swin, size):
    copying, linear = make_swin(sparsity=.5), make_swin(seed=1, sparsity=.5, **LINEAR)
    assert all(m.weight.any() for m in bypasses(linear))
    linear.load_state_dict(copying.state_dict())
    assert not any(p.any() for m in bypasses(linear) for p in m.parameters())
    image = torch.randn(2, 3, *size)
    assert all(map(torch.equal, copying(image), linear(image)))


@torch.no_grad()
def test_from_scratch_it_starts_as_a_copy(narrow):
    model = SparseSwinTransformer(**narrow(**LINEAR))
    model.init_weights()
    assert len(bypasses(model)) == 2  # of the two plain blocks
    assert not any(p.any() for m in bypasses(model) for p in m.parameters())


def explicit(layer, x, ran, side):
    """(B, L, C) -> the same, by the formula: ``x + W z + V mean(z) + b`` for tokens that did not
    run, z being normalised and the mean that of the window of 4x4."""
    z = F.layer_norm(x, x.shape[-1:])
    windows = z.reshape(len(z), side // 4, 4, side // 4, 4, -1)
    mean = windows.mean((2, 4), keepdim=True).expand_as(windows).reshape(z.shape)
    return torch.where(ran, x, x + z @ layer.weight.T + mean @ layer.context.T + layer.bias)


@torch.no_grad()
@pytest.mark.parametrize('training', [False, True])
def test_each_token_gets_the_block_or_the_update(make_swin, training):
    """Those that run are what they are where others are copied."""
    stages = [make_swin(depths=(1, ), num_heads=(2, ), strides=(4, ), out_indices=(0, ),
                        **LINEAR).train(training).stages[0] for _ in range(2)]
    copying, linear = stages
    for p in bypasses(copying)[0].parameters():
        p.zero_()
    x = torch.randn(2, 256, 16)
    copied, updated = (stage(x.clone(), (16, 16), [.5]) for stage in (copying, linear))
    ran = (copied != x).any(-1, keepdim=True)
    assert 0 < ran.float().mean() < 1
    expected = torch.where(ran, copied, explicit(bypasses(linear)[0], x, ran, 16))
    torch.testing.assert_close(updated, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('ratios, updates', [
    ([.5, .5, .5, .5], [8, 0]), ([0, 0, .5, .5], [0, 8]), ([.25, .25, .75, .75], [4, 8]),
    ([0, .5, .5, .5], [0, 8]), ([0, 0, 0, .5], [0, 0])])
def test_a_window_is_updated_once_in_a_stage(make_swin, ratios, updates):
    """At the first plain block that skips it."""
    model = make_swin(depths=(4, ), num_heads=(2, ), strides=(4, ), out_indices=(0, ), **LINEAR)
    stage, seen = model.stages[0].train(), {}
    for i, layer in enumerate(bypasses(stage)):
        layer.register_forward_hook(lambda _, args, out, i=i: seen.update({i: args[0].shape[1]}))
    stage(torch.randn(1, 256, 16), (16, 16), ratios)
    assert [seen.get(i, 0) // 16 for i in range(2)] == updates


@torch.no_grad()
def test_padding_is_no_part_of_a_windows_mean(make_swin):
    """A map of 5x6 in windows of 4x4."""
    windows = partition(5, 6, 4, 0, torch.device('cpu'))
    layer = Bypass(8)
    layer.context.copy_(torch.eye(8))
    x = torch.randn(2, 30, 8)
    selected = torch.arange(4).expand(2, -1)
    out = update_skipped(layer, x.clone(), windows, selected) - x
    z = F.layer_norm(x, (8, )).reshape(2, 5, 6, 8)
    for rows in (slice(0, 4), slice(4, 5)):
        for cols in (slice(0, 4), slice(4, 6)):
            part = out.reshape(2, 5, 6, 8)[:, rows, cols]
            mean = z[:, rows, cols].mean((1, 2), keepdim=True)
            torch.testing.assert_close(part, mean.expand_as(part), atol=1e-5, rtol=1e-5)


@groups
@given(st.integers(1, 75), st.integers(1, 75), st.sampled_from([.5, [[0, .2], [.6, .6]], .8]))
def test_chunks_equal_the_reference(make_swin, small_chunks, selection,  # noqa: F811
                                    height, width, sparsity):
    model = make_swin(sparsity=sparsity, **LINEAR, **selection)
    image = torch.randn(2, 3, height, width)
    expected = forward(model, image, chunked=False)
    for got, feature in zip(forward(model, image, chunked=True), expected):
        torch.testing.assert_close(got, feature, atol=1e-5, rtol=1e-5)


def test_gradients_reach_it_and_are_zero_where_nothing_is_skipped(make_swin):
    """Zero, not missing: DDP wants one of each parameter."""
    model = make_swin(sparsity=[0, .5], **LINEAR).train()
    image = torch.randn(2, 3, 50, 61)
    sum(f.sin().sum() for f in model(image)).backward()
    dense, pruned = ([p.grad for m in bypasses(stage) for p in m.parameters()]
                     for stage in model.stages)
    assert all(g is not None and not g.any() for g in dense)
    assert all(g is not None and g.any() for g in pruned)


def test_gradients_are_those_of_the_dense_formula(make_swin):
    """One block, with both results computed everywhere."""
    model = make_swin(depths=(1, ), num_heads=(2, ), strides=(4, ), out_indices=(0, ),
                      sparsity=.5, importance='magnitude', **LINEAR).train()
    image, gradients = torch.randn(2, 3, 64, 64), []
    copying = deepcopy(model.stages[0])
    with torch.no_grad():
        for p in bypasses(copying)[0].parameters():
            p.zero_()
        x = model.patch_embed(image)[0]
        ran = ~(copying(x, (16, 16), [.5], model.selection) == x).all(-1, keepdim=True)
    assert ran.any() and not ran.all()
    for by_hand in (False, True):
        model.zero_grad()
        if by_hand:
            x = model.patch_embed(image)[0]
            dense = model.stages[0](x, (16, 16), [0], model.selection)
            out = torch.where(ran, dense, explicit(bypasses(model)[0], x, ran, 16))
            features = model.norm0(out).transpose(1, 2).reshape(2, -1, 16, 16)
        else:
            features, = model(image)
        features.sin().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, grad in gradients[0].items():
        torch.testing.assert_close(grad, gradients[1][name], atol=1e-5, rtol=1e-4)


def test_a_checkpoint_with_an_update_that_has_no_place_is_refused(make_swin):
    """The backbone copies, or another version gave every block an update."""
    state = make_swin(**LINEAR).state_dict()
    with pytest.raises(ValueError, match="skipped='linear'") as refused:
        make_swin().load_state_dict(state)
    assert '.bypass.' in str(refused.value)
    model = make_swin(seed=1, **LINEAR)
    assert model.load_state_dict(state)
    key = next(key for key in state if '.bypass.weight' in key)
    shifted = key.replace('blocks.0.', 'blocks.1.')
    with pytest.raises(ValueError, match=shifted):
        model.load_state_dict({**state, shifted: state[key]})
    del state[key]
    with pytest.raises(RuntimeError, match=key):
        model.load_state_dict(state)


def test_another_treatment_is_refused(narrow):
    with pytest.raises(ValueError, match="skipped 'drop' .*copy, linear"):
        SparseSwinTransformer(**narrow(skipped='drop'))


@pytest.mark.parametrize('size', [(64, 64), (128, 64)])
def test_macs_are_those_of_two_layers_for_tokens_and_windows(make_swin, size):
    copying, linear = make_swin(), make_swin(**LINEAR)
    assert backbone_macs(copying, size) == backbone_macs(linear, size)
    tokens = [(size[0] // side) * (size[1] // side) for side in (4, 8)]
    expected = 0
    for number, channels in zip(tokens, (16, 32)):
        windows = number // 16
        expected += (windows - kept_windows(windows, .5)) * (16 + 1) * channels**2
    assert (backbone_macs(linear, size, 1, .5) - backbone_macs(copying, size, 1, .5)) == expected


def test_it_is_in_the_exported_program(make_swin, tmp_path):
    model = make_swin(sparsity=.5, **LINEAR)
    export_program(model, tmp_path / 'm.pt2', (50, 61))
    assert check_program(tmp_path / 'm.pt2', model) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('chunked', [False, True])
def test_in_low_precision_it_is_near_fp32(make_swin, dtype, chunked):
    model, image = make_swin(sparsity=.5, **LINEAR), torch.randn(2, 3, 50, 61)
    expected = forward(model, image, chunked)
    for got, feature in zip(forward(model.to(dtype), image.to(dtype), chunked), expected):
        assert got.dtype == dtype and (got - feature).abs().max() < .1 * feature.abs().max()
