"""The benchmark of samplers, and the landscapes it searches."""
import runpy
import sys
from unittest import mock

import numpy as np
import pytest
from helpers import ROOT

from sparsevit_mm.sparsity import SparsitySpace

BENCHMARKS = ROOT / 'benchmarks'
sys.path.insert(0, str(BENCHMARKS))

from landscapes import FEWEST, enumerate_space, recorded, synthetic  # noqa: E402


@pytest.fixture(scope='module')
def recording(tmp_path_factory):
    """A search of 40 configurations of depths 2-2-4 whose metric is known, with shares for
    metrics; every fifth was outside the limit, so its metric is not known."""
    space, rng = SparsitySpace((2, 2, 4)), np.random.default_rng(0)
    path = tmp_path_factory.mktemp('search') / 'toy.csv'
    lines = ['trial,state,sparsity,macs,latency_ms,metric']
    for i in range(50):
        config = space.sample(rng)
        state, value = ('outside', '') if i % 5 == 0 else ('evaluated', truth(config) / 100)
        lines.append(f'{i},{state},"{config}",{cost(config)},,{value}')
    path.write_text('\n'.join(lines) + '\n')
    return path


def truth(config):
    first, second, third = (np.mean(stage) for stage in config.ratios)
    return 40 - 5 * (first - .3)**2 - 3 * second * third


def cost(config):
    return round(1e9 - 2e8 * sum(np.mean(stage) for stage in config.ratios))


def test_a_space_is_enumerated_whole():
    space = SparsitySpace((2, 2, 6, 2), (0., .2, .5))
    every = enumerate_space(space)
    assert len({space.decode(genes) for genes in every.tolist()}) == len(every) == space.count()
    with pytest.raises(ValueError, match='17,.*too many'):
        enumerate_space(SparsitySpace((2, 2, 18, 2)))


def test_a_surrogate_gives_what_a_search_would_have_recorded(recording):
    landscape = recorded(recording)
    configs = [landscape.space.decode(genes) for genes in landscape.genes.tolist()]
    error = landscape.metric - [truth(c) for c in configs]
    assert np.abs(error).mean() < .1 < np.std([truth(c) for c in configs])
    assert landscape.cost == pytest.approx([cost(c) / 1e9 for c in configs])
    assert all(landscape.row(c) == i for i, c in enumerate(configs))


def test_the_best_is_below_the_limit(recording):
    landscape = recorded(recording)
    best = [landscape.best(limit) for limit in (.7, .8, .9)]
    assert best == sorted(best) and best[0] < landscape.metric.max()
    assert best[0] == max(m for m, c in zip(landscape.metric, landscape.cost) if c <= .7)


def test_a_short_recording_is_refused(recording, tmp_path):
    short = tmp_path / 'short.csv'
    short.write_text(''.join(recording.read_text().splitlines(keepends=True)[:12]))
    with pytest.raises(ValueError, match=f'short.csv .*8 evaluated.* {FEWEST}'):
        recorded(short)


def test_the_made_up_landscape_loses_more_the_more_is_pruned():
    landscape = synthetic((2, 2, 2), rugged=0)
    dense, sparsest = landscape.metric[[0, -1]]
    assert dense == landscape.metric.max() == 42.6 and sparsest == landscape.metric.min()
    assert landscape.cost[0] == 1 and landscape.cost.min() == landscape.cost[-1] < .3


def test_the_benchmark_reports_every_sampler(recording, tmp_path, capsys):
    out = tmp_path / 'out'
    arguments = ['search.py', recording, '--no-synthetic', '--samplers', 'published', 'nsga2',
                 'random', '--seeds', 3, '--limit', '70%', '--cap', 40, '--jobs', 1, '--out', out]
    with mock.patch.object(sys, 'argv', list(map(str, arguments))):
        runpy.run_path(str(BENCHMARKS / 'search.py'), run_name='__main__')
    rows = [[cell.strip() for cell in line.split('|')[1:-1]]
            for line in (out / 'search.md').read_text().splitlines()]
    median = {row[1]: float(row[2].replace('more', 'inf')) for row in rows[2:]}
    assert set(median) == {'published', 'nsga2', 'random'}
    assert median['nsga2'] < min(median['random'], median['published'])
    assert 'toy at 70%' in capsys.readouterr().out
    assert (out / 'search.png').read_bytes().startswith(b'\x89PNG')
