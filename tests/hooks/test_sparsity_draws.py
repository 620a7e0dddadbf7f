"""Which configurations SparsityAdaptationHook draws."""
import random
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from standing import Standing, ready

from sparsevit_mm import Front, SparsityAdaptationHook, SparsityConfig, SparsitySpace
from sparsevit_mm.budget import FrontPoint

depths_of_any_kind = st.lists(st.integers(1, 5), min_size=1, max_size=3)


@settings(max_examples=15, deadline=None)
@given(depths_of_any_kind, st.integers(0, 2**31), st.lists(st.integers(0, 10**6), max_size=4))
def test_draw_is_a_function_of_seed_and_iteration_within_the_space(depths, seed, iterations):
    choices = (0., .25, .5)
    one, other = (ready(depths, seed=seed, choices=choices) for _ in range(2))
    expected = {i: one.draw(i) for i in iterations}
    assert {i: other.draw(i) for i in reversed(iterations)} == expected
    assert all(draw in SparsitySpace(depths, choices) for draw in expected.values())


def test_draws_differ_by_seed_and_iteration_and_reach_every_choice():
    hook, other = ready((2, 2, 6, 2)), ready((2, 2, 6, 2), seed=1)
    draws = [hook.draw(i) for i in range(200)]
    assert len(set(draws)) > 150
    assert draws != [other.draw(i) for i in range(200)]
    assert {r for d in draws for stage in d.ratios for r in stage} == {i / 10 for i in range(9)}


@st.composite
def neighbourhoods(draw):
    """(space, a few of its configurations)."""
    choices = draw(st.sampled_from([(.3, ), (0., .5), (0., .25, .5), (.1, .2, .3, .4, .6)]))
    space = SparsitySpace(tuple(draw(depths_of_any_kind)), choices)
    seeds = draw(st.lists(st.integers(0, 2**31), min_size=1, max_size=4))
    return space, [space.sample(np.random.default_rng(seed)) for seed in seeds]


@settings(max_examples=30)
@given(neighbourhoods(), st.integers(0, 2**31))
def test_draws_around_a_list_are_in_the_space_and_a_step_or_less_a_pair_from_one_of_it(case, seed):
    space, around = case
    hook = ready(space.depths, seed=seed, choices=space.choices,
                 around=[config.to_list() for config in around])
    centres = np.array([space.encode(config) for config in around])
    for i in range(30):
        genes = space.encode(hook.draw(i))  # raises outside the space
        assert (abs(centres - genes).max(axis=1) <= 1).any()
        assert all(list(stage) == sorted(stage) for stage in space.by_stage(genes))


@pytest.mark.parametrize('depths', [(2, ), (2, 2), (2, 2, 6, 2), (2, 2, 18, 2)])
def test_half_of_the_draws_are_of_the_list_each_as_often_as_the_others(depths):
    """At both ends of the choices, and between, nine choices apart."""
    centres = [SparsityConfig(ratio, depths) for ratio in (0, .4, .8)]
    hook = ready(depths, around=centres)
    draws = [hook.draw(i) for i in range(2000)]
    shares = [draws.count(centre) / len(draws) for centre in centres]
    assert shares == pytest.approx([1 / 6] * 3, abs=.03)
    nearest = [min(centres, key=lambda c: abs(c.mean - draw.mean)) for draw in draws]
    assert [nearest.count(c) / len(draws) for c in centres] == pytest.approx([1 / 3] * 3, abs=.03)


def test_each_pair_steps_up_as_often_as_down_and_stays_with_the_probability_stated():
    """Stages of one pair each, which sorting can't mix."""
    hook, pairs = ready((2, 1, 2), around=[[.3, .3, .5]]), 3
    space = SparsitySpace((2, 1, 2))
    steps = np.array([space.encode(hook.draw(i)) for i in range(2000)]) - (3, 3, 5)
    move = 1 - .5**(1 / pairs)
    for pair in range(pairs):
        shares = [np.mean(steps[:, pair] == step) for step in (-1, 0, 1)]
        assert shares == pytest.approx([move / 2, 1 - move, move / 2], abs=.03)
    assert np.corrcoef(abs(steps).T)[np.triu_indices(pairs, 1)] == pytest.approx(0, abs=.06)


