"""Draws, crossover and mutation of nested genes."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from landscape import macs_of

from sparsevit_mm.search.propose.genes import Genes
from sparsevit_mm.search.propose.sampler import from_params, to_params
from sparsevit_mm.sparsity import SparsityConfig, SparsitySpace

DEEP = SparsitySpace((2, 2, 18, 2))
seeds = st.integers(0, 10**6)
spaces = st.sampled_from([DEEP, SparsitySpace((2, 2, 6, 2)), SparsitySpace((1, 3), (0., .4, .8))])


def genes_of(space, seed=0, **settings):
    return Genes(space, macs_of, np.random.default_rng(seed), **settings)


def place(space, configs):
    """Cost of configurations between that of the sparsest, 0, and of the dense one, 1."""
    low, high = macs_of(space.uniform()[-1]), macs_of(space.uniform()[0])
    return (np.array([macs_of(c) for c in configs]) - low) / (high - low)


@pytest.mark.parametrize('depths', [(2, 2, 6, 2), (2, 2, 18, 2)])
def test_draws_cover_the_cost_evenly_where_independent_ones_do_not(depths):
    space = SparsitySpace(depths)
    genes, rng = genes_of(space), np.random.default_rng(0)
    even = np.histogram(place(space, [genes.draw() for _ in range(400)]), 8, (0, 1))[0] / 400
    independent = np.histogram(
        place(space, [space.sample(rng) for _ in range(400)]), 8, (0, 1))[0] / 400
    assert even.min() > .03 and even.max() < .2  # an even share is 1/8
    assert independent.min() < .01 and independent.max() > .25


def test_draws_are_flat_and_steep_and_hardly_ever_alike():
    genes = genes_of(DEEP)
    draws = [genes.draw() for _ in range(300)]
    steepness = [c.ratios[2][-1] - c.ratios[2][0] for c in draws]
    assert np.quantile(steepness, .15) <= .1 and np.quantile(steepness, .9) >= .4
    assert len(set(draws)) > 280


def test_draws_stay_below_the_highest_cost():
    genes = genes_of(DEEP, max_cost=.5e9)
    costs = [macs_of(genes.draw()) for _ in range(200)]
    assert np.quantile(costs, .95) <= .51e9 and min(costs) < .25e9


@given(spaces, seeds)
def test_a_child_of_two_lies_between_them(space, seed):
    genes = genes_of(space, seed)
    a, b = genes.draw(), genes.draw()
    child = genes.cross(a, b)
    for ours, one, other in zip(*(np.concatenate(c.ratios) for c in (child, a, b))):
        assert min(one, other) <= ours <= max(one, other)
    assert genes.cross(a, a) == a


@given(spaces, seeds)
def test_operators_stay_in_the_space(space, seed):
    genes = genes_of(space, seed)
    a, b = genes.draw(), genes.draw()
    for config in (a, genes.cross(a, b), genes.mutate(a)):
        assert config in space
        assert space.decode(from_params(to_params(space, config))) == config


def test_mutation_takes_neighbours_along_as_far_as_nesting_demands():
    genes = genes_of(SparsitySpace((18, )), 3)
    start = SparsityConfig(.4, (18, ))
    seen = [genes.mutate(start) for _ in range(400)]
    changed = [c for c in seen if c != start]
    assert .5 < len(changed) / len(seen) < .7  # 1 - .9**9 = .61, less those drawn at .4 again
    ends = {(c.ratios[0][0], c.ratios[0][-1]) for c in changed}
    assert {(.4, .8), (0., .4), (0., .8)} <= ends
    assert any(c.ratios[0][0] > .4 for c in changed)  # all of the stage


def test_mutation_leaves_other_stages():
    """Each gene by itself: two stages of one pair change together as rarely as chance has it."""
    genes = genes_of(SparsitySpace((2, 2)), 1)
    start = SparsityConfig(.4, (2, 2))
    seen = [genes.mutate(start).ratios for _ in range(2000)]
    first, second = (np.array([r[i][0] != .4 for r in seen]) for i in (0, 1))
    assert first.mean() == pytest.approx(.1 * 8 / 9, abs=.03)
    assert (first & second).mean() == pytest.approx((.1 * 8 / 9)**2, abs=.01)
