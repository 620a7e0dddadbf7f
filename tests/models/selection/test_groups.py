"""Images that share a budget of windows: the laws of their ranking, and what they run."""
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsevit_mm.models.selection.ranking import Selection, rank_windows
from sparsevit_mm.models.swin import rows
from sparsevit_mm.models.swin.kernels import cpu
from sparsevit_mm.models.swin.layout import KeptWindows, most_tokens, split
from sparsevit_mm.models.windows import num_windows, partition
from sparsevit_mm.sparsity import kept_windows

CPU = torch.device('cpu')
WINDOW = 4


@st.composite
def rankings(draw):
    """Scores and validity of some groups, and what is asked of their ranking."""
    group, groups, windows = (draw(st.integers(1, top)) for top in (5, 3, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    scores = torch.rand(groups * group, windows, generator=generator).mul(8).round()  # with ties
    number = torch.randint(1, windows + 1, (groups * group, 1), generator=generator)
    valid = torch.rand(groups * group, windows, generator=generator).argsort(1) < number
    return scores, valid, group


@given(rankings())
def test_every_window_stands_once_and_padding_behind_all_others(case):
    scores, valid, group = case
    ranking = rank_windows(scores, valid, group)
    valid = valid.reshape(ranking.shape)
    assert torch.equal(ranking.sort(1).values,
                       torch.arange(ranking.shape[1]).expand_as(ranking))
    ranked = valid.gather(1, ranking).int()
    assert (ranked.diff(dim=1) <= 0).all()


@given(rankings(), st.floats(0, 1))
def test_a_group_keeps_its_best_wherever_they_are(case, share):
    scores, valid, group = case
    ranking = rank_windows(scores, valid, group)
    kept = 1 + int(share * (ranking.shape[1] - 1))
    scores = torch.where(valid, scores, -1.).reshape(ranking.shape)
    ranked = scores.gather(1, ranking)
    assert torch.equal(ranked, scores.sort(1, descending=True).values)
    assert (ranked[:, :kept].amin(1) >= ranked[:, kept - 1:].amax(1)).all()


@given(rankings())
def test_a_group_is_ranked_by_itself(case):
    scores, valid, group = case
    together = rank_windows(scores, valid, group)
    alone = [rank_windows(s, v, group) for s, v in zip(scores.split(group), valid.split(group))]
    assert torch.equal(together, torch.cat(alone))


@st.composite
def group_cases(draw):
    """A partition, the windows that groups of images run, (G, K), and the images of a group."""
    side = st.integers(1, 13)
    windows = partition(draw(side), draw(side), WINDOW, draw(st.sampled_from([0, 2])), CPU)
    group, groups = draw(st.integers(2, 4)), draw(st.integers(1, 2))
    total = group * windows.num_windows
    kept = draw(st.integers(1, total))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    selected = torch.stack([torch.randperm(total, generator=generator)[:kept]
                            for _ in range(groups)])
    return windows, selected, group


def features(windows, selected, group, channels=8):
    return torch.randn(len(selected) * group, windows.height * windows.width, channels)


def by_image(block, x, windows, selected, group):
    """The oracle: each image by itself, on the windows that its group's selection gives it."""
    out = []
    for i, image in enumerate(x):
        index = selected[i // group]
        own = index[index // windows.num_windows == i % group] % windows.num_windows
        image = image[None].clone()
        out.append(rows.release(block(image, windows, own[None])) if len(own) else image)
    return torch.cat(out)


@pytest.fixture
def block(randomise):
    from sparsevit_mm.models.swin.stage import SwinBlock
    return randomise(SwinBlock(
        embed_dims=8, num_heads=2, feedforward_channels=16, window_size=WINDOW, shift=False,
        qkv_bias=True, qk_scale=None, drop_rate=0., attn_drop_rate=0., drop_path_rate=.5,
        act_cfg=dict(type='GELU'), norm_cfg=dict(type='LN'), with_cp=False)).eval()


@pytest.mark.parametrize('size', [10**9, 40])
@given(group_cases())
def test_a_group_runs_what_its_images_would_run_alone(block, size, case):
    windows, selected, group = case
    x = features(*case)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, 'MIN_TOKENS', 1)
        patch.setattr(cpu, 'CHUNK_BYTES', 64 * size)
        expected = by_image(block, x, *case)
        chunked = block(x.clone(), windows, selected, group)
    torch.testing.assert_close(chunked, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(block(x, windows, selected, group), expected, atol=1e-5, rtol=1e-5)


@given(group_cases())
def test_gradients_of_a_group_are_those_of_its_images_alone(block, case):
    x, grads = features(*case), []
    for run in (lambda x: block(x, *case), lambda x: by_image(block, x, *case)):
        leaf = x.clone().requires_grad_()
        block.zero_grad()
        after = rows.release(run(rows.own(leaf, True)))
        after.backward(after.detach().cos())
        grads.append([leaf.grad, *(p.grad.clone() for p in block.parameters())])
    for got, expected in zip(*grads):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@given(group_cases(), st.integers(0, 200))
def test_parts_hold_the_windows_of_each_image_of_a_group(case, size):
    windows, selected, group = case
    x = features(*case)
    parts = split(windows, selected, len(x), size, group)
    got = sorted((i, w) for part in parts
                 for i, w in zip(part.images.tolist(), part.index.tolist()))
    assert got == sorted((g * group + w // windows.num_windows, w % windows.num_windows)
                         for g, kept in enumerate(selected.tolist()) for w in kept)


@given(group_cases())
def test_a_group_s_tokens_lie_in_its_images(case):
    windows, selected, group = case
    x = features(*case)
    layout = KeptWindows(windows, selected, group)
    images = layout.rows.reshape(layout.images.shape) // x.shape[1]
    assert torch.equal(images % group, layout.images)
    assert torch.equal(images // group, torch.arange(len(selected))[:, None].expand_as(images))
    tokens, rest = layout.take(x.clone())
    assert tokens.shape[1] == most_tokens(windows, selected.shape[1], group) or (
        windows.padded is None)
    assert torch.equal(layout.put(rest, tokens), x)


def test_most_tokens_is_what_the_fullest_windows_hold():
    windows = partition(9, 13, WINDOW, 0, CPU)
    real = sorted((windows.table < 9 * 13).sum(1).tolist() * 3, reverse=True)
    assert [most_tokens(windows, k, 3) for k in range(len(real) + 1)] == [
        sum(real[:k]) for k in range(len(real) + 1)]


def test_drop_path_is_drawn_for_each_image_of_a_group(block):
    """In training each image keeps a branch in all of its windows or in none."""
    windows = partition(8, 8, WINDOW, 0, CPU)
    x = torch.randn(64, 64, 8)
    selected = torch.arange(4 * 32).expand(2, -1)
    nn.init.zeros_(block.ffn.layers[1].weight), nn.init.zeros_(block.ffn.layers[1].bias)
    out = block.train()(x.clone(), windows, selected, 32)
    changed = (out != x).any(-1)
    assert torch.equal(changed.all(1), changed.any(1))
    assert 16 <= changed.any(1).sum() <= 48


@pytest.mark.parametrize('scope, changes', [
    ('group', dict(group_size=3)), ('group', dict(group_size='batch')),
    ('image', {})])
def test_a_backbone_runs_k_windows_for_each_image_on_average(make_swin, scope, changes):
    model = make_swin(sparsity=[.3, .5], scope=scope, **changes)
    images = torch.randn(6, 3, 64, 48) * torch.arange(1, 7)[:, None, None, None]
    with torch.no_grad(), model.recording() as maps:
        model(images)
    for (height, width), ratio, blocks in zip([(16, 12), (8, 6)], (.3, .5), maps):
        k = kept_windows(num_windows(height, width, WINDOW), ratio)
        plain = blocks[0]
        tiles = plain.unfold(1, min(WINDOW, height), WINDOW).unfold(2, WINDOW, WINDOW)
        number = tiles.flatten(3).all(-1).sum((1, 2))
        if width % WINDOW == 0:
            assert number.sum() == 6 * k
            assert len(set(number.tolist())) == 1 if scope == 'image' else number.max() > k


def test_frames_do_not_depend_on_each_other(make_swin):
    model = make_swin(sparsity=.6, scope='group', group_size=3)
    images = torch.randn(6, 3, 50, 61)
    with torch.no_grad():
        together = model(images)
        for i, frame in enumerate(images.split(3)):
            for alone, among in zip(model(frame), together):
                torch.testing.assert_close(among[3 * i:3 * i + 3], alone, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize('changes', [
    dict(scope='group', group_size=2), dict(padding_last=False)])
def test_at_zero_sparsity_nothing_changes(make_swin, changes):
    images = torch.randn(4, 3, 50, 61)
    with torch.no_grad():
        expected = make_swin()(images)
        assert all(map(torch.equal, make_swin(**changes)(images), expected))


@pytest.mark.parametrize('changes, batch_size, named', [
    (dict(group_size=4), 6, 'batch of 6 images .*group size, 4'),
    ({}, 6, "scope 'group' .*batch of 6 images")])
@pytest.mark.parametrize('sparsity', [0, .5])
def test_a_batch_that_makes_no_groups_is_refused(make_swin, changes, batch_size, named, sparsity):
    model = make_swin(scope='group', sparsity=sparsity, **changes)
    with pytest.raises(ValueError, match=named):
        model(torch.randn(batch_size, 3, 32, 32))


@pytest.mark.parametrize('changes, named', [
    (dict(scope='frame'), "scope 'frame' .*image, group"),
    (dict(group_size=0), 'group_size 0 is neither'), (dict(group_size='all'), "'all' is neither"),
    (dict(group_size=True), 'group_size True'),
    (dict(importance='loudness'), "'loudness' .*magnitude")])
def test_settings_that_mean_nothing_are_named(changes, named):
    with pytest.raises(ValueError, match=named):
        Selection(**changes)
