"""The benchmark of selections: its tables say what was measured, its timing tells the metadata."""
import sys

import numpy as np
import pytest
from helpers import ROOT, drawn

sys.path.insert(0, str(ROOT / 'benchmarks'))
import selection as benchmark  # noqa: E402

from sparsevit_mm.models.selection.importance import TOKEN_SCORES  # noqa: E402
from sparsevit_mm.models.selection.ranking import Selection  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize('name', benchmark.TASKS)
def test_every_selection_is_one_and_is_timed_with_its_metadata(name, monkeypatch):
    task = benchmark.TASKS[name]
    for changes in task.variants.values():
        Selection(**changes)
    assert set(task.own) < set(task.variants)
    views = task.narrow.shape[1] if len(task.narrow.shape) == 5 else 1
    assert len(task.narrow.sizes) == task.narrow.shape[0] * views
    seen, score = [], TOKEN_SCORES['l2']
    monkeypatch.setitem(TOKEN_SCORES, 'l2', lambda x, info: seen.append(info.sizes) or score(x))
    times = benchmark.latencies(benchmark.test_as_val(task), task.variants, task.narrow, 2)
    assert seen and all((sizes is None) == (name == 'nuscenes') for sizes in seen)
    assert times.pop('dense').shape == (2, 1)
    assert set(times) == set(task.variants)
    assert all(t.shape == (2, 3) and (t > 0).all() for t in times.values())
    sizes = task.narrow.told().sizes()
    assert (sizes is None) == (name == 'nuscenes')
    if sizes:
        assert sizes == list(task.narrow.sizes)


def test_the_table_holds_means_over_seeds_and_paired_differences(capsys):
    task = benchmark.TASKS['nuscenes']
    rng = np.random.default_rng(0)
    records = {}
    for seed, gain in (('0', .1), ('1', .3)):
        noise = rng.normal(size=50)  # of the images: it drops out of the differences
        records[seed] = {under: {f'{name} at {s}': dict(
            metric=.5 + gain * (name == 'group'),
            resampled=drawn(noise, .5 + gain * (name == 'group')).to_json())
            for name in task.variants for s in benchmark.SPARSITIES}
            for under in ('image', 'group')}
        records[seed]['image']['dense'] = dict(metric=.8)
    benchmark.report(task, records)
    lines = capsys.readouterr().out.splitlines()
    assert any(line == 'Seeds 0, 1; dense 0.800' for line in lines)
    rows = {(c[1].strip(), c[2].strip()): [x.strip() for x in c[3:6]]
            for c in (line.split('|') for line in lines if line.startswith('| '))}
    assert rows['image', 'image'] == ['0.500', '', '']
    assert rows['group', 'image'] == ['0.700', '+0.200 (+0.200 to +0.200)', '+0.100 to +0.300']
    assert rows['group', 'the same'] == rows['group', 'image']
