import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevit_mm.models.chunks import spans
from sparsevit_mm.models.swin.layout import AllWindows, KeptWindows, WindowChunk, split
from sparsevit_mm.models.windows import partition

CPU = torch.device('cpu')
CHANNELS = 3
WINDOW = 4


@st.composite
def selections(draw):
    """A partition, features (B, L, C) and windows (B, K) in no order."""
    side = st.integers(1, 13)
    windows = partition(draw(side), draw(side), WINDOW, draw(st.sampled_from([0, 2])), CPU)
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
    """The real tokens of an image's windows."""
    return set(windows.table[selected].flatten().tolist()) - {windows.height * windows.width}


def by_window(windows, image, selected):
    """(K, N, C) of one image (L, C), NaN where a token is padding."""
    padded = torch.cat([image, torch.full_like(image[:1], torch.nan)])
    return padded[windows.table[selected]]


@given(selections())
def test_take_then_put_is_the_identity(case):
    windows, x, selected = case
    layout = KeptWindows(windows, selected)
    tokens, rest = layout.take(x.clone())
    assert torch.equal(layout.put(rest, tokens), x)


@given(selections())
def test_put_writes_the_tokens_of_kept_windows_and_no_other(case):
    windows, x, selected = case
    layout = KeptWindows(windows, selected)
    tokens, rest = layout.take(x.clone())
    changed = layout.put(rest, tokens + 1) != x
    for image, kept in zip(changed, selected):
        rows = image.all(-1)
        assert torch.equal(rows, image.any(-1))
        assert set(rows.nonzero().flatten().tolist()) == tokens_of(windows, kept)


@given(selections())
def test_no_token_runs_twice_but_where_others_have_more(case):
    """T is what the fullest of all selections needs: the real tokens come first, then copies of
    one of them, marked as spare."""
    windows, x, selected = case
    layout = KeptWindows(windows, selected)
    L = windows.height * windows.width
    rows = layout.rows.reshape(len(x), -1) - L * torch.arange(len(x))[:, None]
    for i, (image, kept) in enumerate(zip(rows.tolist(), selected)):
        real = tokens_of(windows, kept)
        assert set(image) == real == set(image[:len(real)])
        spare = [False] * len(image) if layout.spare is None else layout.spare[i].tolist()
        assert spare == [False] * len(real) + [True] * (len(image) - len(real))
    most = sorted((len(tokens_of(windows, w)) for w in range(windows.num_windows)), reverse=True)
    assert rows.shape[1] == sum(most[:selected.shape[1]])


@given(selections())
def test_windows_see_their_tokens_and_zeros_for_padding(case):
    windows, x, selected = case
    layout = KeptWindows(windows, selected)
    seen = layout.to_windows(layout.pad(layout.take(x)[0]))
    for image, kept, got in zip(x, selected, seen):
        assert torch.equal(got, by_window(windows, image, kept).nan_to_num(0.))
    everything = AllWindows(windows)
    seen = everything.to_windows(everything.pad(x))
    expected = [by_window(windows, image, torch.arange(windows.num_windows)) for image in x]
    assert torch.equal(seen, torch.stack(expected).nan_to_num(0.))


@given(selections())
def test_to_tokens_inverts_to_windows_and_drops_what_padding_holds(case):
    windows, x, selected = case
    expected = [by_window(windows, image, kept) for image, kept in zip(x, selected)]
    layout = KeptWindows(windows, selected)
    assert torch.equal(layout.to_tokens(torch.stack(expected)), layout.take(x)[0])
    everything = AllWindows(windows)
    expected = [by_window(windows, image, torch.arange(windows.num_windows)) for image in x]
    assert torch.equal(everything.to_tokens(torch.stack(expected)), x)


@given(selections())
def test_masks_go_with_their_windows(case):
    windows, _, selected = case
    layout = KeptWindows(windows, selected)
    if not windows.shift:
        assert layout.masks is layout.mask_index is AllWindows(windows).masks is None
        return
    everything = AllWindows(windows)
    expected = everything.masks[everything.mask_index][selected]
    assert torch.equal(layout.masks[layout.mask_index], expected)


@given(selections(), st.booleans(), st.integers(0, 200))
def test_a_split_holds_the_same_windows_and_plain_ones_need_neither_mask_nor_padding(
        case, dense, max_tokens):
    windows, x, selected = case
    if dense:
        selected = torch.arange(windows.num_windows).expand(len(x), -1)
    parts = split(windows, None if dense else selected, len(x), max_tokens)
    if selected.numel() * WINDOW**2 <= max_tokens:
        assert len(parts) == 1
    together = sorted((i, w) for part in parts
                      for i, w in zip(part.images.tolist(), part.index.tolist()))
    assert together == sorted((i, w) for i, image in enumerate(selected.tolist()) for w in image)
    for part in parts:
        if part.plain:
            assert windows.padded is None or not windows.padded[part.index].any()
            assert windows.masks is None or not windows.masks[windows.mask_index[part.index]].any()
    assert max(windows.num_windows - len(windows.edge), 0) == len(windows.interior)


@given(selections(), st.integers(1, 200))
def test_chunks_hold_the_tokens_of_their_windows_and_no_padding(case, max_tokens):
    windows, x, selected = case
    taken = []
    for part in split(windows, selected, len(x), max_tokens):
        for span in spans(len(part.index), max_tokens // WINDOW**2):
            index, images = part.index[span], part.images[span]
            chunk = WindowChunk(windows, index, images, part.plain)
            taken += chunk.rows.tolist()
            tokens = x.flatten(0, 1)[chunk.rows][None]
            got = chunk.to_windows(chunk.pad(tokens))
            expected = torch.cat([by_window(windows, x[i], w[None])
                                  for i, w in zip(images, index)])
            assert torch.equal(got[0], expected.nan_to_num(0.))
            assert torch.equal(chunk.to_tokens(got), tokens)
            if windows.masks is not None:
                masks = windows.masks[windows.mask_index[index]]
                assert torch.equal(windows.masks[chunk.mask_index], masks) if (
                    chunk.mask_index is not None) else not masks.any()
    L = windows.height * windows.width
    expected = {t + i * L for i, kept in enumerate(selected) for t in tokens_of(windows, kept)}
    assert len(taken) == len(set(taken)) and set(taken) == expected
