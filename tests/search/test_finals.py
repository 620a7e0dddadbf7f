from pathlib import Path

import pytest
from landscape import Landscape, latency_of, metric_of

from sparsevit_mm.cost.latency import LatencySetting
from sparsevit_mm.budget import Front
from sparsevit_mm.search.candidates import EVALUATED, REJECTED, Candidate
from sparsevit_mm.search.finals import Finals
from sparsevit_mm.search.limits import Limits
from sparsevit_mm.search.record import Full
from sparsevit_mm.search.request import SearchRequest
from sparsevit_mm.search.results import provenance, write_front
from sparsevit_mm.sparsity import SparsityConfig

END, DENSE = 'best 3', 10.


def prepared(search):
    """Finished as the pipeline does it: the study also holds the dense model."""
    dense = Candidate(-1, SparsityConfig(0., (2, 2)), EVALUATED, 1, 10., 1., {'score': 1.})
    search.record.dense(lambda: dense, (2, 2))
    search.record.reach(lambda: (10., 2.))
    return search


def finals_of(search, measure, full=None, had_all=True, scopes=(), end=END, now=DENSE):
    """`measure` gives milliseconds where dense takes `DENSE`, `full` metrics."""
    return Finals(search, end, lambda *args: measure(*args) / DENSE, DENSE, now,
                  search.problem.limits, full and (lambda *args: Full(full(*args))), had_all,
                  scopes)


@pytest.fixture
def search():
    search = Landscape().search(limits=Limits(max_latency=8.), depths=[2, 2], metric='score')
    search.run(15)
    return prepared(search)


def never(config, scope):
    raise AssertionError('it is known already')


def measured(config, scope=None):
    return latency_of(config)


def test_a_finalist_stands_in_the_scope_that_serves_it_best(search):
    """Of those inside the limits; what another scope gives is kept in the study."""
    top = sorted((c for c in search.candidates if c.state == EVALUATED),
                 key=lambda c: -c.metric)[:2]
    gains = {(top[0].config, 'group'): -1, (top[1].config, 'group'): 5,
             (top[0].config, 'area'): 9, (top[1].config, 'area'): 1}

    def measure(config, scope):  # 'area' is too slow for the best
        return 8.5 if (config, scope) == (top[0].config, 'area') else latency_of(config)

    def full(config, scope):
        assert scope is not None  # the search had all of val in its own
        return {'score': metric_of(config) + gains.get((config, scope), 0)}

    finals = finals_of(search, measure, full, scopes=['group', 'area'])
    first, second = finals.best(2)
    assert (first.candidate, first.scope) == (top[1], 'group')
    assert (second.candidate, second.scope, second.full) == (top[0], None, None)
    assert first.full == {'score': top[1].metric + 5}
    assert first.label == f'{top[1].config.label}, scope group'
    assert finals_of(search, never, never, scopes=['group', 'area']).best(2) == [first, second]
    assert search.record.summary().finalists == [first, second]


@pytest.mark.parametrize('had_all', [True, False])
def test_provenance_says_in_which_scope_the_winner_is_better(search, had_all):
    def full(config, scope):
        return {'score': metric_of(config) + (scope == 'group')}

    winner = finals_of(search, measured, full, had_all, scopes=['group']).best(1)[0]
    assert winner.scope == 'group'
    request = SearchRequest(
        'config.py', 'c.pth', None, Limits(), LatencySetting((32, 32)), Path('winner.py'),
        num_samples=None if had_all else 4, storage='sqlite:///s.db')
    lines = provenance(request, search, search.record.summary(), winner)
    assert any(line.startswith("in scope 'group'") for line in lines)
    of_dense = 1. if had_all else metric_of(SparsityConfig(0., (2, 2)))
    assert f'score {winner.full["score"]:.4g} on all of val, dense {of_dense:.4g}' in lines


def test_a_best_that_proves_outside_the_limits_gives_way_to_the_next(search):
    lucky, evaluated = search.best, search.num_evaluated
    finalists = finals_of(search, lambda c, _: 8.5 if c == lucky.config else latency_of(c)).best(2)
    assert lucky.state == REJECTED and search.num_evaluated == evaluated
    assert lucky not in [f.candidate for f in finalists] and len(finalists) == 2
    assert finalists[0].candidate is search.best and search.best.metric <= lucky.metric
    assert all(f.measured <= 8 for f in finalists)
    assert finals_of(search, never).best(2) == finalists  # the study keeps what came out
    states = {c.trial: c.state for c in search.record.summary().candidates}
    assert states[lucky.trial] == REJECTED and list(states.values()).count(REJECTED) == 1


def test_the_winner_is_the_best_on_all_images_not_on_the_few(search):
    top = sorted((c for c in search.candidates if c.state == EVALUATED),
                 key=lambda c: -c.metric)[:3]
    full = {top[0].config: .1, top[1].config: .2, top[2].config: .9}
    finals = finals_of(search, measured, lambda config, _: {'score': full.get(config, .7)},
                    had_all=False)
    assert [f.candidate for f in finals.best(3)] == top[::-1]
    summary = search.record.summary()
    assert summary.dense_full == {'score': .7}
    assert [(f.candidate.trial, f.full, f.point) for f in summary.finalists] == [
        (c.trial, {'score': full[c.config]}, None) for c in top[::-1]]


