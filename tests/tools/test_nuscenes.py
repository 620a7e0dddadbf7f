"""The command lines with mmdet3d: BEVDet on generated frames of six cameras."""
import csv
import math
import pickle
import shutil

import pytest
from helpers import refused, run_tool
from mmengine.config import Config
from trained import lines_of, metrics_of

from sparsevit_mm import SparsityConfig

pytestmark = pytest.mark.slow
DEPTHS = (2, 2, 2)
NUSCENES = 'NuScenes metric/pred_instances_3d_NuScenes'
SAMPLES = ['--num-samples', 3, '--seed', 1]


@pytest.fixture(scope='module')
def searched(tiny_3d, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('searched')
    outcome = run_tool('search_sparsity', tiny_3d.config, tiny_3d.checkpoint, '--work-dir',
                       work_dir, *SAMPLES, '--rounds', 1, '--threads', 1, '--max-latency', 1e6,
                       '--batch-size', 6, '--trials', 4, '--finalists', 1)
    assert outcome.code == 0, outcome.error
    return work_dir


def test_training_logs_the_loss_of_each_attribute_and_scores_dense_and_sparse(tiny_3d):
    lines = lines_of(tiny_3d.checkpoint.parent)
    train = [line for line in lines if 'loss' in line]
    assert train[-1]['loss'] < train[0]['loss'] / 2
    assert {f'task5.loss_{name}' for name in ('heatmap', 'xy', 'z', 'whl', 'yaw', 'vel')} <= set(
        train[0])
    assert len({line['sparsity'] for line in train}) > 5
    assert lines[-1][f'{NUSCENES}/mAP'] > 0.01  # depends on the processor
    assert lines[-1][f'60%/{NUSCENES}/NDS'] != lines[-1][f'{NUSCENES}/NDS']


def test_the_search_maximises_nds_and_test_of_the_winner_gives_its_figures(tiny_3d, searched):
    with (searched / 'candidates.csv').open() as file:
        evaluated = [row for row in csv.DictReader(file) if row['state'] == 'evaluated']
    winner = Config.fromfile(searched / 'winner.py')
    best = next(row for row in evaluated if SparsityConfig(
        row['sparsity'], DEPTHS).to_list() == winner.model.img_backbone.sparsity)
    assert float(best['metric']) == max(float(row['metric']) for row in evaluated) > 0
    assert best['metric'] == best[f'{NUSCENES}/NDS']
    tested = metrics_of(searched / 'winner.py', '--split', 'val', *SAMPLES)
    figures = {key: float(value) for key, value in best.items()
               if key.startswith('NuScenes') and value}  # blank: not finite
    finite = {key: value for key, value in tested.items() if math.isfinite(value)}
    assert finite == pytest.approx(figures) and len(figures) > 50


def test_the_splits_have_frames_of_their_own(tiny_3d):
    tested, validated = (metrics_of(tiny_3d.config, tiny_3d.checkpoint, '--split', split)
                         for split in ('test', 'val'))
    assert tested[f'{NUSCENES}/mATE'] != validated[f'{NUSCENES}/mATE']


@pytest.fixture
def broken(tiny_3d, tmp_path):
    """A copy of the data whose first frame to validate on can be spoilt, and its config."""
    data = shutil.copytree(tiny_3d.data, tmp_path / 'data')
    config = tmp_path / 'config.py'
    config.write_text(tiny_3d.config.read_text().replace(str(tiny_3d.data), str(data)))
    return data, config


@pytest.mark.parametrize('spoil, named', [
    (lambda frame: frame['images'].pop('CAM_BACK'), 'CAM_BACK: not in the frame'),
    (lambda frame: frame['images']['CAM_FRONT'].pop('lidar2cam'), 'CAM_FRONT: no lidar2cam')])
def test_a_faulty_frame_is_named_with_its_camera(broken, tiny_3d, spoil, named):
    data, config = broken
    path = data / 'nuscenes_infos_val.pkl'
    infos = pickle.loads(path.read_bytes())
    spoil(infos['data_list'][0])
    path.write_bytes(pickle.dumps(infos))
    with pytest.raises(ValueError, match=f'sample {infos["data_list"][0]["token"]}, {named}'):
        run_tool('test', config, tiny_3d.checkpoint, '--split', 'val', '--work-dir', data / 'out')


def test_missing_tables_are_named_before_anything_runs(broken, tiny_3d):
    data, config = broken
    shutil.rmtree(data / 'v1.0-mini')
    assert str(data / 'v1.0-mini') in refused(
        'search_sparsity', config, tiny_3d.checkpoint, '--work-dir', data / 'out',
        '--max-latency', 1e6)
