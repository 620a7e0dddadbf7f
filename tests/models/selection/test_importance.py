"""The laws of the scores that look at the map, against loops over its tokens."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sparsevit_mm.models import chunks
from sparsevit_mm.models.selection.head import ImportanceHead
from sparsevit_mm.models.selection.importance import TOKEN_SCORES, MapInfo
from sparsevit_mm.models.selection.ranking import (rank_windows, score_windows, select_windows,
                                                   valid_windows)
from sparsevit_mm.models.selection.selector import TokenSelector
from sparsevit_mm.models.windows import partition

CHANNELS = 6
SELECTOR = TokenSelector(CHANNELS)
OF_THE_MAP = ['variation', 'distinct', 'learned']
REPEATABLE = sorted(TOKEN_SCORES.keys() - {'random'})
SIDE = st.integers(1, 9)
of_the_map = pytest.mark.parametrize('name', OF_THE_MAP)


@pytest.fixture(scope='module')
def head(randomise):
    return randomise(ImportanceHead(CHANNELS))


def random_map(hw, batch_size=2, seed=0):
    """(B, L, C) tokens whose mean and spread differ."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch_size, hw[0] * hw[1], CHANNELS, generator=generator)
    return x * torch.rand(x.shape[:2], generator=generator)[..., None] * 4 + x[..., :1]


@torch.no_grad()
def scores(name, head, x, hw, sizes=None):
    return TOKEN_SCORES[name](x, MapInfo(hw, sizes, head, SELECTOR)).reshape(-1, *hw)


@st.composite
def padded_maps(draw):
    """(x, (H, W), sizes): images that fill parts of a map, and noise around them that is louder."""
    hw = draw(SIDE), draw(SIDE)
    sizes = [[draw(st.integers(1, side)) for side in hw] for _ in range(draw(st.integers(1, 3)))]
    x = random_map(hw, len(sizes), draw(st.integers(0, 99))).reshape(-1, *hw, CHANNELS)
    padding = torch.ones_like(x)
    for image, (height, width) in zip(padding, sizes):
        image[:height, :width] = 0
    return (x + 1000 * torch.randn_like(x) * padding).flatten(1, 2), hw, torch.tensor(sizes)


def mean_of(tokens):
    return sum(tokens) / len(tokens)


def by_loops(name, head, image):
    """The scores of an image (h, w, C) without padding, token by token."""
    height, width, _ = image.shape
    normed = [[(t - t.mean()) / (t.var(unbiased=False) + 1e-5).sqrt() for t in row]
              for row in image]
    mean = mean_of([t for row in normed for t in row])
    result = torch.empty(height, width)
    for i in range(height):
        for j in range(width):
            around = mean_of([normed[y][x]
                              for y in range(max(i - 1, 0), min(i + 2, height))
                              for x in range(max(j - 1, 0), min(j + 2, width))])
            token = normed[i][j]
            figures = [(token - around).norm(), (token - mean).norm(), image[i, j].abs().mean()]
            if name == 'learned':
                logs = torch.stack(figures).clamp(min=1e-6).log()
                weights = head.weight.detach() * 10
                log_score = (torch.cat([token, logs]) * weights).sum()
                result[i, j] = (log_score.clamp(-60, 60) / 2).exp()
            else:
                result[i, j] = figures[OF_THE_MAP.index(name)]
    return result


@of_the_map
@given(padded_maps())
def test_scores_are_those_of_loops_over_what_is_no_padding_and_of_padding_0(head, name, case):
    """At every border, whatever lies beyond it, on maps of one row, one column and one token."""
    x, hw, sizes = case
    got = scores(name, head, x, hw, sizes)
    for image, score, (height, width) in zip(x.reshape(-1, *hw, CHANNELS), got, sizes.tolist()):
        inside = image[:height, :width]
        if name != 'learned' or height * width > 1:  # of one token the logs are of rounding
            torch.testing.assert_close(score[:height, :width], by_loops(name, head, inside),
                                       atol=2e-5, rtol=1e-3)
        score[:height, :width] = 0
        assert not score.any()


