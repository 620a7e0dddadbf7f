from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from helpers import backbone
from simulated import MODEL, SHAPE, SPACE, TOTALS, Machine, additive

from sparsevit_mm.cost import runs
from sparsevit_mm.cost.additive import Stage
from sparsevit_mm.cost.check import Check
from sparsevit_mm.cost.latency import LatencyMeter, LatencySetting
from sparsevit_mm.cost.table import LatencyTable
from sparsevit_mm.sparsity import SparsityConfig, kept_windows


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


@pytest.fixture(scope='module')
def table():
    with pytest.MonkeyPatch.context() as monkeypatch:
        return Machine(monkeypatch)()


def off(table):
    """Relative errors of predictions on draws of the search's space."""
    rng = np.random.default_rng(7)
    draws = [SPACE.sample(rng) for _ in range(100)] + SPACE.uniform()
    return np.array([table.predict(c) / additive(c) - 1 for c in draws])


def test_windows_of_the_stages_are_those_of_their_maps():
    assert backbone(**MODEL).totals(SHAPE) == TOTALS
    assert backbone().totals((17, 30)) == [5 * 8, 3 * 4]  # 9 x 15, 5 x 8 tokens


def test_additive_latency_is_recovered_exactly_where_nothing_disturbs(table):
    assert np.abs(off(table)).max() < 1e-3
    assert table.dense == pytest.approx(400, rel=1e-3)
    assert table.check.median_error < 1e-3 and table.check.spearman > .999
    assert table.check.worst_spread < 1e-3 and table.check.number == 20



@pytest.mark.parametrize('drift', [0., .2])
def test_noise_and_drift_leave_the_prediction_within_the_noise(machine, drift):
    rng = np.random.default_rng(0)
    table = machine(lambda n, t: np.exp(.02 * rng.standard_normal() + drift * np.sin(t / 20)))
    error = off(table) - np.median(off(table))  # a drifting machine has no one speed
    assert np.median(np.abs(error)) < .015 and np.abs(error).max() < .045
    assert table.check.median_error < .02 and .002 < table.check.spread < .03
    assert table.check.spearman > .98


def test_a_few_very_slow_runs_do_not_count(machine):
    table = machine(lambda n, t: 3. if n % 15 == 3 else 1.)
    assert np.median(np.abs(off(table))) < .005 and np.abs(off(table)).max() < .02


def test_the_check_sees_what_the_model_can_not_express(machine):
    def interacting(config):
        first, second = (r[-1] for r in config.ratios)
        return additive(config) * (1 - .5 * first * second)

    check = machine(latency=interacting).check
    assert check.worst_error > .05 > 5 * check.spread


def test_configurations_checked_on_are_not_fitted_on_and_all_ratios_are_measured():
    for seed in range(5):
        draws = runs.Draws(SPACE, TOTALS, np.random.default_rng(seed))
        fits = [draws.next() for _ in range(60)]
        keeps = {draws.keeps(c) for c in draws.checks}
        assert len(keeps) == 20 and keeps.isdisjoint(map(draws.keeps, fits))
        assert set(SPACE.uniform()[1:]) <= set(fits)
        for s in range(2):
            assert {r for c in fits for r in c.ratios[s]} >= set(SPACE.choices[1:])


def test_ratios_between_choices_are_interpolated_in_windows_and_beyond_them_flat(table):
    low, between, high = (table.predict([r, 0]) for r in (.2, .25, .3))
    assert between == pytest.approx((low + high) / 2)
    assert table.predict([.95, .9]) == table.predict([.8, .8])
    saved = table.stages[0].fixed + 2 * table.stages[0].block(119)
    assert table.predict([.001, 0]) - saved == pytest.approx(table.dense)
    assert table.predict(0) == table.dense


def test_any_form_of_a_configuration_is_predicted(table):
    expected = table.predict(SparsityConfig([.3, [.2, .2, .5, .5]], (2, 4)))
    assert table.predict([.3, [.2, .5]]) == table.predict('[.3, [.2, .5]]') == expected
    with pytest.raises(ValueError, match='depths'):
        table.predict(SparsityConfig(.3, (2, 2, 2)))


def made(costs, fixed=0., spread=0., totals=(10, 10)):
    """A table of depths (2, 2) by hand: milliseconds of a block at 0.1, 0.2 ... in each stage."""
    stages = [Stage(total, sorted({kept_windows(total, i / 10) for i in range(1, 1 + len(c))}),
                    list(c[::-1]), fixed) for c, total in zip(costs, totals)]
    return LatencyTable({}, {'depths': [2, 2]}, tuple(i / 10 for i in range(len(costs[0]) + 1)),
                        100., stages, Check(0, 0, 1, spread, spread, 20, 2))


def test_a_plateau_is_where_more_windows_cost_nothing():
    table = made([[-1, -2, -2, -2, -3], [-1, -2, -3, -4, -5]])
    assert table.plateaus() == [[(0, ), (.1, ), (.2, .3, .4), (.5, )],
                                [(r, ) for r in table.choices]]
    assert table.canonical([[.4], [.3]]) == SparsityConfig([.2, .3], (2, 2))


