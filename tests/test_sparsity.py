import copy
import itertools
import math
import pickle
import re
from collections import Counter
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevit_mm.sparsity import SparsityConfig, SparsitySpace, kept_windows

DEPTHS = st.lists(st.integers(1, 7), min_size=1, max_size=5).map(tuple)


@st.composite
def pair_ratios(draw, per_block=False):
    """(depths, groups): the ratios of each stage's pairs, or blocks, rising."""
    depths = draw(DEPTHS)
    percent = st.integers(0, 99)
    sizes = depths if per_block else SparsitySpace(depths).stage_genes
    return depths, [
        [p / 100 for p in sorted(draw(st.lists(percent, min_size=size, max_size=size)))]
        for size in sizes
    ]


def per_block(depths, groups):
    return [[group[block // 2] for block in range(d)] for d, group in zip(depths, groups)]


def flat(groups):
    return list(itertools.chain.from_iterable(groups))


@settings(max_examples=100)
@given(pair_ratios())
def test_every_spelling_of_a_configuration_is_one_value(case):
    depths, pairs = case
    blocks = per_block(depths, pairs)
    config = SparsityConfig(pairs, depths)
    mixed = [pair if i % 2 else tuple(block) for i, (pair, block) in enumerate(zip(pairs, blocks))]
    spellings = [
        blocks, tuple(map(tuple, pairs)), mixed, flat(pairs), flat(blocks), str(pairs),
        f' {blocks}\n', str(config), config, config.to_list(), np.array(flat(blocks)),
        [np.array(block) for block in blocks],
        copy.deepcopy(config), pickle.loads(pickle.dumps(config))
    ]
    assert config.ratios == tuple(map(tuple, blocks))
    assert config.depths == depths
    assert {SparsityConfig(s, depths) for s in spellings} == {config}


@given(DEPTHS, st.integers(0, 99))
def test_one_number_goes_to_every_block(depths, percent):
    ratio = percent / 100
    config = SparsityConfig(ratio, depths)
    assert config == SparsityConfig([ratio] * len(depths), depths)
    assert set(flat(config.ratios)) == {ratio}
    assert config.mean == pytest.approx(ratio)
    assert config.is_dense == (ratio == 0)


def test_none_is_dense():
    assert SparsityConfig(None, (2, 3)) == SparsityConfig(0, (2, 3))
    assert SparsityConfig(None, (2, 3)).is_dense


def test_a_configuration_is_frozen():
    with pytest.raises(FrozenInstanceError):
        SparsityConfig(.5, (2, )).ratios = ((0., 0.), )


def test_sums_of_binary_fractions_are_the_ratio_they_print_as():
    assert SparsityConfig(.1 + .2, (2, )) == SparsityConfig(.3, (2, ))
    assert hash(SparsityConfig(.1 + .2, (2, ))) == hash(SparsityConfig(.3, (2, )))


@given(pair_ratios(per_block=True), pair_ratios(per_block=True))
def test_labels_tell_configurations_apart(one, other):
    depths = one[0]
    a = SparsityConfig(one[1], depths)
    b = SparsityConfig(other[1], other[0])
    if b.depths != depths:
        b = SparsityConfig(a.ratios[0][0], depths)
    assert (a.label == b.label) == (a == b)


@given(pair_ratios(per_block=True), st.data())
def test_ratios_that_fall_within_a_stage_are_named(case, data):
    depths, groups = case
    stage = data.draw(st.integers(0, len(depths)), label='stage')
    depths, groups = depths[:stage] + (3, ) + depths[stage:], copy.copy(groups)
    groups.insert(stage, [.2, .7, .6])
    with pytest.raises(ValueError, match=f'stage {stage}, block 2 is 0.6.* 0.7 of block 1'):
        SparsitySpace(depths).config(groups)
    assert SparsitySpace(depths, nested=False).config(groups) == SparsityConfig(groups, depths)


@pytest.mark.parametrize('ratio', [1, 1., 1.5, -.1, 1 - 1e-9, -1e-9, math.nan, math.inf, -math.inf])
def test_ratios_outside_the_unit_interval_are_named(ratio):
    with pytest.raises(ValueError, match=f'stage 1, block 0 is {re.escape(str(ratio))}, outside'):
        SparsityConfig([[0, 0], [ratio, ratio]], (2, 2))


@pytest.mark.parametrize('value', [[.1] * 3, [.1] * 5, [.1] * 9, [], [[.1], [.1]],
                                   [[.1], [.1], [.1, .2, .3, .4], [.1]], [[], [0], [0], [0]],
                                   'half', '[.1', '[a, b]', ''])
def test_values_that_fit_no_depths_are_refused(value):
    with pytest.raises(ValueError, match='sparsity'):
        SparsityConfig(value, (2, 2, 6, 2))


@pytest.mark.parametrize('value', [True, {}, {0: .5}, object(), [.1, .1, '.1', .1], [None] * 4,
                                   [True] * 4, [[True, True], 0, 0, 0], '"0.5"'])
def test_values_that_hold_no_ratios_are_refused(value):
    with pytest.raises(TypeError, match='sparsity'):
        SparsityConfig(value, (2, 2, 6, 2))


@settings(max_examples=300)
@given(st.integers(1, 5000), st.integers(0, 99))
def test_kept_windows_is_the_exact_floor_and_never_zero(windows, percent):
    exact = math.floor(windows * (1 - Fraction(percent, 100)))
    assert kept_windows(windows, percent / 100) == max(1, exact)


def test_ten_windows_at_nine_tenths_keep_one():
    assert math.floor(10 * (1 - .9)) == 0, 'binary fractions would keep none'
    assert kept_windows(10, .9) == 1
    assert kept_windows(20, .9) == 2, 'the guard is no mere minimum'


SPACES = st.builds(
    SparsitySpace,
    st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    st.sets(st.integers(0, 9), min_size=1, max_size=4).map(lambda s: tuple(i / 10 for i in s)))


@given(SPACES)
def test_a_space_counts_what_its_genes_decode_to(space):
    genes = itertools.product(range(len(space.choices)), repeat=space.num_genes)
    configs = set(map(space.decode, itertools.islice(genes, 70000)))
    assert len(configs) == space.count()
    assert all(config in space for config in configs)


def test_the_published_space_has_120285_configurations():
    assert SparsitySpace((2, 2, 6, 2)).count() == 120285


@given(SPACES, st.integers(0, 2**32))
def test_encoding_inverts_decoding(space, seed):
    config = space.sample(np.random.default_rng(seed))
    genes = space.encode(config)
    assert space.decode(genes) == config
    assert space.encode(space.decode(genes)) == genes
    assert config in space
    for stage in config.ratios:
        assert stage == tuple(sorted(stage)) and set(stage) <= set(space.choices)
        assert all(len(set(stage[i:i + 2])) == 1 for i in range(0, len(stage), 2))


@given(SPACES, st.randoms(use_true_random=False))
def test_decoding_sorts_genes_within_a_stage_only(space, random):
    rng = np.random.default_rng(0)
    stages = [list(rng.integers(len(space.choices), size=size)) for size in space.stage_genes]
    expected = space.decode(flat(map(sorted, stages)))
    for stage in stages:
        random.shuffle(stage)
    assert space.decode(flat(stages)) == expected
    assert [stage[0] for stage in expected.ratios] == [
        space.choices[min(stage)] for stage in stages]


def test_a_sample_is_a_sorted_draw_of_each_pair():
    """Of two pairs with two choices, the mixed configuration comes up half of the time, though
    it is one configuration of three."""
    space, rng = SparsitySpace((4, ), (0, .5)), np.random.default_rng(0)
    drawn = Counter(space.sample(rng).ratios[0][1:3] for _ in range(4000))
    shares = {pair: drawn[pair] / 4000 for pair in [(0, 0), (0, .5), (.5, .5)]}
    assert shares == pytest.approx({(0, 0): .25, (0, .5): .5, (.5, .5): .25}, abs=.03)


def test_configurations_outside_a_space_are_known():
    space = SparsitySpace((2, 2), (0, .5))
    assert SparsityConfig([0, .5], (2, 2)) in space
    assert SparsityConfig([0, .4], (2, 2)) not in space, 'no choice'
    assert SparsityConfig([[0, .5], 0], (2, 2)) not in space, 'a pair shares its ratio'
    assert SparsityConfig(.5, (2, 4)) not in space, 'other depths'


def test_uniform_configurations_rise_over_the_choices():
    assert [c.mean for c in SparsitySpace((1, 2), (.5, 0, .3)).uniform()] == [0, .3, .5]


@pytest.mark.parametrize('choices', [(), (1., ), (-.1, 0), (math.nan, )])
def test_spaces_refuse_choices_that_are_no_ratios(choices):
    with pytest.raises(ValueError, match='choice'):
        SparsitySpace((2, 2), choices)


def test_spaces_refuse_the_wrong_number_of_genes():
    with pytest.raises(ValueError, match='5 genes.* take 6'):
        SparsitySpace((2, 2, 6, 2)).decode([0] * 5)
