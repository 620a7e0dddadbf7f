"""What a candidate must meet, and whether anything can."""
import math
import re

import pytest
from landscape import Landscape

from sparsevit_mm.search.limits import Limits


def test_band_between_reachable_latencies_is_an_error_that_names_them():
    landscape = Landscape(choices=(0., .8))
    with pytest.raises(ValueError, match=r'none of 4 candidates.* 2\.0 to 10\.0 ms'):
        landscape.search(limits=Limits(max_latency=3., min_latency=2.5)).run(5)
    assert not landscape.evaluated


@pytest.mark.parametrize('limits, named', [
    (dict(max_latency=1.9), ['1.9', '2.0 ms', '10.0 ms']),
    (dict(max_latency=20., min_latency=10.1), ['10.1', '2.0 ms', '10.0 ms']),
    (dict(max_latency=20., max_macs=.1e9), ['0.1 G', '0.2 G'])])
def test_unreachable_limit_names_what_is_reachable(limits, named):
    with pytest.raises(ValueError) as error:
        Limits(**limits).check_reachable(sparsest=2., dense=10., fewest_macs=int(.2e9))
    assert all(text in str(error.value) for text in named)


def test_the_limit_that_an_unreachable_one_is_answered_with_fits():
    for key, value in ('max_latency', .5), ('min_latency', 20.):
        with pytest.raises(ValueError) as error:
            Limits(**{key: value}).check_reachable(2.04, 10.03, 0)
        fits = float(re.search(r'([\d.]+) ms would fit', str(error.value)).group(1))
        Limits(**{key: fits}).check_reachable(2.04, 10.03, 0)


@pytest.mark.parametrize('limits', [Limits(2.), Limits(99., 10.), Limits(99., 0., .2e9)])
def test_limit_that_something_just_reaches_is_taken(limits):
    limits.check_reachable(sparsest=2., dense=10., fewest_macs=int(.2e9))


@pytest.mark.parametrize('limits', [Limits(2.), Limits(99., 10.)])
def test_where_pruning_makes_it_slower_dense_is_the_fastest(limits):
    limits.check_reachable(sparsest=10., dense=2., fewest_macs=0)


def test_min_above_max_is_refused():
    with pytest.raises(ValueError, match='--min-latency 5 is above --max-latency 4'):
        Limits(max_latency=4., min_latency=5.)
    Limits(max_latency=4., min_latency=4.)


def test_shares_of_the_dense_latency_become_milliseconds():
    shares = Limits.parse('70%', '35%', 5e9)
    assert shares.resolve(40.) == Limits(28., 14., 5e9)
    assert Limits.parse('70%', '0', 5e9).resolve(40.) == Limits(28., 0., 5e9)
    assert Limits.parse('28', '14', 5e9).resolve(40.) == Limits(28., 14., 5e9)
    assert Limits.parse(None, '50%', 5e9).resolve(40.) == Limits(math.inf, 20., 5e9)
    assert Limits.parse(None, '0', 5e9).resolve(40.) == Limits(max_macs=5e9)


@pytest.mark.parametrize('latencies, in_ms', [
    (('30ms', 0), True), ((None, '10'), True), (('70%', '0'), False), ((None, 0), False)])
def test_only_a_limit_that_is_set_is_in_milliseconds(latencies, in_ms):
    assert Limits.parse(*latencies).in_ms == in_ms


@pytest.mark.parametrize('max_latency, min_latency', [
    ('70%', '10'), ('70', '10%'), ('fast', '0'), ('30', 'slow'), ('%', '0'), ('30%', '40%')])
def test_limits_that_make_no_band_are_refused(max_latency, min_latency):
    with pytest.raises(ValueError, match='latency'):
        Limits.parse(max_latency, min_latency, 1e9)
