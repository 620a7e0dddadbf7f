"""A subset of nuScenes frames, scored through mmdet3d's own evaluator, against the devkit on the
full tables."""
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from copy import copy, deepcopy
from pathlib import Path

import pytest
from nuscenes_tables import evaluate, nuscenes_config, write_nuscenes

from sparsevit_mm.evaluation.metrics import default_metric
from sparsevit_mm.evaluation.nuscenes_eval import EVAL_SETS
from sparsevit_mm.evaluation.subset import restrict_to_subset

pytest.importorskip('mmdet3d')
nuscenes = pytest.importorskip('nuscenes')

TABLES = 13


@pytest.fixture(scope='module')
def cfg(tmp_path_factory):
    return nuscenes_config(write_nuscenes(tmp_path_factory.mktemp('nuscenes') / 'data'))


def restricted(cfg, num_samples, seed, work_dir):
    cfg = deepcopy(cfg)
    restrict_to_subset(cfg, 'val', num_samples, seed, str(work_dir))
    return cfg


def tables_of(cfg):
    return nuscenes.NuScenes(cfg.val_dataloader.dataset.metainfo.version,
                             cfg.val_evaluator.data_root, verbose=False)


def truth(tables, filtered):
    """The devkit's ground truth by sample, its floats as they are."""
    from nuscenes.eval.common import loaders
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.data_classes import DetectionBox
    boxes = loaders.add_center_dist(tables, loaders.load_gt(
        tables, EVAL_SETS[tables.version], DetectionBox))
    if filtered:
        boxes = loaders.filter_eval_boxes(
            tables, boxes, config_factory('detection_cvpr_2019').class_range)
    return {token: [repr(box) for box in boxes[token]] for token in boxes.sample_tokens}


@pytest.mark.parametrize('num_samples, seed', [(1, 0), (1, 1), (3, 0), (5, 7), (8, 0)])
def test_ground_truth_of_a_frame_is_that_of_the_full_tables(cfg, tmp_path, num_samples, seed):
    small = restricted(cfg, num_samples, seed, tmp_path)
    for filtered in (False, True):
        whole, part = (truth(tables_of(one), filtered) for one in (cfg, small))
        assert len(part) == num_samples and part == {token: whole[token] for token in part}
    unfiltered = truth(tables_of(small), False)
    assert all(len(part[token]) < len(unfiltered[token]) for token in part)
    assert num_samples < 8 or "'velocity': array([nan, nan])" in str(list(part.values()))


@pytest.fixture(scope='module')
def devkit(cfg, tmp_path_factory):
    """Tokens -> NDS, mAP of the devkit's evaluation of all frames, its boxes cut by hand."""
    from mmdet3d.evaluation.metrics import NuScenesMetric
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.evaluate import DetectionEval
    folder = tmp_path_factory.mktemp('results')
    evaluate(cfg, metric=NuScenesMetric(cfg.val_evaluator.data_root, cfg.val_evaluator.ann_file,
                                        jsonfile_prefix=str(folder)))
    evaluation = DetectionEval(
        tables_of(cfg), config_factory('detection_cvpr_2019'),
        f'{folder}/pred_instances_3d/results_nusc.json', 'mini_val', str(folder), False)

    def score(tokens):
        part = copy(evaluation)
        part.gt_boxes, part.pred_boxes = EvalBoxes(), EvalBoxes()
        for token in tokens:
            part.gt_boxes.add_boxes(token, evaluation.gt_boxes[token])
            part.pred_boxes.add_boxes(token, evaluation.pred_boxes[token])
        metrics, _ = part.evaluate()
        return metrics.nd_score, metrics.mean_ap

    return score


@pytest.mark.parametrize('num_samples, seed', [(1, 1), (5, 7), (100, 3)])
def test_subset_scores_as_the_devkit_with_those_frames_alone(
        cfg, devkit, tmp_path, num_samples, seed):
    tokens, metrics = evaluate(restricted(cfg, num_samples, seed, tmp_path))
    assert len(tokens) == len(set(tokens)) == min(8, num_samples)
    nds = metrics[default_metric(cfg)]
    assert (nds, metrics[default_metric(cfg).replace('NDS', 'mAP')]) == devkit(tokens)
    assert .05 < nds < .9
    if num_samples >= 8:
        whole = evaluate(cfg)
        assert whole[0] == tokens and whole[1] == pytest.approx(metrics, abs=0, nan_ok=True)


def test_full_version_is_cut_as_the_mini_one(tmp_path):
    version = 'v1.0-trainval'
    cfg = nuscenes_config(write_nuscenes(tmp_path / 'data', version), version)
    small = restricted(cfg, 3, 0, tmp_path)
    assert len(truth(tables_of(small), True)) == 3
    del cfg.val_dataloader.dataset.metainfo['version']  # it is NuScenesDataset's own
    assert restricted(cfg, 3, 0, tmp_path).val_evaluator == small.val_evaluator


def test_paths_may_be_relative_or_absolute(cfg, tmp_path, monkeypatch):
    root = Path(cfg.val_evaluator.data_root)
    absolute, relative = deepcopy(cfg), deepcopy(cfg)
    absolute.val_dataloader.dataset.ann_file = str(root / 'infos_val.pkl')
    monkeypatch.chdir(root.parent)
    relative.val_evaluator.update(data_root=root.name, ann_file='data/infos_val.pkl')
    relative.val_dataloader.dataset.data_root = root.name
    small = [restricted(one, 4, 0, 'work') for one in (cfg, absolute, relative)]
    monkeypatch.chdir('/')  # no path of the subset depends on where the search runs
    for before, after in zip((cfg, absolute, relative), small):
        dataset = after.val_dataloader.dataset
        assert dataset.data_root == before.val_dataloader.dataset.data_root  # for the images
        assert dataset.ann_file == after.val_evaluator.ann_file
        assert after.val_evaluator == small[0].val_evaluator
        assert len(truth(tables_of(after), True)) == 4


