"""The command lines with mmseg: nothing is special, the config alone says that it segments."""
import csv
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, refused, run_tool
from mmengine.config import Config
from trained import lines_of, metrics_of

from sparsevit_mm import SparsityConfig
from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost.macs import backbone_macs

DEPTHS = (2, 2, 4, 2)
METRICS = ('aAcc', 'mIoU', 'mAcc')
SAMPLES = ['--num-samples', 5, '--seed', 1]
SEARCH = [*SAMPLES, '--finalists', 1, '--rounds', 1, '--threads', 1, '--max-latency', 1e6]


def search(tiny_seg, work_dir, *arguments):
    return run_tool('search_sparsity', tiny_seg.config, tiny_seg.checkpoint,
                    '--work-dir', work_dir, *SEARCH, *arguments)


def rows_of(work_dir):
    with (work_dir / 'candidates.csv').open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope='module')
def searched(tiny_seg, tmp_path_factory):
    """Work directory of a search that some configurations are too large for."""
    work_dir = tmp_path_factory.mktemp('searched')
    outcome = search(tiny_seg, work_dir, '--trials', 4)
    assert outcome.code == 0, outcome.error
    return work_dir


def test_training_learns_and_logs_sparsity_and_metrics_of_each_configuration(tiny_seg):
    lines = lines_of(tiny_seg.checkpoint.parent)
    train = [line for line in lines if 'loss' in line]
    assert [line['iter'] for line in train] == list(range(1, 21))
    assert train[-1]['loss'] < .9 * train[0]['loss']  # mean of ten iterations, the first alone
    assert len({line['sparsity'] for line in train}) > 5
    metrics = lines[-1]
    assert metrics['mIoU'] > 10
    assert metrics['60%/mIoU'] != metrics['mIoU']


@pytest.mark.parametrize('arguments, prefix', [([], ''), (['--sparsity', '.6'], '60%/')])
def test_test_gives_what_validation_gave_at_that_sparsity(tiny_seg, arguments, prefix):
    validated = lines_of(tiny_seg.checkpoint.parent)[-1]
    tested = metrics_of(tiny_seg.config, tiny_seg.checkpoint, '--split', 'val', *arguments)
    assert tested == {key: validated[prefix + key] for key in METRICS}


def test_test_split_is_the_default_and_samples_are_those_of_the_seed(tiny_seg):
    command = tiny_seg.config, tiny_seg.checkpoint
    validated = lines_of(tiny_seg.checkpoint.parent)[-1]
    everything, some = metrics_of(*command), metrics_of(*command, '--num-samples', 2)
    assert len({everything['mIoU'], some['mIoU'], validated['mIoU']}) == 3


@pytest.mark.slow
def test_search_maximises_mean_iou_and_test_of_the_winner_gives_its_figure(searched):
    winner = Config.fromfile(searched / 'winner.py')
    evaluated = [row for row in rows_of(searched) if row['state'] == 'evaluated']
    best = next(row for row in evaluated if SparsityConfig(
        row['sparsity'], DEPTHS).to_list() == winner.model.backbone.sparsity)
    assert float(best['metric']) == max(float(row['metric']) for row in evaluated) > 0
    tested = metrics_of(searched / 'winner.py', '--split', 'val', *SAMPLES)
    assert tested == {key: float(best[key]) for key in METRICS}
    assert tested['mIoU'] == float(best['metric'])
    assert f'mIoU {float(best["metric"]):.4g} on 5 images' in (searched / 'winner.py').read_text()
    assert not list(searched.glob('*_images_*.json'))  # COCO needs a file, this one none


def test_candidates_are_counted_and_measured_at_the_test_pipeline_s_size(searched, tiny_seg):
    backbone = build_backbone(load_config(str(tiny_seg.config)))
    for row in rows_of(searched):
        if row['macs']:
            assert int(row['macs']) == backbone_macs(
                backbone, (64, 128), sparsity=SparsityConfig(row['sparsity'], DEPTHS))
    assert '64x128' in (searched / 'winner.py').read_text()


@pytest.mark.slow
def test_search_goes_on_with_resume(searched, tiny_seg, tmp_path):
    work_dir = tmp_path / 'copy'
    shutil.copytree(searched, work_dir)
    outcome = search(tiny_seg, work_dir, '--trials', 6, '--resume', '--overwrite')
    assert outcome.code == 0, outcome.error
    before, after = rows_of(searched), rows_of(work_dir)
    shown = 'sparsity', 'state', 'metric', 'macs', *METRICS
    assert [[row[key] for key in shown] for row in after[:len(before)]] == [
        [row[key] for key in shown] for row in before]
    assert [row['state'] for row in after].count('evaluated') == 6


@pytest.mark.slow
def test_train_takes_the_winner_as_it_is(searched, tiny_seg, tmp_path):
    outcome = run_tool('train', searched / 'winner.py', '--work-dir', tmp_path,
                       **tiny_seg.options)
    assert outcome.code == 0, outcome.error
    assert f'from {tiny_seg.checkpoint}' in next(tmp_path.glob('*/*.log')).read_text()
    assert not any('sparsity' in line for line in lines_of(tmp_path))  # no draws: it has its own


def test_latency_is_measured_at_the_test_pipeline_s_height_and_width(tiny_seg):
    outcome = run_tool('measure_latency', tiny_seg.config, '--rounds', 1, '--threads', 1,
                       '--sparsity', .6)
    assert outcome.code == 0, outcome.error
    assert 'batch 1 of 64x128, fp32' in ' '.join(outcome.output.split())


@pytest.mark.parametrize('tool', ['train', 'test', 'search_sparsity'])
@pytest.mark.parametrize('fault', ['label is missing', 'classes differ'])
def test_bad_data_are_named_before_anything_is_written(tiny_seg, tmp_path, tool, fault):
    shutil.copytree(tiny_seg.data, tmp_path / 'data')
    options = {f'{split}_dataloader__dataset__data_root': tmp_path / 'data'
               for split in ('train', 'val')}
    named = ['19 classes', 'model.decode_head.num_classes is 7']
    if fault == 'classes differ':
        options['model__decode_head__num_classes'] = 7
    else:
        label = next((tmp_path / 'data/gtFine/train').rglob('*_labelTrainIds.png'))
        label.unlink()
        named = ['1 of 8 labels', str(label)]
    more = dict(train=[], test=[tiny_seg.checkpoint, '--split', 'val'],
                search_sparsity=[tiny_seg.checkpoint, '--max-latency', '1e6'])[tool]
    message = refused(tool, tiny_seg.config, *more, '--work-dir', tmp_path / 'w', **options)
    assert all(text in message for text in named)
    assert not list((tmp_path / 'w').rglob('*.*'))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='gloo is for machines without CUDA')
def test_two_processes_train_together(tiny_seg, tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    environment = dict(
        os.environ, PORT=str(port), OMP_NUM_THREADS='1',
        PATH=os.pathsep.join([os.path.dirname(sys.executable), os.environ['PATH']]))
    options = [f'{key.replace("__", ".")}={value}' for key, value in tiny_seg.options.items()]
    done = subprocess.run(
        ['bash', ROOT / 'tools/dist_train.sh', tiny_seg.config, '2', '--work-dir', tmp_path,
         '--cfg-options', *options], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'Distributed training: True' in log and 'GPU number: 2' in log
    *train, metrics = lines_of(tmp_path)
    assert [line['iter'] for line in train] == [1, 2] and metrics['mIoU'] > 0
    assert (tmp_path / 'iter_2.pth').exists()
