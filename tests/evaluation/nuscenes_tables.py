"""Tables of a nuScenes devkit version and mmdet3d infos, made up: a few frames of a few objects."""
import json
import pickle
from pathlib import Path

import numpy as np
from mmengine.config import Config

# Name, first and last frame, attribute, start (metres ahead and to the left of the car that looks
# on), velocity (m/s), LiDAR points in each frame.
TRACKS = [
    ('vehicle.car', 0, 3, 'vehicle.moving', (10, 2), (4, 0), 9),
    ('vehicle.car', 0, 3, 'vehicle.parked', (20, -9), (0, 0), 0),  # no points: not scored
    ('vehicle.car', 0, 3, 'vehicle.parked', (80, 0), (0, 0), 9),  # too far: not scored
    ('vehicle.bus.rigid', 1, 3, 'vehicle.stopped', (-15, 8), (1, 0), 9),
    ('vehicle.truck', 0, 2, None, (-20, -5), (0, 3), 9),
    ('human.pedestrian.adult', 1, 2, 'pedestrian.moving', (5, 5), (1, 1), 9),
    ('human.pedestrian.stroller', 0, 3, None, (5, 8), (1, 1), 9),  # no class of the benchmark
    ('vehicle.motorcycle', 2, 2, 'cycle.with_rider', (12, 12), (6, 0), 9),  # no velocity known
    ('vehicle.bicycle', 0, 3, 'cycle.without_rider', (8, -6), (0, 0), 9),  # in the rack
    ('vehicle.bicycle', 0, 3, 'cycle.without_rider', (-8, -6), (0, 0), 9),
    ('static_object.bicycle_rack', 0, 3, None, (8, -6), (0, 0), 9),
    ('movable_object.trafficcone', 0, 3, None, (6, 1), (0, 0), 9),
    ('movable_object.barrier', 0, 1, None, (7, -1), (0, 0), 9)]
SCENES, FRAMES = ('scene-0103', 'scene-0916', 'scene-0061'), 4  # the last is not of val
CLASSES = ('car', 'truck', 'trailer', 'bus', 'construction_vehicle', 'bicycle', 'motorcycle',
           'pedestrian', 'traffic_cone', 'barrier')


def write_nuscenes(root: Path, version: str = 'v1.0-mini') -> Path:
    """Writes tables, an (empty) map and ``infos_val.pkl`` of the val scenes. The infos are in
    another order than the samples of the tables. Returns `root`."""
    rng = np.random.default_rng(0)
    names = sorted({track[0] for track in TRACKS})
    attributes = sorted({track[3] for track in TRACKS} - {None})
    tables = dict(
        attribute=[dict(token=f'is {name}', name=name) for name in attributes],
        category=[dict(token=f'kind {name}', name=name) for name in names],
        visibility=[dict(token='1', level='v80-100')],
        sensor=[dict(token='lidar', channel='LIDAR_TOP', modality='lidar')],
        calibrated_sensor=[dict(token='mount', sensor_token='lidar', translation=[0, 0, 0],
                                rotation=[1, 0, 0, 0], camera_intrinsic=[])],
        log=[dict(token='drive', logfile='drive')],
        map=[dict(token='map', log_tokens=['drive'], filename='maps/town.png')],
        scene=[], sample=[], sample_data=[], ego_pose=[], sample_annotation=[], instance=[])
    infos = []
    for scene in SCENES:
        tables['scene'].append(dict(token=f'token {scene}', name=scene, log_token='drive'))
        for i in range(FRAMES):
            token, time = f'{scene} {i}', 500_000 * i + int(rng.integers(50_000))
            where = [300 + 5. * i, 1000, 0]
            tables['sample'].append(dict(
                token=token, timestamp=time, scene_token=f'token {scene}',
                prev=f'{scene} {i - 1}' if i else '',
                next=f'{scene} {i + 1}' if i < FRAMES - 1 else ''))
            for key_frame in (True, False):
                data = f'{"key" if key_frame else "sweep"} of {token}'
                tables['sample_data'].append(dict(
                    token=data, sample_token=token, ego_pose_token=f'pose of {data}',
                    calibrated_sensor_token='mount', is_key_frame=key_frame))
                tables['ego_pose'].append(dict(
                    token=f'pose of {data}', translation=where if key_frame else [9, 9, 9],
                    rotation=[1, 0, 0, 0]))
            pose = np.eye(4)
            pose[:3, 3] = where
            infos.append(dict(token=token, ego2global=pose.tolist(), images={}, instances=[],
                              lidar_points=dict(lidar2ego=np.eye(4).tolist())))
        for k, (name, first, last, attribute, start, velocity, points) in enumerate(TRACKS):
            tables['instance'].append(dict(
                token=f'{scene} object {k}', category_token=f'kind {name}'))
            for i in range(first, last + 1):
                x, y = np.add(start, np.multiply(velocity, .5 * i)) + rng.normal(0, .1, 2)
                tables['sample_annotation'].append(dict(
                    token=f'{scene} object {k} in {i}', sample_token=f'{scene} {i}',
                    instance_token=f'{scene} object {k}', visibility_token='1',
                    attribute_tokens=[f'is {attribute}'] if attribute else [],
                    translation=[300 + x, 1000 + y, 1.], size=[2., 4., 1.5],
                    rotation=[np.cos(k), 0, 0, np.sin(k)],
                    prev=f'{scene} object {k} in {i - 1}' if i > first else '',
                    next=f'{scene} object {k} in {i + 1}' if i < last else '',
                    num_lidar_pts=points, num_radar_pts=0))
    for folder in (version, 'maps'):
        (root / folder).mkdir(parents=True)
    (root / 'maps' / 'town.png').touch()
    for name, rows in tables.items():
        (root / version / f'{name}.json').write_text(json.dumps(rows))
    infos = [infos[i] for i in rng.permutation(2 * FRAMES)]
    for i, info in enumerate(infos):
        info['sample_idx'] = i
    (root / 'infos_val.pkl').write_bytes(pickle.dumps(dict(metainfo={}, data_list=infos)))
    return root


