from pathlib import Path

import pytest

from sparsevit_mm.cost.latency import LatencySetting
from sparsevit_mm.search.limits import Limits
from sparsevit_mm.search.request import SearchRequest, point_latency


def request(**options):
    return SearchRequest('a.py', 'a.pth', None, Limits(9.), LatencySetting((8, 8)),
                         Path('folder/winner.py'), **options)


def test_a_pareto_search_writes_a_config_for_each_point():
    assert request().winners() == {'winner': Path('folder/winner.py')}
    winners = request(pareto=True, points=['30ms', '35.5', '70%']).winners()
    assert {name: path.name for name, path in winners.items()} == {
        '30ms': 'winner_30ms.py', '35.5': 'winner_35.5ms.py', '70%': 'winner_70pct.py'}


@pytest.mark.parametrize('point, milliseconds', [
    ('30ms', 30.), (' 30 ', 30.), ('2.5ms', 2.5), ('70%', 35.), ('100 %', 50.)])
def test_points_are_milliseconds_or_shares_of_dense(point, milliseconds):
    assert point_latency(point, 50.) == pytest.approx(milliseconds)


@pytest.mark.parametrize('point', ['', 'ms', '%', 'fast', '-3ms', '0', 'nan', 'inf', '30s'])
def test_a_point_that_is_no_latency_is_named(point):
    with pytest.raises(ValueError, match='--points'):
        request(pareto=True, points=['30ms', point])


@pytest.mark.parametrize('options, named', [
    (dict(num_trials=0), '--trials 0'), (dict(finalists=0), '--finalists 0'),
    (dict(first_look=0), '--first-look 0'),
    (dict(pareto=True, sampler='published'), '--sampler published.*--pareto'),
    (dict(first_look=50, num_samples=50), '--first-look 50 .*--num-samples 50')])
def test_a_number_that_makes_no_search_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        request(**options)


@pytest.mark.parametrize('points', [['300%', '300%', '150%'], ['30', '30ms']])
def test_equal_points_are_refused(points):
    with pytest.raises(ValueError, match=f"--points {','.join(points)}"):
        request(pareto=True, points=points)
