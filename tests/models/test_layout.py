import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevit_mm.models.layout import AllWindows, KeptWindows, from_stream, to_stream
from sparsevit_mm.models.windows import partition

CPU = torch.device('cpu')
CHANNELS = 3


@st.composite
def selections(draw):
    """A partition, features (B, L, C) and windows (B, K) in no order."""
    side = st.integers(1, 13)
    windows = partition(draw(side), draw(side), 4, draw(st.sampled_from([0, 2])), CPU)
    batch_size = draw(st.integers(1, 3))
    kept = draw(st.integers(1, windows.num_windows))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    x = torch.randn(
        batch_size, windows.height * windows.width, CHANNELS, generator=generator)
    selected = torch.stack([
        torch.randperm(windows.num_windows, generator=generator)[:kept]
        for _ in range(batch_size)])
    return windows, x, selected


def tokens_of(windows, selected):
    """The set of tokens of an image's windows."""
    return set(windows.table[selected].flatten().tolist()) - {windows.height * windows.width}


@given(selections())
def test_a_stream_holds_the_map_and_is_a_copy(case):
    windows, x, _ = case
    before = x.clone()
    stream = to_stream(x, windows)
    assert torch.equal(from_stream(stream, len(x), windows), x)
    stream.fill_(7.)
    assert torch.equal(x, before)


@given(selections())
def test_gather_then_scatter_is_the_identity(case):
    windows, x, selected = case
    layout = KeptWindows(windows, selected)
    stream = to_stream(x, windows)
    layout.scatter_(stream, layout.gather(stream))
    assert torch.equal(from_stream(stream, len(x), windows), x)


@given(selections())
def test_scatter_writes_the_tokens_of_kept_windows_and_no_other(case):
    windows, x, selected = case
    layout = KeptWindows(windows, selected)
    stream = to_stream(x, windows)
    layout.scatter_(stream, layout.gather(stream) + 1)
    changed = from_stream(stream, len(x), windows) != x
    for image, kept in zip(changed, selected):
        rows = image.all(-1)
        assert torch.equal(rows, image.any(-1))
        assert set(rows.nonzero().flatten().tolist()) == tokens_of(windows, kept)


@given(selections())
def test_gather_takes_windows_in_the_order_given(case):
    windows, x, selected = case
    stream = to_stream(x, windows)
    gathered = KeptWindows(windows, selected).gather(stream).reshape(*selected.shape, -1, CHANNELS)
    order = torch.randperm(selected.shape[1])
    permuted = KeptWindows(windows, selected[:, order])
    again = permuted.gather(stream).reshape(*selected.shape, -1, CHANNELS)
    assert torch.equal(again, gathered[:, order])
    for image, kept, windows_of_image in zip(x, selected, gathered):
        for window, values in zip(kept, windows_of_image):
            real = windows.table[window] < len(image)
            assert torch.equal(values[real], image[windows.table[window][real]])


@given(selections())
def test_what_padded_tokens_hold_reaches_no_real_token(case):
    windows, x, selected = case
    layout = KeptWindows(windows, selected)
    stream = to_stream(x, windows)
    tokens = layout.gather(stream)
    if layout.padded is not None:
        tokens = torch.where(layout.padded, torch.nan, tokens)
    layout.scatter_(stream, tokens)
    assert torch.equal(from_stream(stream, len(x), windows), x)
    bias = torch.arange(3. * CHANNELS)
    qkv = layout.gather(stream).repeat(1, 1, 3)
    assert layout.to_windows(qkv, bias).isfinite().all()


@given(selections(), st.booleans())
def test_keeping_every_window_sees_what_the_dense_layout_sees(case, has_bias):
    """The same windows, biases in place of padding, and masks; the same tokens come back."""
    windows, x, _ = case
    everything = torch.arange(windows.num_windows).expand(len(x), -1)
    dense, kept = AllWindows(windows), KeptWindows(windows, everything)
    bias = torch.randn(3 * CHANNELS) if has_bias else None
    qkv = x.repeat(1, 1, 3)
    stream = to_stream(qkv, windows)
    by_window = dense.to_windows(qkv, bias)
    assert torch.equal(kept.to_windows(kept.gather(stream), bias), by_window)
    padding = by_window[windows.table.eq(x.shape[1]).expand(by_window.shape[:3])]
    assert torch.equal(padding, (torch.zeros(9) if bias is None else bias).expand_as(padding))
    if windows.shift:
        assert torch.equal(kept.masks[kept.mask_index][0], dense.masks[dense.mask_index])
    else:
        assert kept.masks is dense.masks is None
    assert torch.equal(dense.to_tokens(by_window), qkv)
    kept.scatter_(stream, kept.to_tokens(by_window))
    assert torch.equal(from_stream(stream, len(x), windows), qkv)
