"""The Triton kernel against WindowMSA.attend: on CUDA if there is one, else interpreted."""
import multiprocessing
import os
import runpy
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from sparsevit_mm import SparseSwinTransformer
from sparsevit_mm.models.swin.attention import WindowMSA
from sparsevit_mm.models.swin.kernels import triton_attention
from sparsevit_mm.models.windows import partition

pytest.importorskip('triton', minversion='3')

CPU, CUDA = torch.device('cpu'), torch.device('cuda')
HALVES = [torch.float16, torch.bfloat16]
# (B, K, window size, heads, head_dim)
SHAPES = [(1, 1, 1, 1, 16), (2, 3, 2, 3, 32), (3, 1, 4, 2, 16), (1, 2, 5, 1, 64),
          (2, 2, 7, 2, 32), (1, 4, 7, 3, 16), (1, 1, 12, 1, 32)]
# One window of each kind, in this order.
MASKED = [(2, 3, 16), (4, 2, 32), (7, 2, 16), (7, 1, 32)]


@pytest.fixture(scope='module')
def interpreter():
    """A process of its own: Triton reads TRITON_INTERPRET when imported, here too early."""
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv('TRITON_INTERPRET', '1')
            pool.submit(os.getpid).result()
        yield pool


@pytest.fixture
def run(interpreter):
    """window_attention of CPU tensors."""

    def call(qkv, table, window, shift, mask_index, scale):
        args = (qkv, table.detach(), window, shift, mask_index, scale)
        if triton_attention.is_available(CUDA):
            args = (arg.to(CUDA) if torch.is_tensor(arg) else arg for arg in args)
            return triton_attention.window_attention(*args).cpu()
        return interpreter.submit(triton_attention.window_attention, *args).result()

    return call


def make(B, K, window, heads, head_dim, dtype=torch.float32, qk_scale=None):
    """The oracle, its bias table wide enough to tell apart any two positions, and qkv."""
    msa = WindowMSA(heads * head_dim, heads, window, qk_scale=qk_scale)
    torch.nn.init.normal_(msa.relative_position_bias_table, std=2.)
    return msa, torch.randn(B, K, window**2, 3 * heads * head_dim).to(dtype)


def expected(msa, qkv, masks=None, mask_index=None):
    """(B, K, N, C) float32; one image of B * K windows for the oracle."""
    B, K = qkv.shape[:2]
    if mask_index is not None:
        mask_index = mask_index.expand(B, K).reshape(-1)
    with torch.no_grad():
        out = msa.attend(qkv.float().flatten(0, 1)[None], msa.bias(masks), mask_index)
    return out.unflatten(1, (B, K))[0]


def assert_equal(out, expected, dtype=torch.float32):
    assert out.dtype == dtype and out.shape == expected.shape
    rtol, atol = (1e-5, 1e-5) if dtype == torch.float32 else (2e-2, 2e-2)
    torch.testing.assert_close(out.float(), expected, rtol=rtol, atol=atol)


def shifted(window, shift):
    """Masks of the four kinds, and the kinds 0, 1, 2, 3."""
    windows = partition(2 * window, 2 * window, window, shift, CPU)
    assert windows.mask_index.tolist() == [0, 1, 2, 3]
    return windows.masks, windows.mask_index


@pytest.mark.parametrize('shape', SHAPES)
def test_equals_attend_in_plain_windows(run, shape):
    msa, qkv = make(*shape)
    out = run(qkv, msa.relative_position_bias_table, shape[2], 0, None, shape[4]**-.5)
    assert_equal(out, expected(msa, qkv))


@pytest.mark.parametrize('window, heads, head_dim', MASKED)
def test_equals_attend_under_every_kind_of_mask(run, window, heads, head_dim):
    shift = window // 2
    masks, kinds = shifted(window, shift)
    msa, qkv = make(1, 4, window, heads, head_dim)
    out = run(qkv, msa.relative_position_bias_table, window, shift, kinds, head_dim**-.5)
    assert_equal(out, expected(msa, qkv, masks, kinds))


