import json
import pickle

import cv2
import numpy as np
import pytest
from helpers import refused, run_tool

from generators import generate_mini_nuscenes, mini_nuscenes
from generators.nuscenes_cameras import CAMERAS
from generators.nuscenes_tables import LABELS
from generators.nuscenes_world import EGO_SIZE, PERIOD, World, footprint, overlap

SIZE = (176, 99)
COUNTS = dict(train=2, val=4, test=5)
ONE_EACH = dict(train=1, val=1, test=1)
# Devkit folder and name of each info file.
INFOS = dict(train=('', 'train'), val=('', 'val'), test=('test', 'val'))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'mini_nuscenes'
    return generate_mini_nuscenes(folder, COUNTS, SIZE, seed=3)


def files_of(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob('*') if path.is_file()
    }


def infos_of(root, split):
    folder, name = INFOS[split]
    return pickle.loads((root / folder / f'nuscenes_infos_{name}.pkl').read_bytes())


def devkit(root, split):
    nuscenes = pytest.importorskip('nuscenes')
    return nuscenes.NuScenes('v1.0-mini', str(root / INFOS[split][0]), verbose=False)


def test_same_seed_same_bytes(root, tmp_path):
    again = generate_mini_nuscenes(tmp_path / 'again', COUNTS, SIZE, seed=3)
    assert files_of(again) == files_of(root)


def test_other_seeds_give_other_scenes_and_tokens(root, tmp_path):
    other = generate_mini_nuscenes(tmp_path / 'other', COUNTS, SIZE, seed=4)
    before, after = files_of(root), files_of(other)
    assert before.keys() == after.keys()
    same = {name.split('/')[-1] for name in before if before[name] == after[name]}
    assert same == {'empty.png', 'visibility.json'}


def test_more_frames_leave_the_earlier_ones(root, tmp_path):
    more = generate_mini_nuscenes(tmp_path / 'more', dict(ONE_EACH, train=3), SIZE, seed=3)
    before, after = files_of(root), files_of(more)
    images = [name for name in before if name.endswith('.jpg') and '9001' in name]
    assert len(images) == 2 * 6 and all(after[name] == before[name] for name in images)
    assert len(infos_of(more, 'train')['data_list']) == 3


@pytest.mark.parametrize('split', COUNTS)
def test_infos_have_the_form_of_mmdet3d(root, split):
    infos = infos_of(root, split)
    assert infos['metainfo'] == dict(categories=LABELS, dataset='nuscenes', version='v1.0-mini',
                                     info_version='1.1')
    assert len(infos['data_list']) == COUNTS[split]
    for index, info in enumerate(infos['data_list']):
        assert info['sample_idx'] == index and list(info['images']) == list(CAMERAS)
        assert np.shape(info['ego2global']) == (4, 4)
        for channel, image in info['images'].items():
            shapes = {name: np.shape(value) for name, value in image.items()}
            assert shapes == dict(img_path=(), cam2img=(3, 3), cam2ego=(4, 4), ego2global=(4, 4),
                                  sample_data_token=(), timestamp=(), lidar2cam=(4, 4))
            folder = root / INFOS[split][0] / 'samples' / channel
            assert cv2.imread(str(folder / image['img_path'])).shape == (*SIZE[::-1], 3)
        for instance in info['instances']:
            assert len(instance['bbox_3d']) == 7 and len(instance['velocity']) == 2
            assert instance['bbox_3d_isvalid'] == (instance['num_lidar_pts'] > 0)
            assert instance['bbox_label'] == instance['bbox_label_3d'] in range(10)


