"""Ways to search beside the one for a single winner."""
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from helpers import ROOT, refused, run_tool
from mmengine.config import Config
from test_search_sparsity import DEPTHS, rows_of
from trained import metrics_of

from sparsevit_mm import SparsityConfig, set_latency_budget
from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost.latency import LatencyMeter
from sparsevit_mm.cost.macs import backbone_macs
from sparsevit_mm.budget import Front
from sparsevit_mm.search.record import StudyRecord
from sparsevit_mm.search.store.storage import open_storage

FEW = ['--num-samples', 4, '--seed', 1, '--rounds', 1, '--threads', 1]


def search(tiny, work_dir, *arguments, **options):
    return run_tool('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir', work_dir,
                    *FEW, *arguments, **options)


@contextmanager
def steady_latencies():
    """Milliseconds of each pass by its MACs: on a busy machine a pass may take any time, and a
    candidate prove to be too slow."""
    run = LatencyMeter._run

    def by_macs(meter, config):
        run(meter, config)
        return backbone_macs(meter.backbone, meter.image.shape[-2:], len(meter.image),
                             config) / 1e6

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(LatencyMeter, '_run', by_macs)
        yield


def optuna_study(work_dir):
    import optuna
    manifest = json.loads((work_dir / 'search.json').read_text())
    return optuna.load_study(study_name=manifest['study'],
                             storage=open_storage(manifest['storage']))


def summary_of(work_dir):
    return StudyRecord(optuna_study(work_dir)).summary()


@pytest.fixture(scope='module')
def front(tiny, tmp_path_factory):
    """Work directory of a Pareto search with all that goes along."""
    work_dir = tmp_path_factory.mktemp('front')
    with steady_latencies():
        outcome = search(tiny, work_dir, '--pareto', '--points', '200%,150%', '--trials', 10,
                         '--first-look', 2, '--references')
    assert outcome.code == 0, outcome.error
    return work_dir, outcome.output


def test_a_pareto_search_leaves_a_config_for_each_point_and_a_front(front, tiny):
    work_dir, output = front
    summary = summary_of(work_dir)
    assert [f.point / summary.dense.latency for f in summary.finalists] == pytest.approx([2, 1.5])
    for name, finalist in zip(('200pct', '150pct'), summary.finalists):
        path = work_dir / f'winner_{name}.py'
        assert Config.fromfile(path).model.backbone.sparsity == finalist.candidate.config.to_list()
        assert finalist.measured <= finalist.point
        assert f'takes {finalist.point:.2f} ms at most' in path.read_text()
        assert str(path) in output
    assert Front.load(work_dir / 'front.json').metric == 'coco/bbox_mAP'


def test_one_checkpoint_serves_the_points_of_the_front(front, tiny):
    path = front[0] / 'front.json'
    backbone = build_backbone(load_config(str(tiny.config)), str(tiny.checkpoint)).eval()
    points = Front.load(path).points
    for point in (points[0], points[-1], points[0]):
        assert set_latency_budget(backbone, point.latency, path) == point.config
        fresh = build_backbone(load_config(str(tiny.config)), str(tiny.checkpoint)).eval()
        fresh.sparsity = point.config
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert all(map(torch.equal, backbone(x), fresh(x)))


def test_finalists_are_evaluated_on_all_of_val(front, tiny):
    finalist = summary_of(front[0]).finalists[0]
    full = metrics_of(front[0] / 'winner_200pct.py', '--split', 'val')
    assert finalist.full == pytest.approx(full)


def test_finalists_are_resampled_on_all_of_val(front):
    for finalist in summary_of(front[0]).finalists:
        low, high = np.percentile(finalist.resampled['bootstrap'], (1, 99))
        assert low <= finalist.full['coco/bbox_mAP'] <= high and high > low


