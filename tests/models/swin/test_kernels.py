"""Every way to run the hot step equals the reference: same windows, same features."""
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsevit_mm.models import chunks
from sparsevit_mm.models.swin import kernels
from sparsevit_mm.models.swin.kernels import cpu

SPARSITIES = [0, .5, [[.3, .3], [0, .5]], [[0, .2], [.6, .6]], [.1, .8]]


@pytest.fixture(autouse=True)
def poisoned():
    """Memory that nothing was written to holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def small_chunks(monkeypatch):
    """Makes every map take several chunks."""
    monkeypatch.setattr(chunks, 'CHUNK_BYTES', 2**12)
    monkeypatch.setattr(cpu, 'CHUNK_BYTES', 2**12)
    monkeypatch.setattr(cpu, 'MIN_TOKENS', 32)


def forward(model, image, chunked):
    """Features without gradients, in chunks or by the reference; says how many blocks ran so."""
    ran, run = [], cpu.run_block
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(cpu, 'run_block', lambda *args: ran.append(0) or run(*args))
        if not chunked:
            patch.setattr(kernels.chunks, 'pays', lambda x: False)
            patch.setattr('sparsevit_mm.models.swin.patches.pays', lambda x: False)
        features = model(image)
    assert len(ran) == (sum(model.depths) if chunked else 0)
    return features


@given(st.integers(1, 75), st.integers(1, 75), st.integers(1, 4), st.sampled_from(SPARSITIES),
       st.sampled_from(['GELU', 'ReLU']))
def test_chunks_equal_the_reference(make_swin, small_chunks, height, width, batch_size, sparsity,
                                    activation):
    model = make_swin(sparsity=sparsity, act_cfg=dict(type=activation))
    image = torch.randn(batch_size, 3, height, width)
    expected = forward(model, image, chunked=False)
    for got, feature in zip(forward(model, image, chunked=True), expected):
        assert got.shape == feature.shape and got.is_contiguous()
        torch.testing.assert_close(got, feature, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('size', [(64, 64), (50, 61)])
@pytest.mark.parametrize('sparsity', SPARSITIES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_chunks_in_low_precision_equal_the_reference(make_swin, small_chunks, monkeypatch, dtype,
                                                     sparsity, size):
    """With the same windows: rounding may turn a near-tie of the ranking."""
    monkeypatch.setattr('sparsevit_mm.models.swin.stage.rank_windows', lambda scores, *_: (
        torch.arange(scores.shape[1]).expand_as(scores)))
    model = make_swin(sparsity=sparsity).to(dtype)
    image = torch.randn(2, 3, *size).to(dtype)
    expected = forward(model, image, chunked=False)
    for got, feature in zip(forward(model, image, chunked=True), expected):
        assert got.dtype == dtype
        assert (got - feature).abs().max() <= 2e-2 * feature.abs().max()


def test_gradients_and_dropout_take_the_reference(make_swin, monkeypatch):
    monkeypatch.setattr(cpu, 'run_block', None)
    image = torch.randn(1, 3, 40, 40)
    make_swin(sparsity=.5)(image)
    model = make_swin(sparsity=.5, drop_path_rate=.5)
    for module in model.modules():  # Monte Carlo dropout: the model in eval mode, dropout not
        if 'Drop' in type(module).__name__:
            module.train()
    assert not model.training
    with torch.no_grad():
        model(image)


@pytest.mark.parametrize('sparsity', [0, .5])
def test_weights_changed_in_place_count_at_once(make_swin, sparsity):
    """EMAHook swaps weights through ``.data``, which leaves no trace that a cache could see."""
    model = make_swin(sparsity=sparsity)
    image = torch.randn(1, 3, 50, 61)
    forward(model, image, chunked=True)
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn_like(parameter) * .1)
    expected = forward(model, image, chunked=False)
    for got, feature in zip(forward(model, image, chunked=True), expected):
        torch.testing.assert_close(got, feature, atol=1e-5, rtol=1e-5)


def test_a_batch_is_its_images(make_swin, small_chunks):
    model = make_swin(sparsity=.5)
    images = torch.randn(3, 3, 50, 61)
    together = forward(model, images, chunked=True)
    for i, image in enumerate(images):
        for got, feature in zip(forward(model, image[None], chunked=True), together):
            torch.testing.assert_close(got[0], feature[i], atol=1e-5, rtol=1e-5)


@given(st.integers(0, 40), st.integers(0, 50))
def test_spans_cover_a_length_evenly(length, size):
    spans = list(chunks.spans(length, size))
    assert [i for span in spans for i in range(length)[span]] == list(range(length))
    sizes = [span.stop - span.start for span in spans]
    assert all(1 <= s <= max(size, 1) for s in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_what_hooks_of_layers_keep_is_not_written_to(make_swin):
    model, plain = make_swin(sparsity=.5), make_swin(sparsity=.5)
    layers = [m for stage in model.stages for m in stage.blocks.modules()
              if isinstance(m, (nn.Linear, nn.LayerNorm))]
    seen = []
    for layer in layers:
        layer.register_forward_hook(lambda m, args, out: seen.append((m, args[0], out)))
    image = torch.randn(1, 3, 50, 61)
    with torch.no_grad():
        features = model(image)
    for got, expected in zip(features, forward(plain, image, chunked=True)):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert {m for m, _, _ in seen} == set(layers)
    for layer in layers:
        layer._forward_hooks.clear()
    with torch.no_grad():
        for module, given, out in seen:
            assert torch.equal(module(given), out)


def test_hooks_of_patch_layers_run(make_swin):
    model, plain = make_swin(), make_swin()
    image, seen = torch.randn(1, 3, 50, 61), []
    for module in (model.patch_embed, model.patch_embed.projection, model.stages[0].downsample):
        module.register_forward_hook(lambda m, args, out: seen.append(m))
    with torch.no_grad():
        features = model(image)
    assert seen == [model.patch_embed.projection, model.patch_embed, model.stages[0].downsample]
    for got, expected in zip(features, forward(plain, image, chunked=True)):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