@pytest.mark.parametrize('split', COUNTS)
def test_infos_agree_with_the_tables(root, split):
    """What the devkit derives from the tables is what the infos say."""
    nusc = devkit(root, split)
    known = moving = 0
    for info in infos_of(root, split)['data_list']:
        sample = nusc.get('sample', info['token'])
        assert sample['timestamp'] == pytest.approx(1e6 * info['timestamp'], abs=1)
        _, boxes, _ = nusc.get_sample_data(sample['data']['LIDAR_TOP'])
        assert len(boxes) == len(info['instances']) == len(sample['anns'])
        lidar2global = np.array(info['ego2global']) @ info['lidar_points']['lidar2ego']
        for box, instance, token in zip(boxes, info['instances'], sample['anns']):
            x, y, z, length, width, height, yaw = instance['bbox_3d']
            assert box.center == pytest.approx([x, y, z], abs=1e-6)
            assert box.wlh == pytest.approx([width, length, height])
            turn = box.orientation.yaw_pitch_roll[0] - yaw
            assert np.cos(turn) == pytest.approx(1)
            record = nusc.get('sample_annotation', token)
            assert record['num_lidar_pts'] == instance['num_lidar_pts']
            if record['prev'] or record['next']:
                known += 1
                moving += np.linalg.norm(instance['velocity']) > 0.5
                velocity = lidar2global[:3, :3] @ [*instance['velocity'], 0]
                assert nusc.box_velocity(token) == pytest.approx(velocity, abs=1e-6)
        for channel, image in info['images'].items():
            data = nusc.get('sample_data', sample['data'][channel])
            assert data['token'] == image['sample_data_token']
            assert nusc.get_sample_data_path(data['token']).endswith(image['img_path'])
            sensor = nusc.get('calibrated_sensor', data['calibrated_sensor_token'])
            assert np.allclose(sensor['camera_intrinsic'], image['cam2img'])
            assert np.allclose(sensor['translation'], np.array(image['cam2ego'])[:3, 3])
            lidar2ego = np.array(info['lidar_points']['lidar2ego'])
            assert np.allclose(np.array(image['cam2ego']) @ image['lidar2cam'], lidar2ego)
    assert known > moving
    assert moving or split == 'train'  # whose two frames may be still


def test_links_lead_through_scenes_and_instances(root):
    nusc = devkit(root, 'val')
    for scene in nusc.scene:
        token, seen = scene['first_sample_token'], []
        while token:
            seen.append(nusc.get('sample', token))
            token = seen[-1]['next']
        assert len(seen) == scene['nbr_samples']
        assert seen[-1]['token'] == scene['last_sample_token']
        assert np.allclose(np.diff([sample['timestamp'] for sample in seen]), 1e6 * PERIOD)
    for instance in nusc.instance:
        token, seen = instance['first_annotation_token'], []
        while token:
            seen.append(nusc.get('sample_annotation', token))
            token = seen[-1]['next']
        assert len(seen) == instance['nbr_annotations']
        assert seen[-1]['token'] == instance['last_annotation_token']
        assert len({tuple(record['size']) for record in seen}) == 1
    tokens = [record['token'] for table in nusc.table_names for record in getattr(nusc, table)]
    assert len(set(tokens)) == len(tokens)


def test_splits_share_neither_image_nor_sample(root):
    images = list(root.rglob('*.jpg'))
    assert len({path.read_bytes() for path in images}) == len(images) == 6 * sum(COUNTS.values())
    tokens = [info['token'] for split in COUNTS for info in infos_of(root, split)['data_list']]
    assert len(set(tokens)) == len(tokens)


def test_nothing_overlaps_and_all_classes_occur():
    names = set()
    for seed in range(6):
        world = World(8, np.random.default_rng(seed))
        names |= {thing.name for thing in world.things}
        for time in world.times:
            tracks = [(thing.track, thing.size) for thing in world.things]
            tracks.append((world.ego, np.array(EGO_SIZE)))
            areas = np.stack([footprint(*track.at(time), *size[:2]) for track, size in tracks])
            hits = overlap(areas[:, None], areas[None])
            assert hits.sum() == len(areas)  # each with itself
    assert names == set(LABELS)


def build_dataset(root, split):
    pytest.importorskip('mmdet3d')
    from mmdet3d.datasets import NuScenesDataset
    from mmdet3d.utils import register_all_modules
    register_all_modules()
    folder, name = INFOS[split]
    return NuScenesDataset(
        data_root=str(root / folder),
        ann_file=f'nuscenes_infos_{name}.pkl',
        metainfo=dict(version='v1.0-mini'),
        data_prefix=dict(pts='', **{channel: f'samples/{channel}' for channel in CAMERAS}),
        modality=dict(use_camera=True, use_lidar=False))