def test_ratios_that_keep_as_many_windows_are_one_plateau():
    stage = Stage(3, [1, 2], [-2., -1.], 0.)
    table = replace(made([[-1] * 8] * 2), stages=[stage, stage])
    assert table.plateaus()[0] == [(0, ), (.1, .2, .3), (.4, .5, .6, .7, .8)]


def test_pruning_that_costs_more_than_it_saves_is_undone():
    table = made([[1, .5, -.5, -4, -5], [-1, -2, -3, -4, -5]], fixed=2.)
    assert table.plateaus()[0][0] == (0, .1, .2)
    assert table.canonical([.2, 0]).is_dense


def test_a_stage_is_not_turned_dense_where_that_loses_more_than_the_noise():
    """Blocks save nothing at 0.1, the stage does."""
    table = made([[0, -2, -3, -4, -5]] * 2, fixed=-3.)
    assert table.plateaus()[0][:2] == [(0, ), (.1, )]
    assert table.canonical(.1) == SparsityConfig(.1, (2, 2))


def test_differences_below_the_noise_are_a_plateau_and_never_add_up_beyond_it():
    rng = np.random.default_rng(0)
    lowered = 0
    for _ in range(20):
        costs = np.sort(rng.normal(-2, .5, (2, 5)))[:, ::-1] + rng.normal(0, .1, (2, 5))
        table = made(costs.tolist(), fixed=rng.normal(0, .3), spread=.01)
        assert table.noise == pytest.approx(1)
        for _ in range(10):
            config = table.space.sample(rng)
            canonical = table.canonical(config)
            assert all(a <= b for stages in zip(canonical.ratios, config.ratios)
                       for a, b in zip(*stages))
            assert table.canonical(canonical) == canonical
            assert table.predict(canonical) <= table.predict(config) + table.noise + 1e-9
            lowered += canonical != config
    assert lowered > 20


def test_canonical_refuses_what_is_not_in_the_space(table):
    with pytest.raises(ValueError, match='not in the space'):
        table.canonical([.25, 0])


def test_too_small_a_budget_names_one_that_does(machine):
    with pytest.raises(ValueError, match=r'of 69 configurations .* about (\d+) s'
                       ) as error:
        machine(budget=5.)
    enough = float(str(error.value).split('about ')[1].split()[0])
    assert 10 < enough < 60
    assert machine(budget=enough).check.repeats >= 2


@pytest.mark.parametrize('budget', [0., -3., float('nan'), float('inf')])
def test_a_budget_that_is_no_time_is_refused(machine, budget):
    with pytest.raises(ValueError, match='budget'):
        machine(budget=budget)


def test_progress_is_told_and_the_budget_is_kept(machine):
    told = []
    machine(budget=50., progress=lambda *args: told.append(args))
    seconds, configs = zip(*told)
    assert list(seconds) == sorted(seconds) and 50 <= seconds[-1] < 50.5
    assert list(configs) == sorted(configs) and configs[-1] > 60


def test_maps_of_few_windows_leave_nothing_to_check_on():
    with pytest.raises(ValueError, match='fewer than 20 configurations differ'):
        LatencyTable.measure(backbone(), LatencySetting((8, 8)), 10.)


@pytest.mark.parametrize('execution, runs_before', [('eager', 1), ('compiled', 2)])
def test_first_runs_count_only_where_they_are_like_the_others(monkeypatch, execution, runs_before):
    """The first run of a configuration takes a hundred times as long where it is compiled."""
    seen, now = {}, [0.]

    def run(self, config):
        seen[config] = seen.get(config, 0) + 1
        now[0] += .4
        return additive(config) * (100 if seen[config] == 1 and execution == 'compiled' else 1)

    monkeypatch.setattr(LatencyMeter, '_run', run)
    monkeypatch.setattr(runs, 'clock', lambda: now[0])
    setting = LatencySetting(SHAPE, num_threads=1, execution=execution)
    table = LatencyTable.measure(backbone(**MODEL), setting, 90.)
    assert np.abs(off(table)).max() < .01
    assert min(seen.values()) == runs_before


def test_a_real_backbone_is_measured_end_to_end(monkeypatch):
    """Real forward passes, of which the budget sees a second for each look at the clock."""
    seconds = count()
    monkeypatch.setattr(runs, 'clock', lambda: float(next(seconds)))
    monkeypatch.setattr(runs, 'FITS', 8)
    monkeypatch.setattr(runs, 'CHECKS', 4)
    model = backbone(**MODEL)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    table = LatencyTable.measure(model, LatencySetting((24, 32), num_threads=1), 40.)
    assert table.dense > 0 and np.isfinite(table.predict([.3, .5])) and table.check.number == 4
    assert 0 <= table.check.median_error <= table.check.worst_error
    assert model.sparsity.is_dense
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert 'Spearman' in str(table.check) and '\n' not in str(table.check)