def test_masks_span_the_tiles_of_a_large_window(run):
    masks, _ = shifted(12, 5)
    corner = torch.tensor([3])
    msa, qkv = make(1, 1, 12, 1, 16)
    out = run(qkv, msa.relative_position_bias_table, 12, 5, corner, .25)
    assert_equal(out, expected(msa, qkv, masks, corner))


@pytest.mark.parametrize('shape', [(3,), (6,), (2, 3)])
def test_kinds_are_given_for_one_image_or_for_all(run, shape):
    masks, _ = shifted(4, 1)
    mask_index = torch.tensor([2, 0, 3, 1, 1, 0])[:torch.Size(shape).numel()]
    msa, qkv = make(2, 3, 4, 2, 16)
    out = run(qkv, msa.relative_position_bias_table, 4, 1, mask_index.reshape(shape), .25)
    assert_equal(out, expected(msa, qkv, masks, mask_index.reshape(-1, 3)))


def test_mask_is_added_to_the_logits(run):
    """A bias of 200 between the far sides of the wrap outweighs the mask."""
    masks, kinds = shifted(2, 1)
    msa, qkv = make(1, 4, 2, 1, 16)
    with torch.no_grad():
        msa.relative_position_bias_table[0] = 200.
    out = run(qkv, msa.relative_position_bias_table, 2, 1, kinds, .25)
    assert_equal(out, expected(msa, qkv, masks, kinds))


@pytest.mark.parametrize('dtype', HALVES)
@pytest.mark.parametrize('window', [4, 7])
def test_half_precision(run, dtype, window):
    masks, kinds = shifted(window, 1)
    msa, qkv = make(1, 4, window, 1, 32, dtype)
    out = run(qkv, msa.relative_position_bias_table, window, 1, kinds, 32**-.5)
    assert_equal(out, expected(msa, qkv, masks, kinds), dtype)


@pytest.mark.parametrize('dtype', HALVES)
def test_bias_table_has_a_dtype_of_its_own(run, dtype):
    msa, qkv = make(1, 2, 4, 2, 16)
    msa.relative_position_bias_table.data = msa.relative_position_bias_table.to(dtype)
    out = run(qkv, msa.relative_position_bias_table, 4, 0, None, .25)
    assert_equal(out, expected(msa, qkv))


@pytest.mark.parametrize('scale', [.05, 1.])
def test_scale(run, scale):
    msa, qkv = make(1, 2, 4, 2, 16, qk_scale=scale)
    out = run(qkv, msa.relative_position_bias_table, 4, 0, None, scale)
    assert_equal(out, expected(msa, qkv))


@pytest.mark.parametrize('B, K', [(0, 3), (2, 0)])
def test_no_windows(B, K):
    msa, qkv = make(B, K, 4, 2, 16)
    with torch.no_grad():
        out = triton_attention.window_attention(
            qkv, msa.relative_position_bias_table, 4, 0, None, 1.)
    assert out.shape == (B, K, 16, 32)


def difference(sparsity, size):
    """Largest difference that the kernel makes to the features of a backbone, and how many blocks
    it served. Runs in the interpreter's process; without chunks, as on a GPU."""
    torch.manual_seed(0)
    models = [SparseSwinTransformer(
        embed_dims=16, depths=(2, 2), num_heads=(1, 1), strides=(4, 2), out_indices=(0, 1),
        window_size=4, qk_scale=.3, sparsity=sparsity, triton=triton).eval()
        for triton in (False, True)]
    for name, parameter in models[0].named_parameters():
        torch.nn.init.normal_(parameter, std=1. if 'table' in name else .2)
    models[1].load_state_dict(models[0].state_dict())
    image, calls, attend = torch.randn(2, 3, *size), [], triton_attention.window_attention
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr('sparsevit_mm.models.chunks.pays', lambda x: False)
        patch.setattr(triton_attention, 'window_attention',
                      lambda *args: calls.append(0) or attend(*args))
        features = [model(image) for model in models]
    return max((a - b).abs().max().item() for a, b in zip(*features)), len(calls)