def test_draws_around_a_list_are_a_function_of_seed_and_iteration_alone():
    arguments = dict(depths=(2, 2, 6, 2), around=[0, .4, [.2, 0, [.1, .5, .5], .8]])
    hook = ready(**arguments)
    draws = [hook.draw(i) for i in range(100)]
    assert [hook.draw(i) for i in reversed(range(100))] == draws[::-1]
    assert [ready(**arguments).draw(i) for i in (0, 7, 99)] == [draws[i] for i in (0, 7, 99)]
    other = ready(**arguments, seed=1)
    assert [other.draw(i) for i in range(100)] != draws
    assert len(set(draws)) > 30


def test_the_file_of_a_front_counts_as_the_list_of_its_configurations(tmp_path):
    around = [.8, [.4, .2], 0]
    points = [FrontPoint(SparsityConfig(c, (2, 2)), 1. + i, .1 * i) for i, c in enumerate(around)]
    Front(points, 'mAP', {}).save(tmp_path / 'front.json')
    listed = ready((2, 2), around=around)
    for path in (tmp_path / 'front.json', str(tmp_path / 'front.json')):
        hook = ready((2, 2), around=path)
        assert [hook.draw(i) for i in range(50)] == [listed.draw(i) for i in range(50)]


@pytest.mark.parametrize('around, expected', [
    (None, {0: [.7, 0, [.1, .1, .1, .1, .2, .2], .7],
            1: [.8, .2, [.3, .3, .5, .5, .6, .6], .3],
            1000: [.7, .6, [0, 0, .5, .5, .7, .7], 0]}),
    ([.6, [.1, .3, .3, .5]], {0: [.1, .3, .3, .5], 1: [.1, .4, .3, .5], 7: [.2, .3, .3, .5]})])
def test_draws_are_those_of_earlier_versions(around, expected):
    """A run that was begun with one goes on with the same."""
    hook = ready((2, 2, 6, 2), seed=3, around=around)
    assert {i: hook.draw(i) for i in expected} == {
        i: SparsityConfig(config, (2, 2, 6, 2)) for i, config in expected.items()}


@pytest.mark.parametrize('around', [None, [.6, [.1, .3]]])
@pytest.mark.parametrize('share', [.1, .3, .8])
def test_a_share_of_the_draws_is_dense_and_the_others_are_what_they_were(around, share):
    with_dense, without = (ready((2, 2), choices=[.1, .2, .3, .5, .6, .7], around=around,
                                 dense_share=s) for s in (share, 0))
    draws = [with_dense.draw(i) for i in range(1000)]
    dense = [draw.is_dense for draw in draws]
    assert np.mean(dense) == pytest.approx(share, abs=.04)
    assert all(is_dense or draw == without.draw(i)
               for i, (draw, is_dense) in enumerate(zip(draws, dense)))
    assert [with_dense.draw(i) for i in reversed(range(1000))] == draws[::-1]
    other = ready((2, 2), seed=1, dense_share=share)
    assert [other.draw(i).is_dense for i in range(1000)] != dense


def test_global_random_states_neither_steer_a_draw_nor_are_used_up():
    drawn = []
    for seed in range(3):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        runner = Standing((2, 2), iteration=17)
        hook = SparsityAdaptationHook()
        hook.before_run(runner)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        hook.before_train_iter(runner, 0)
        assert random.getstate() == before[0]
        assert np.random.get_state()[1].tolist() == before[1]
        assert torch.equal(torch.get_rng_state(), before[2])
        drawn.append(runner.model.sparsity)
    assert drawn == [drawn[0]] * 3


def test_configurations_that_the_choices_do_not_make_up_are_all_named():
    around = [.5, .3, [0, [0, .5]], [.5, 0]]
    with pytest.raises(ValueError, match=re.escape(
            '[[0.3, 0.3], [0.3, 0.3]], [[0, 0], [0, 0.5]]')) as refused:
        ready((2, 2), choices=[0, .5], around=around)
    assert '[[0.5, 0.5], [0.5, 0.5]]' not in str(refused.value)
    with pytest.raises(ValueError, match='depths'):
        ready((2, 2), around=[[.1, .2, .3]])