@of_the_map
@given(padded_maps())
def test_an_image_scores_among_others_as_alone_and_cropped(head, name, case):
    x, hw, sizes = case
    together = scores(name, head, x, hw, sizes)
    for image, score, (height, width) in zip(x.reshape(-1, *hw, CHANNELS), together,
                                             sizes.tolist()):
        cropped = image[:height, :width].reshape(1, -1, CHANNELS)
        torch.testing.assert_close(score[:height, :width],
                                   scores(name, head, cropped, (height, width))[0],
                                   atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('name', REPEATABLE)
@given(st.tuples(SIDE, SIDE), st.permutations(range(4)))
def test_permuted_images_are_ranked_and_kept_alike(head, name, hw, order):
    x = random_map(hw, 4)
    windows = partition(*hw, 3, 1, x.device)
    kept = [select_windows(rank_windows(score_windows(
        scores(name, head, images, hw).flatten(1), windows)), 2) for images in (x, x[order])]
    assert torch.equal(kept[0][order], kept[1])


@of_the_map
@given(padded_maps(), st.sampled_from([0, 1]))
def test_padding_never_ranks_before_the_image(head, name, case, shift):
    """By the score alone too, where the image has one above 0."""
    x, hw, sizes = case
    windows = partition(*hw, 3, shift, x.device)
    valid = valid_windows(windows, sizes)
    score = score_windows(scores(name, head, x, hw, sizes).flatten(1), windows)
    assert not score[~valid].any()
    for ranking in (rank_windows(score, valid), rank_windows(score + ~valid, valid)):
        ranked = valid.gather(1, ranking).int()
        assert (ranked.diff(dim=1) <= 0).all()


@pytest.mark.parametrize('name', ['variation', 'distinct'])
@given(st.tuples(SIDE, SIDE), st.integers(0, 99))
def test_a_token_s_scale_and_offset_count_for_nothing(head, name, hw, seed):
    """LayerNorm takes them away, down to tokens whose spread is that of its epsilon."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, hw[0] * hw[1], CHANNELS, generator=generator)
    scale, offset = torch.rand(2, 2, hw[0] * hw[1], 1, generator=generator)
    other = x * (.5 + 9 * scale) + 9 * offset
    torch.testing.assert_close(scores(name, head, other, hw), scores(name, head, x, hw),
                               atol=2e-3, rtol=2e-3)


@of_the_map
@pytest.mark.parametrize('hw', [(1, 1), (3, 3), (3, 6), (9, 6), (30, 42)])
@pytest.mark.parametrize('colour', [
    torch.tensor([.3, -4., .7, 1.1, 9., -.2]), torch.zeros(6), torch.full((6, ), 7.)])
@pytest.mark.parametrize('built', [True, False], ids=['as built', 'any head'])
def test_an_image_of_one_colour_has_no_variation_and_ties_go_to_the_lower_window(
        head, name, hw, colour, built):
    x = colour.expand(2, hw[0] * hw[1], CHANNELS)
    got = scores(name, ImportanceHead(CHANNELS) if built else head, x, hw)
    assert got.isfinite().all() and (got == got[0, 0, 0]).all()
    assert name == 'learned' or not got.any()
    windows = partition(*hw, 3, 0, x.device)
    ranking = rank_windows(score_windows(got.flatten(1), windows))
    assert torch.equal(ranking, torch.arange(windows.num_windows).expand_as(ranking))


@pytest.mark.parametrize('name', REPEATABLE)
@given(padded_maps(), st.integers(1, 3))
def test_chunks_change_nothing(head, name, case, rows):
    """Of a few rows of the map, or of a few tokens."""
    x, hw, sizes = case
    info = MapInfo(hw, sizes, head, SELECTOR)
    with torch.enable_grad():
        whole = TOKEN_SCORES[name](x, info).detach()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(chunks, 'CHUNK_BYTES', rows * len(x) * hw[1] * CHANNELS * 4)
        torch.testing.assert_close(TOKEN_SCORES[name](x, info), whole, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize('name', REPEATABLE)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('autocast', [None, torch.float16, torch.bfloat16])
def test_scores_are_in_fp32_from_inputs_of_any_dtype_and_under_autocast(
        head, name, dtype, autocast):
    x = random_map((9, 7)).to(dtype)
    expected = scores(name, head, x.float(), (9, 7))
    with torch.autocast('cpu', autocast, enabled=autocast is not None):
        got = scores(name, head, x, (9, 7))
    assert got.dtype == torch.float32 and got.isfinite().all()
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


@of_the_map
@pytest.mark.parametrize('value', [6e4, -6e4, 1e-7, 0.])
def test_extreme_features_give_finite_scores(head, name, value):
    x = F.pad(torch.full((1, 1, CHANNELS), value), (0, 0, 0, 5))
    for dtype in (torch.float32, torch.float16):
        assert scores(name, head, x.to(dtype), (2, 3)).isfinite().all()
