import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevit_mm.weights import initial_mask, nm_mask
from sparsevit_mm.weights.masks import parse_pattern


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.floats(.001, 1), st.integers(0, 99))
def test_the_first_mask_has_exactly_the_weights_asked_for(shape, density, seed):
    mask = initial_mask(shape, density, torch.Generator().manual_seed(seed))
    assert mask.dtype == torch.bool and mask.shape == tuple(shape)
    assert abs(int(mask.sum()) - density * mask.numel()) <= .5 or int(mask.sum()) == 1
    again = initial_mask(shape, density, torch.Generator().manual_seed(seed))
    assert torch.equal(mask, again)


def test_every_position_is_drawn_as_often_as_the_others():
    generator = torch.Generator().manual_seed(0)
    mean = sum(initial_mask((4, 5), .3, generator).double() for _ in range(3000)) / 3000
    assert mean.flatten().tolist() == pytest.approx([.3] * 20, abs=.04)


def test_two_of_four_keeps_the_highest_of_each_group_along_the_inputs():
    score = torch.tensor([[4., 1, 3, 2, 0, 0, 0, 0], [1, 2, 3, 4, 0, 7, 0, 8]])
    assert nm_mask(score, 2, 4).long().tolist() == [[1, 0, 1, 0, 1, 1, 0, 0],
                                                    [0, 0, 1, 1, 0, 1, 0, 1]]


@given(st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 8)]), st.integers(1, 3), st.integers(1, 3))
def test_every_group_of_a_convolution_keeps_n_of_m(pattern, groups, out):
    n, m = pattern
    score = torch.rand(out, groups * m, 3, 2)
    mask = nm_mask(score, n, m)
    assert mask.shape == score.shape
    assert (mask.unflatten(1, (groups, m)).sum(2) == n).all()
    assert torch.equal(nm_mask(score.transpose(0, 1), n, m, dim=0), mask.transpose(0, 1))


def test_what_is_no_multiple_is_refused():
    with pytest.raises(ValueError, match=r'dimension 1 of \(8, 6\) .* multiple of 4'):
        nm_mask(torch.rand(8, 6), 2, 4)


def test_patterns():
    assert parse_pattern('2:4') == (2, 4)
    for pattern in ('4:2', '0:4', '4:4', '2/4', '', None, 24):
        with pytest.raises(ValueError, match='pattern is .*: not of the form N:M'):
            parse_pattern(pattern)