@pytest.mark.parametrize('sparsity, size', [(0, (32, 32)), (.5, (32, 48)), ([0, .5], (26, 37))])
def test_a_backbone_gives_the_same_features_with_it(interpreter, sparsity, size):
    worst, calls = interpreter.submit(difference, sparsity, size).result()
    assert worst <= 1e-5 and calls == 4


def test_a_backbone_does_without_it_where_it_is_not_available():
    model = SparseSwinTransformer(embed_dims=24, triton=True).eval()
    model(torch.randn(1, 3, 32, 32))
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))


def test_supports():
    assert triton_attention.supports(49, 32, torch.float32)
    assert triton_attention.supports(144, 32, torch.bfloat16)
    assert triton_attention.supports(256, 128, torch.float16)
    assert not triton_attention.supports(289, 32, torch.float32)
    assert not triton_attention.supports(49, 24, torch.float32)
    assert not triton_attention.supports(49, 8, torch.float32)
    assert not triton_attention.supports(49, 256, torch.float16)
    assert not triton_attention.supports(49, 128, torch.float32)
    assert not triton_attention.supports(49, 32, torch.float64)


def test_is_available_on_the_cpu_if_interpreted(interpreter, monkeypatch):
    monkeypatch.setattr(triton_attention, '_INTERPRETED', False)
    assert not triton_attention.is_available.__wrapped__(CPU)
    assert interpreter.submit(triton_attention.is_available, CPU).result()


def test_is_not_available_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, 'triton', None)
    module = runpy.run_path(triton_attention.__file__)
    assert not module['is_available'](CPU)
    assert not module['is_available'](CUDA)


@torch.no_grad()
@pytest.mark.parametrize('change, message', [
    (dict(window_size=5), 'do not fit'),
    (dict(bias_table=torch.zeros(48, 2)), 'do not fit'),
    (dict(bias_table=torch.zeros(49, 5)), 'do not fit'),
    (dict(qkv=torch.zeros(2, 3, 16, 96).double()), 'unsupported'),
    (dict(qkv=torch.zeros(2, 3, 96, 16).transpose(2, 3)), 'unsupported'),
    (dict(qkv=torch.zeros(2, 3, 16, 48)), 'unsupported'),
    (dict(mask_index=torch.zeros(4, dtype=torch.int64)), '4 mask indices'),
])
def test_rejects_what_it_cannot_do(change, message):
    args = dict(qkv=torch.zeros(2, 3, 16, 96), bias_table=torch.zeros(49, 2), window_size=4,
                shift=0, mask_index=None, scale=1.)
    with pytest.raises(ValueError, match=message):
        triton_attention.window_attention(**dict(args, **change))


def test_refuses_to_lose_a_gradient():
    msa, qkv = make(1, 1, 4, 2, 16)
    with pytest.raises(RuntimeError, match='no gradient'):
        triton_attention.window_attention(
            qkv, msa.relative_position_bias_table, 4, 0, None, 1.)


@pytest.mark.skipif(not triton_attention.is_available(CUDA), reason='needs a GPU')
def test_runs_in_a_cuda_graph():
    masks, kinds = shifted(7, 3)
    msa, qkv = make(1, 4, 7, 3, 32)
    args = (msa.relative_position_bias_table.detach().to(CUDA), 7, 3, kinds.to(CUDA), 32**-.5)
    static = torch.zeros_like(qkv, device=CUDA)
    triton_attention.window_attention(static, *args)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = triton_attention.window_attention(static, *args)
    static.copy_(qkv)
    graph.replay()
    assert_equal(out.cpu(), expected(msa, qkv, masks, kinds))