@pytest.mark.parametrize('split', ['val', 'test'])
def test_ground_truth_scores_one_with_the_stock_metric(root, split):
    """For classes that are seen within the range that is scored; the others score 0."""
    dataset = build_dataset(root, split)
    import torch
    from mmdet3d.evaluation import NuScenesMetric
    folder = root / INFOS[split][0]
    metric = NuScenesMetric(str(folder), str(folder / 'nuscenes_infos_val.pkl'))
    metric.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        for image in info['images'].values():
            assert cv2.imread(image['img_path']) is not None
        boxes, labels = (info['ann_info'][f'gt_{name}_3d'] for name in ('bboxes', 'labels'))
        assert 0 < len(boxes) < len(info['instances']) + 1
        prediction = dict(bboxes_3d=boxes, labels_3d=torch.as_tensor(labels),
                          scores_3d=torch.ones(len(boxes)))
        metric.process({}, [dict(pred_instances_3d=prediction, pred_instances={},
                                 sample_idx=info['sample_idx'])])
    scores = metric.evaluate(size=len(dataset))
    prefix = 'NuScenes metric/pred_instances_3d_NuScenes'
    found = {name for name in LABELS if scores[f'{prefix}/{name}_AP_dist_4.0'] > 0}
    assert len(found) >= 5
    for name in found:
        for distance in (0.5, 1.0, 2.0, 4.0):
            assert scores[f'{prefix}/{name}_AP_dist_{distance}'] == 1
        for error in ('trans_err', 'scale_err', 'orient_err', 'vel_err', 'attr_err'):
            value = scores[f'{prefix}/{name}_{error}']
            assert np.isnan(value) or value < 1e-3, (name, error)
    assert scores[f'{prefix}/mAP'] == pytest.approx(len(found) / len(LABELS))


def test_existing_data_set_is_kept(root):
    stamps = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert generate_mini_nuscenes(str(root), COUNTS, SIZE, seed=3) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == stamps


def test_other_parameters_are_refused(root):
    before = files_of(root)
    for other in (dict(seed=1), dict(image_size=(192, 108)), dict(num_frames=ONE_EACH)):
        parameters = dict(dict(num_frames=COUNTS, image_size=SIZE, seed=3), **other)
        with pytest.raises(FileExistsError, match='overwrite=True'):
            generate_mini_nuscenes(root, **parameters)
    assert files_of(root) == before


@pytest.mark.parametrize('counts', [dict(train=1, val=1), dict(train=1, val=1, test=0)])
def test_counts_are_checked(counts, tmp_path):
    with pytest.raises(ValueError, match='positive count'):
        generate_mini_nuscenes(tmp_path / 'data', counts, SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('size', [(32, 198), (352, ), (352, 198, 3)])
def test_sizes_are_checked(size, tmp_path):
    with pytest.raises(ValueError, match='image_size'):
        generate_mini_nuscenes(tmp_path / 'data', ONE_EACH, size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('overwrite', [False, True])
def test_interruption_leaves_nothing_half_written(overwrite, tmp_path, monkeypatch):
    if overwrite:
        before = files_of(generate_mini_nuscenes(tmp_path / 'data', ONE_EACH, SIZE))
    write_infos, written = mini_nuscenes.write_infos, []

    def fail_at_the_second(*args):
        written.append(args)
        if len(written) == 2:
            raise KeyboardInterrupt
        write_infos(*args)

    monkeypatch.setattr(mini_nuscenes, 'write_infos', fail_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        generate_mini_nuscenes(tmp_path / 'data', ONE_EACH, SIZE, seed=5, overwrite=overwrite)
    assert len(written) == 2
    if overwrite:
        assert files_of(tmp_path / 'data') == before
    assert [path.name for path in tmp_path.iterdir()] == ['data'] * overwrite


def test_tool_writes_what_the_function_does_and_refuses_in_one_line(tmp_path):
    data = tmp_path / 'data'
    arguments = [data, '--train', 1, '--val', 1, '--test', 1, '--image-size', *SIZE]
    assert run_tool('make_mini_nuscenes', *arguments, folder='demo').output.strip() == str(data)
    written = json.loads((data / 'mini_nuscenes.json').read_text())
    assert written['num_frames'] == ONE_EACH and written['image_size'] == list(SIZE)
    assert generate_mini_nuscenes(data, ONE_EACH, SIZE) == data
    assert str(data) in refused('make_mini_nuscenes', *arguments, '--seed', 1, folder='demo')
