import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevit_mm.models.selection.head import ImportanceHead
from sparsevit_mm.models.selection.importance import TOKEN_SCORES, MapInfo
from sparsevit_mm.models.selection.ranking import rank_windows, score_windows, select_windows
from sparsevit_mm.models.selection.selector import TokenSelector
from sparsevit_mm.models.windows import partition

CPU = torch.device('cpu')
GEOMETRIES = st.tuples(
    st.integers(1, 12), st.integers(1, 12), st.just(4), st.sampled_from([0, 2]))


def features(geometry, batch_size=2, channels=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch_size, geometry[0] * geometry[1], channels, generator=generator)


def scores_of(name, x, geometry):
    channels = x.shape[-1]
    info = MapInfo(geometry[:2], None, ImportanceHead(channels), TokenSelector(channels))
    with torch.no_grad():
        return score_windows(TOKEN_SCORES[name](x, info), partition(*geometry, CPU))


def values_of_windows(x, geometry):
    """One (values of real tokens, C) tensor for each image and window."""
    table = partition(*geometry, CPU).table
    return [[image[window[window < len(image)]] for window in table] for image in x]


@given(GEOMETRIES)
def test_magnitude_is_the_norm_of_mean_absolute_activations(geometry):
    x = features(geometry)
    expected = torch.tensor([[sum(token.abs().mean()**2 for token in window)**.5
                              for window in image] for image in values_of_windows(x, geometry)])
    torch.testing.assert_close(scores_of('magnitude', x, geometry), expected)


@given(GEOMETRIES)
def test_l2_is_the_norm_of_all_values_of_a_window(geometry):
    x = features(geometry)
    expected = torch.tensor([[window.norm() for window in image]
                             for image in values_of_windows(x, geometry)])
    torch.testing.assert_close(scores_of('l2', x, geometry), expected)


@pytest.mark.parametrize('name', ['magnitude', 'l2'])
def test_padding_counts_nothing(name):
    """A map whose last column of windows is mostly padding scores as if it held zeros there."""
    x = features((4, 5), batch_size=1)
    filled = torch.zeros(1, 4, 8, 5)
    filled[:, :, :5] = x.reshape(1, 4, 5, 5)
    torch.testing.assert_close(
        scores_of(name, x, (4, 5, 4, 0)), scores_of(name, filled.flatten(1, 2), (4, 8, 4, 0)))


def test_random_scores_ignore_the_features():
    geometry = (8, 8, 4, 0)
    drawn = []
    for seed in (0, 1):
        torch.manual_seed(3)
        drawn.append(scores_of('random', features(geometry, seed=seed), geometry))
    assert torch.equal(*drawn)
    again = scores_of('random', features(geometry), geometry)
    assert not torch.equal(again, drawn[0]), 'each call draws anew'
    assert not torch.equal(again[0], again[1]), 'each image draws its own'


@pytest.mark.parametrize('name', sorted(TOKEN_SCORES))
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_are_fp32_whatever_the_dtype(name, dtype):
    """Values whose squares, and whose sums, fp16 can't hold."""
    x = torch.full((1, 16, 64), 6e4).to(dtype)
    with torch.autocast('cpu', torch.bfloat16):
        scores = scores_of(name, x, (4, 4, 4, 0))
    assert scores.dtype == torch.float32
    if name == 'magnitude':
        torch.testing.assert_close(scores, x.float().abs()[:, :1, 0] * 4)
    elif name == 'l2':
        torch.testing.assert_close(scores, x.float().abs()[:, :1, 0] * 32)


def test_ranking_tells_apart_what_half_precision_would_not():
    """Two windows whose mean activations, 1 and 1 + 2**-13, are one number in bf16."""
    x = torch.ones(1, 4, 8, 64)
    x[:, :, 4:, 0] += 2**-7
    x = x.flatten(1, 2).bfloat16()
    assert x.abs().mean(-1).unique().tolist() == [1.]
    assert rank_windows(scores_of('magnitude', x, (4, 8, 4, 0))).tolist() == [[1, 0]]


@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 99), st.booleans())
def test_a_ranking_orders_all_windows_and_ties_by_index(batch_size, windows, seed, coarse):
    scores = torch.rand(batch_size, windows, generator=torch.Generator().manual_seed(seed))
    if coarse:
        scores = (scores * 3).floor()
    ranking = rank_windows(scores)
    for image, order in zip(scores.tolist(), ranking.tolist()):
        assert order == sorted(range(windows), key=lambda w: (-image[w], w))


@given(st.integers(2, 4), st.integers(1, 30))
def test_an_image_is_ranked_by_itself(batch_size, windows):
    scores = (torch.rand(batch_size, windows) * 4).floor()
    alone = torch.cat([rank_windows(image[None]) for image in scores])
    assert torch.equal(rank_windows(scores), alone)


@given(st.integers(1, 30))
def test_fewer_windows_are_a_prefix_of_more(windows):
    ranking = rank_windows(torch.rand(2, windows))
    for k in range(1, windows + 1):
        selected = select_windows(ranking, k)
        assert selected.shape == (2, k)
        assert torch.equal(selected[:, :k - 1], ranking[:, :k - 1])
    assert torch.equal(select_windows(ranking, windows), ranking)