def test_what_a_killed_end_had_judged_is_not_judged_again(search):
    asked = []

    def killed(config, scope):
        asked.append(config)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return latency_of(config)

    with pytest.raises(KeyboardInterrupt):
        finals_of(search, killed).best(3)
    again = []
    finals_of(search, lambda c, _: again.append(c) or latency_of(c)).best(3)
    assert asked[0] not in again and asked[1] in again


def test_a_band_within_the_noise_is_an_error(search):
    with pytest.raises(ValueError, match='none of 15 evaluated .* try more --rounds'):
        finals_of(search, lambda *_: 9.).best(3)


def test_each_point_gets_the_best_that_proves_no_slower():
    search = Landscape().search(problem=dict(pareto=True), depths=[2, 2], metric='score')
    search.run(60)
    prepared(search)
    slower = {search.front[len(search.front) // 2].config}

    def measure(config, scope=None):
        return latency_of(config) * (1.2 if config in slower else 1)

    finalists = finals_of(search, measure).points({'9': 9., '4ms': 4., '65%': 6.5})
    assert [(f.name, f.point) for f in finalists] == [('9', 9.), ('4ms', 4.), ('65%', 6.5)]
    for finalist in finalists:
        assert finalist.measured == measure(finalist.candidate.config) <= finalist.point
        assert finalist.candidate.metric == max(
            metric_of(c.config) for c in search.candidates
            if c.state == EVALUATED and max(latency_of(c.config), measure(c.config))
            <= finalist.point)


def test_a_point_that_nothing_reaches_is_named():
    search = Landscape().search(problem=dict(pareto=True))
    search.run(12)
    with pytest.raises(ValueError, match=r'no candidate .* 1\.0 ms.*fastest takes 2\.0 ms'):
        finals_of(search, measured).points({'1ms': 1.})


def test_each_end_keeps_its_own_finalists():
    """A search that is asked for other points, and then for the first again."""
    search = Landscape().search(problem=dict(pareto=True), depths=[2, 2], metric='score')
    search.run(40)
    prepared(search)
    points = {'first': {'9ms': 9., '5ms': 5.}, 'second': {'8ms': 8.}}
    made = {end: finals_of(search, measured, end=end).points(asked)
            for end, asked in points.items()}
    for end, finalists in made.items():
        assert search.record.summary(end).finalists == finalists
    assert search.record.summary().finalists == made['second']
    assert search.record.summary('third').finalists == []


def test_each_point_gets_the_best_on_all_of_val_of_the_few_best():
    search = Landscape().search(problem=dict(pareto=True), depths=[2, 2], metric='score')
    search.run(60)
    prepared(search)
    ranked = sorted((c for c in search.candidates if latency_of(c.config) <= 7),
                    key=lambda c: (-c.metric, c.latency))
    on_all = {ranked[2].config: {'score': .99}, ranked[0].config: {'score': float('nan')}}

    def full(config, scope):
        return on_all.get(config, {'score': .5})

    lucky, = finals_of(search, measured, full, had_all=False, end='1').points({'7ms': 7.})
    assert lucky.candidate == ranked[0]
    best, wide = finals_of(search, measured, full, had_all=False, end='3').points(
        {'7ms': 7., '9ms': 9.}, 3)
    assert best.candidate == ranked[2] == wide.candidate  # judged for 7 ms, best for 9 ms too


def test_the_whole_front_is_measured_again_where_the_search_had_all_of_val():
    search = Landscape().search(problem=dict(pareto=True), depths=[2, 2], metric='score')
    search.run(40)
    prepared(search)
    finals_of(search, measured).points({'9ms': 9.})
    judged = {f.candidate.trial for f in search.record.summary().judged}
    assert {c.trial for c in search.front} <= judged


def test_limits_are_checked_against_the_last_dense_latency(search):
    """The machine got slower by a tenth: what took 7.5 ms takes 8.25 now."""
    now = 1.1 * DENSE
    search.record.dense_again(END, lambda: now)
    finalists = finals_of(search, measured, now=now).best(2)
    assert all(f.measured <= 8 and f.measured == pytest.approx(
        1.1 * latency_of(f.candidate.config)) for f in finalists)
    summary = search.record.summary(END)
    assert summary.drift == pytest.approx(.1) and summary.dense_latency == now
    assert [f.measured for f in summary.finalists] == [f.measured for f in finalists]


def test_a_front_holds_only_what_was_judged_again(tmp_path):
    search = Landscape().search(problem=dict(pareto=True), depths=[2, 2], metric='score',
                                checkpoint='abc')
    search.run(40)
    prepared(search)

    def full(config, scope):
        return {'score': metric_of(config) - .1}

    finals_of(search, lambda *args: 1.05 * measured(*args), full, had_all=False).points(
        {'9ms': 9., '5ms': 5.}, 2)
    summary = search.record.summary(END)
    write_front(tmp_path, summary, {'device': 'a GPU'}, [1., 2.])
    front = Front.load(tmp_path / 'front.json')
    assert (front.checkpoint, front.weights) == ('abc', [1., 2.])
    judged = {f.candidate.config: f for f in summary.judged}
    assert all(p.latency == judged[p.config].measured
               == pytest.approx(1.05 * latency_of(p.config))
               and p.metric == pytest.approx(metric_of(p.config) - .1) for p in front.points)