def nuscenes_config(root: Path, version: str = 'v1.0-mini') -> Config:
    """Val data set and evaluator of mmdet3d over :func:`write_nuscenes`."""
    return Config(dict(
        default_scope='mmdet3d',
        val_dataloader=dict(dataset=dict(
            type='NuScenesDataset', data_root=str(root), ann_file='infos_val.pkl', pipeline=[],
            metainfo=dict(classes=CLASSES, version=version), test_mode=True,
            modality=dict(use_camera=True, use_lidar=False), data_prefix=dict(img=''))),
        val_evaluator=dict(type='NuScenesMetric', data_root=str(root),
                           ann_file=f'{root}/infos_val.pkl')))


def guess(token: str, number: int = 15) -> dict:
    """What a detector might see in the frame `token`: NuScenesMetric's predictions, of the objects
    of the tables and others, well and badly placed."""
    import torch
    from mmdet3d.structures import LiDARInstance3DBoxes
    from nuscenes.eval.detection.utils import category_to_detection_name
    rng = np.random.default_rng(list(token.encode()))
    i, boxes, labels = int(token.split()[1]), [], []
    while len(boxes) < number:
        k = int(rng.integers(len(TRACKS)))
        name, start, velocity = category_to_detection_name(TRACKS[k][0]), *TRACKS[k][4:6]
        x, y = np.add(start, np.multiply(velocity, .5 * i)) - (5 * i, 0) + rng.normal(0, .7, 2)
        boxes.append([x, y, 1., *rng.uniform(1, 4, 3), 2 * k + rng.normal(0, .5),
                      *np.add(velocity, rng.normal(0, .5, 2))])
        labels.append(CLASSES.index(name or 'trailer'))
    return dict(
        bboxes_3d=LiDARInstance3DBoxes(torch.tensor(boxes), box_dim=9, origin=(.5, .5, .5)),
        scores_3d=torch.from_numpy(rng.integers(1, 30, number) / 30.),  # some are equal
        labels_3d=torch.tensor(labels))


def evaluate(cfg: Config, predict=guess, metric=None):
    """Tokens that the val data set yields, and the figures of the val evaluator on predictions.

    Args:
        predict: Token -> predictions.
        metric: The evaluator, if it is built already.
    """
    from mmengine.registry import DATASETS, METRICS, init_default_scope
    init_default_scope('mmdet3d')
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    metric = metric or METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    tokens = []
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        tokens.append(info['token'])
        metric.process({}, [dict(sample_idx=info['sample_idx'], pred_instances={},
                                 pred_instances_3d=predict(info['token']))])
    return tokens, metric.evaluate(len(dataset))
