"""Jobs that wait for each other, and the benchmarks made of them."""
import argparse
import sys
from pathlib import Path

import pytest
from helpers import ROOT

sys.path.insert(0, str(ROOT / 'benchmarks'))
import ablation  # noqa: E402
import claim  # noqa: E402
from jobs import Job, run_jobs  # noqa: E402

from sparsevit_mm.config.data import input_shape as shape_of  # noqa: E402
from sparsevit_mm.config.reading import load_config  # noqa: E402


def appends(path, word, log):
    def run():
        with open(log, 'a') as file:
            file.write(word)
        path.write_text(word)
        print(f'made {word}')
    return run


@pytest.mark.parametrize('workers', [1, 3])
def test_a_job_runs_once_and_after_what_it_needs(tmp_path, workers):
    log = tmp_path / 'log'
    first, second, third = (tmp_path / name / 'result.json' for name in 'abc')
    jobs = [Job(third, appends(third, 'c', log), [second]),
            Job(second, appends(second, 'b', log), [first]), Job(first, appends(first, 'a', log))]
    for _ in range(2):
        assert run_jobs(jobs, workers) == []
    assert log.read_text() == 'abc'
    assert first.with_suffix('.log').read_text() == 'made a\n'


def test_what_failed_and_what_waited_for_it_are_named_and_others_go_on(tmp_path):
    good, bad, late, lost = (tmp_path / name for name in ('good', 'bad', 'late', 'lost'))

    def fail():
        raise ArithmeticError('no such number')

    failed = run_jobs([
        Job(bad, fail), Job(late, lambda: late.write_text(''), [bad]),
        Job(good, lambda: good.write_text('')),
        Job(lost, lambda: lost.write_text(''), [tmp_path / 'nobody makes it'])], 2)
    assert set(failed) == {bad, late, lost}
    assert good.exists() and not late.exists() and not lost.exists()
    assert 'ArithmeticError: no such number' in bad.with_suffix('.log').read_text()


def test_a_job_without_a_result_has_failed(tmp_path):
    assert run_jobs([Job(tmp_path / 'x', lambda: None)], 1) == [tmp_path / 'x']


def closed(jobs):
    """Whether every need is made by a job before."""
    made = set()
    for job in jobs:
        if not set(job.needs) <= made:
            return False
        made.add(job.done)
    return len(made) == len(jobs)


@pytest.mark.parametrize('task', ablation.TASKS)
def test_each_variant_is_adapted_from_the_dense_model_and_tested(tmp_path, task):
    jobs = ablation.make_jobs(ablation.TASKS[task], tmp_path, 0, list(ablation.VARIANTS))
    assert closed(jobs) and len(jobs) == 1 + 2 * len(ablation.VARIANTS)
    assert ablation.BASE in ablation.VARIANTS


@pytest.mark.parametrize('task', claim.TASKS)
@pytest.mark.parametrize('pretrained', [None, Path('tiny.pth')])
def test_each_row_of_the_claim_is_made_from_what_is_there(tmp_path, task, pretrained):
    args = argparse.Namespace(task=task, work_dir=tmp_path, seeds=[0], limits=[.7, .5],
                              iters=[4, 4, 4], trials=2, jobs=1, pretrained=pretrained)
    found = {'dense': 1., 'narrow': {'24': .6, '20': .5}, **{
        limit: dict(uniform=.5, uniform_ratio=.6, shape=[240, 320], shape_ratio=.6)
        for limit in ('0.7', '0.5')}}
    jobs = claim.make_jobs(args, 0, found)
    assert closed(jobs)
    results = {job.done.stem for job in jobs if job.done.suffix == '.json'}
    names = {row.name for row in claim.rows(claim.TASKS[task], found, args.limits)}
    missing = names - results
    assert missing == ({'width_0.75', 'width_0.6'} if pretrained else set())


@pytest.mark.slow
@pytest.mark.parametrize('task', claim.TASKS.values(), ids=claim.TASKS)
def test_each_size_and_width_of_the_claim_fits_its_config(task):
    """Options that name what the config has, and a backbone that can be built."""
    for shape in (*task.shapes, claim.full_shape(task)):
        for whole in (False, True):
            cfg = load_config(str(task.adapt), claim.size_options(task, shape, whole))
            assert shape_of(cfg) == tuple(shape)
    for width in claim.WIDTHS.values():
        assert claim.backbone_of(task, width).num_features[0] == width