def test_one_seed_one_set_of_frames_and_the_given_files_left_alone(cfg, tmp_path):
    root = Path(cfg.val_evaluator.data_root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    tokens = []
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        small = restricted(cfg, 4, seed, tmp_path / name)
        with open(small.val_evaluator.ann_file, 'rb') as file:
            frames = pickle.load(file)['data_list']
        tokens.append([frame['token'] for frame in frames])
        assert [frame['sample_idx'] for frame in frames] == [0, 1, 2, 3]
    assert tokens[0] == tokens[1] != tokens[2]
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob('*')}


def test_subset_that_is_there_is_taken_again_until_the_tables_change(tmp_path):
    cfg = nuscenes_config(write_nuscenes(tmp_path / 'data'))
    first = restricted(cfg, 2, 0, tmp_path / 'work')
    inode = os.stat(first.val_evaluator.ann_file).st_ino
    assert restricted(cfg, 2, 0, tmp_path / 'work').to_dict() == first.to_dict()
    assert os.stat(first.val_evaluator.ann_file).st_ino == inode
    table = tmp_path / 'data' / 'v1.0-mini' / 'sample_annotation.json'
    table.write_text(table.read_text().replace('"num_lidar_pts": 9', '"num_lidar_pts": 70'))
    second = restricted(cfg, 2, 0, tmp_path / 'work')
    assert truth(tables_of(second), True) != truth(tables_of(first), True)
    assert len(os.listdir(tmp_path / 'work')) == 2


def test_processes_that_write_at_once_end_up_with_one_whole_folder(cfg, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        roots = {one.val_evaluator.data_root for one in pool.map(
            lambda _: restricted(cfg, 3, 0, tmp_path), range(8))}
    assert [str(tmp_path / name) for name in os.listdir(tmp_path)] == list(roots)
    (root, ) = roots
    assert len(os.listdir(f'{root}/v1.0-mini')) == TABLES and len(os.listdir(root)) == 2


def test_tables_hold_what_the_frames_need_and_no_more(cfg, tmp_path):
    root = Path(restricted(cfg, 1, 0, tmp_path).val_evaluator.data_root) / 'v1.0-mini'
    rows = {path.stem: json.loads(path.read_text()) for path in root.iterdir()}
    assert len(rows['scene']) == 2 and len(rows['sample']) <= 3
    assert len(rows['sample_data']) == len(rows['ego_pose']) == 1
    assert {row['instance_token'] for row in rows['sample_annotation']} == {
        row['token'] for row in rows['instance']}


def change_infos(cfg, change):
    """Infos written anew, in place."""
    path = Path(cfg.val_evaluator.ann_file)
    infos = pickle.loads(path.read_bytes())
    change(infos['data_list'])
    path.write_bytes(pickle.dumps(infos))


@pytest.mark.parametrize('change, error, named', [
    (lambda cfg: change_infos(cfg, lambda frames: frames[2].update(token='nowhere')),
     ValueError, 'nowhere'),
    (lambda cfg: change_infos(cfg, lambda frames: frames[2].update(token='scene-0061 1')),
     ValueError, 'scene-0061 1 .* mini_val'),
    (lambda cfg: cfg.val_dataloader.dataset.metainfo.update(version='v1.0-trainval'),
     FileNotFoundError, 'data/v1.0-trainval'),
    (lambda cfg: cfg.val_dataloader.dataset.metainfo.update(version='v1.0-test'),
     ValueError, 'v1.0-test.*v1.0-mini, v1.0-trainval'),
    (lambda cfg: Path(cfg.val_evaluator.data_root, 'v1.0-mini', 'instance.json').unlink(),
     FileNotFoundError, 'instance.json'),
    (lambda cfg: cfg.val_dataloader.dataset.update(indices=3), ValueError, 'indices')])
def test_what_can_not_be_scored_is_named_and_leaves_nothing(tmp_path, change, error, named):
    cfg = nuscenes_config(write_nuscenes(tmp_path / 'data'))
    change(cfg)
    (tmp_path / 'work').mkdir()
    with pytest.raises(error, match=named):
        restricted(cfg, 8, 0, tmp_path / 'work')
    assert not os.listdir(tmp_path / 'work')


def test_frames_without_any_object_are_refused(tmp_path):
    """The devkit fails at them, late and without a word of why."""
    cfg = nuscenes_config(write_nuscenes(tmp_path / 'data'))
    table = tmp_path / 'data' / 'v1.0-mini' / 'category.json'
    rows = [{**row, 'name': 'animal'} for row in json.loads(table.read_text())]
    table.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match='no object'):
        restricted(cfg, 2, 0, tmp_path / 'work')
    with pytest.raises(Exception, match='Invalid box type: None'):
        evaluate(cfg)


@pytest.mark.parametrize('seed', range(4))
def test_a_subset_shows_an_object_where_some_frame_does(tmp_path, seed):
    cfg = nuscenes_config(write_nuscenes(tmp_path / 'data'))

    def label(frames):
        for frame in frames:
            frame['instances'] = [dict(bbox_label_3d=0 if frame is frames[2] else -1)]

    change_infos(cfg, label)
    infos = pickle.loads(Path(cfg.val_evaluator.ann_file).read_bytes())
    token = infos['data_list'][2]['token']
    cfg = restricted(cfg, 1, seed, tmp_path / 'work')
    drawn = pickle.loads(Path(cfg.val_evaluator.ann_file).read_bytes())['data_list']
    assert [frame['token'] for frame in drawn] == [token]