def test_references_are_uniform_stages_and_smaller_images(front):
    references = summary_of(front[0]).references
    kinds = [r.kind for r in references]
    assert kinds.count('uniform') == 4 and kinds.count('stage') == 2 * len(DEPTHS)
    assert [r.name for r in references if r.kind == 'resolution'] == ['64x64', '32x32'] or (
        [r.name for r in references if r.kind == 'resolution'] == ['64x64'])
    assert all(r.latency > 0 and 0 <= r.metric <= 1 for r in references)


def test_candidates_were_looked_at_first_and_resampled(front):
    summary = summary_of(front[0])
    assert all(c.first_look is not None for c in summary.evaluated)
    assert all(100 <= len(c.resampled['bootstrap']) <= 1000
               for c in (*summary.evaluated, summary.dense))
    assert len(rows_of(front[0])) == len(summary.candidates)


def test_a_pareto_search_goes_on_only_as_one(front, tiny):
    message = refused('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir', front[0],
                      *FEW, '--max-latency', '200%', '--first-look', 2, '--resume', '--overwrite',
                      '--out', front[0] / 'other.py')
    assert "objectives: ['coco/bbox_mAP', 'latency'] in the study" in message


def test_a_point_below_the_reachable_latencies_is_named(tiny, tmp_path):
    message = refused('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir', tmp_path,
                      *FEW, '--pareto', '--points', '100%,0.001ms')
    assert '--points 0.001ms' in message


@pytest.mark.slow
def test_finalists_are_judged_in_other_scopes_too(tiny, tmp_path):
    with steady_latencies():
        outcome = search(tiny, tmp_path, '--max-latency', '500%', '--trials', 6, '--finalists', 2,
                         '--scopes', 'group', '--batch-size', 2,
                         model__backbone__group_size=2)
    assert outcome.code == 0, outcome.error
    best = summary_of(tmp_path).finalists[0]
    winner = Config.fromfile(tmp_path / 'winner.py')
    assert winner.model.backbone.get('scope') == best.scope
    assert winner.model.backbone.group_size == 2
    again = metrics_of(tmp_path / 'winner.py', '--split', 'val')
    assert again['coco/bbox_mAP'] == best.full['coco/bbox_mAP']
    study = optuna_study(tmp_path)
    for figures in study.user_attrs['judged again'].values():
        assert {'full', 'full, scope group', 'ratio', 'ratio, scope group'} <= set(figures)


@pytest.mark.slow
def test_a_scope_that_the_model_can_not_select_by_is_refused_at_once(tiny, tmp_path):
    message = refused('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir', tmp_path,
                      *FEW, '--max-latency', '500%', '--scopes', 'group')
    assert "scope 'group' has no group size for a batch of" in message
    message = refused('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir', tmp_path,
                      *FEW, '--max-latency', '500%', '--scopes', 'group',
                      model__backbone__group_size=2)
    assert 'a batch of 1 images' in message and 'group size, 2' in message
    message = refused('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir', tmp_path,
                      *FEW, '--pareto', '--scopes', 'group')
    assert '--scopes' in message and '--pareto' in message


@pytest.mark.slow
def test_calibration_of_a_stock_config_needs_no_sparse_backbone(tiny, tmp_path):
    """The config of a dense model: its Swin is swapped on the way."""
    stock = tmp_path / 'stock.py'
    stock.write_text(f"_base_ = [{str(tiny.config)!r}]\ncustom_hooks = []\n"
                     "model = dict(backbone=dict(type='SwinTransformer'))\n")
    outcome = run_tool('search_sparsity', stock, tiny.checkpoint, '--work-dir', tmp_path / 'w',
                       *FEW, '--calibrate', '--trials', 10, '--points', '300%')
    assert outcome.code == 0, outcome.error
    row = next(line for line in outcome.output.splitlines() if '300%' in line)
    assert re.search(r'[+-]0\.\d{4} \(none: 8 images\)', row)  # too few for an interval
    winner = Config.fromfile(tmp_path / 'w' / 'winner_300pct.py')
    assert winner.model.backbone.type == 'SparseSwinTransformer'


@pytest.mark.parametrize('arguments, named', [
    ([], 'error: --max-latency'), (['--max-latency', 9, '--points', '9'], 'error: --points'),
    (['--pareto', '--points', 'fast'], "'fast' is neither"),
    (['--max-latency', 9, '--first-look', 4], '--first-look 4'),
    (['--max-latency', 9, '--storage', 'postgresql://me:hush@a@b'], 'malformed storage URL'),
    (['--max-latency', 9, '--latency-table', 'nowhere.json'], 'nowhere.json')])
def test_what_makes_no_search_is_refused(tiny, tmp_path, arguments, named):
    outcome = search(tiny, tmp_path, *arguments)
    assert outcome.code != 0 and named in str(outcome.error)
    assert 'hush' not in str(outcome.error) + outcome.output
    assert not list(tmp_path.glob('winner*'))


@pytest.mark.slow
def test_latencies_come_from_a_table_and_the_winner_is_measured(tiny, tmp_path):
    table = tmp_path / 'table.json'
    outcome = run_tool('measure_latency', tiny.config, '--table', table, '--threads', 1,
                       '--budget', 20)
    assert outcome.code == 0, outcome.error
    outcome = search(tiny, tmp_path / 'w', '--max-latency', '500%', '--latency-table', table,
                     '--trials', 6)
    assert outcome.code == 0, outcome.error
    from sparsevit_mm.cost.table import LatencyTable
    predict = LatencyTable.load(table).predict
    rows = [row for row in rows_of(tmp_path / 'w') if row['state'] == 'evaluated']
    for row in rows:
        config = SparsityConfig(row['sparsity'], DEPTHS)
        assert float(row['latency_ms']) == pytest.approx(predict(config), abs=.001)
    assert 'predicted by a table' in (tmp_path / 'w' / 'winner.py').read_text()
    message = refused('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir',
                      tmp_path / 'v', *FEW, '--max-latency', 9, '--latency-table', table,
                      '--batch-size', 2)
    assert 'batch_size' in message


def command(tiny, work_dir, *arguments, run=(sys.executable, )):
    return [*map(str, (*run, ROOT / 'tools' / 'search_sparsity.py', tiny.config, tiny.checkpoint,
                       '--work-dir', work_dir, *FEW, '--max-latency', '500%', *arguments))]


@pytest.mark.slow
def test_two_workers_share_a_study_and_both_write_the_winner(tiny, tmp_path):
    storage = f'sqlite:///{tmp_path}/shared.db'
    workers = [subprocess.Popen(
        command(tiny, tmp_path / name, '--storage', storage, '--study', 'shared', '--trials', 12),
        env=dict(os.environ, OMP_NUM_THREADS='1'), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True) for name in 'ab']
    outputs = [worker.communicate(timeout=1800)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    a, b = (summary_of(tmp_path / name) for name in 'ab')
    configs = [c.config for c in a.candidates if c.state == 'evaluated']
    assert len(configs) == len(set(configs)) and 12 <= len(configs) <= 13
    assert a.finalists == b.finalists
    winners = [Config.fromfile(tmp_path / name / 'winner.py') for name in 'ab']
    assert winners[0].model.backbone.sparsity == winners[1].model.backbone.sparsity


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='two processes would share one GPU')
def test_two_ranks_evaluate_each_candidate_together(tiny, tmp_path):
    done = subprocess.run(
        command(tiny, tmp_path / 'w', '--trials', 5, '--launcher', 'pytorch', run=(
            sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')),
        env=dict(os.environ, OMP_NUM_THREADS='1'), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    winner = tmp_path / 'w' / 'winner.py'
    best = summary_of(tmp_path / 'w').finalists[0]
    alone = metrics_of(winner, '--split', 'val', '--num-samples', 4, '--seed', 1)
    assert alone['coco/bbox_mAP'] == best.candidate.metric
    assert done.stdout.count('building the model') == done.stdout.count('the report:') == 1
