"""The tables of nuScenes' devkit, and the info files that mmdet3d derives from them."""
import hashlib
import json
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Dict, List, Sequence

import cv2
import numpy as np

VERSION = 'v1.0-mini'
# nuScenes' category of each of the ten detection classes.
CATEGORIES = dict(
    car='vehicle.car',
    truck='vehicle.truck',
    trailer='vehicle.trailer',
    bus='vehicle.bus.rigid',
    construction_vehicle='vehicle.construction',
    bicycle='vehicle.bicycle',
    motorcycle='vehicle.motorcycle',
    pedestrian='human.pedestrian.adult',
    traffic_cone='movable_object.trafficcone',
    barrier='movable_object.barrier')
LABELS = {name: label for label, name in enumerate(CATEGORIES)}
ATTRIBUTES = ('vehicle.moving', 'vehicle.stopped', 'vehicle.parked', 'cycle.with_rider',
              'cycle.without_rider', 'pedestrian.sitting_lying_down', 'pedestrian.standing',
              'pedestrian.moving')
# Maps visibility tokens to the level and the upper end of the visible share of an object.
VISIBILITIES = {
    '1': ('v0-40', 0.4),
    '2': ('v40-60', 0.6),
    '3': ('v60-80', 0.8),
    '4': ('v80-100', 1.)
}
TABLES = ('attribute', 'calibrated_sensor', 'category', 'ego_pose', 'instance', 'log', 'map',
          'sample', 'sample_annotation', 'sample_data', 'scene', 'sensor', 'visibility')
LIDAR = 'LIDAR_TOP'
MAP = 'maps/empty.png'


def attribute_of(name: str, moving: bool) -> str:
    """Return the attribute of an object, or '' for classes without attributes.

    It is the one that ``NuScenesMetric`` derives from the predicted speed.
    """
    if name in ('traffic_cone', 'barrier'):
        return ''
    if name in ('bicycle', 'motorcycle'):
        return 'cycle.with_rider' if moving else 'cycle.without_rider'
    if name == 'pedestrian':
        return 'pedestrian.moving' if moving else 'pedestrian.standing'
    if moving:
        return 'vehicle.moving'
    return 'vehicle.stopped' if name == 'bus' else 'vehicle.parked'


def visibility_of(share: float) -> str:
    """Return the visibility token for a visible share in 0..1."""
    return next((token for token, (_, end) in VISIBILITIES.items() if share < end), '4')


def _rotation(matrix: np.ndarray) -> List[float]:
    from pyquaternion import Quaternion  # from nuscenes-devkit, which only nuScenes needs

    return Quaternion(matrix=matrix[:3, :3]).elements.tolist()


class Tables:
    """Records of one devkit folder.

    Tokens are hashes of a table and a key, with 32 hexadecimal digits.

    Args:
        name (str): Distinguishes the tokens of this folder from those of others.
        channels (Sequence[str]): Channels of the sensors.
    """

    def __init__(self, name: str, channels: Sequence[str]):
        self.name = name
        self.records: Dict[str, List[dict]] = defaultdict(list)
        for category in CATEGORIES.values():
            self.add('category', category, name=category, description='')
        for attribute in ATTRIBUTES:
            self.add('attribute', attribute, name=attribute, description='')
        for token, (level, _) in VISIBILITIES.items():
            self.records['visibility'].append(dict(token=token, level=level, description=''))
        for channel in channels:
            self.add('sensor', channel, channel=channel,
                     modality='lidar' if channel == LIDAR else 'camera')

    def token(self, *parts) -> str:
        """Return the token of a record, given its table and its key."""
        return hashlib.md5('/'.join(map(str, (self.name, *parts))).encode()).hexdigest()

    def add(self, table: str, *parts, **record) -> str:
        """Add a record with the key ``parts`` and return its token."""
        token = self.token(table, *parts)
        self.records[table].append(dict(token=token, **record))
        return token

    def add_scene(self, name: str, num_samples: int, description: str) -> None:
        """Add a scene with its log. The keys of its samples are the scene's name and an index."""
        self.add('log', name, logfile=name, vehicle='generated', date_captured='', location='')
        self.add('scene', name, log_token=self.token('log', name), nbr_samples=num_samples,
                 first_sample_token=self.token('sample', name, 0),
                 last_sample_token=self.token('sample', name, num_samples - 1), name=name,
                 description=description)

    def add_calibration(self, scene: str, channel: str, sensor2ego: np.ndarray,
                        cam2img: Sequence = ()) -> None:
        """Add the calibration of a sensor for a whole scene."""
        self.add('calibrated_sensor', scene, channel, sensor_token=self.token('sensor', channel),
                 translation=sensor2ego[:3, 3].tolist(), rotation=_rotation(sensor2ego),
                 camera_intrinsic=np.asarray(cam2img).tolist())

    def neighbours(self, index: int, count: int, *parts) -> Dict[str, str]:
        """Return the links of a record to its neighbours.

        Args:
            index (int): Index of the record in the sequence, the last part of its key.
            count (int): Number of records in the sequence.
            parts: Table and the rest of the key.
        """
        return dict(prev=self.token(*parts, index - 1) if index > 0 else '',
                    next=self.token(*parts, index + 1) if index + 1 < count else '')

    def add_sample(self, scene: str, index: int, count: int, timestamp: int,
                   ego2global: np.ndarray) -> None:
        """Add a keyframe of a scene, with the ego pose that all its sensors share."""
        self.add('sample', scene, index, timestamp=timestamp,
                 scene_token=self.token('scene', scene),
                 **self.neighbours(index, count, 'sample', scene))
        self.add('ego_pose', scene, index, timestamp=timestamp, rotation=_rotation(ego2global),
                 translation=ego2global[:3, 3].tolist())

    def add_data(self, scene: str, index: int, count: int, channel: str, timestamp: int,
                 filename: str, image_size: Sequence[int] = (0, 0)) -> None:
        """Add the record of a sensor's file for a keyframe."""
        self.add('sample_data', scene, channel, index,
                 sample_token=self.token('sample', scene, index),
                 ego_pose_token=self.token('ego_pose', scene, index),
                 calibrated_sensor_token=self.token('calibrated_sensor', scene, channel),
                 timestamp=timestamp, fileformat='pcd' if channel == LIDAR else 'jpg',
                 is_key_frame=True, height=image_size[1], width=image_size[0], filename=filename,
                 **self.neighbours(index, count, 'sample_data', scene, channel))

    def add_instance(self, scene: str, number: int, name: str, frames: range) -> None:
        """Add an object of class ``name``, annotated in consecutive frames of a scene."""
        first, last = (self.token('sample_annotation', scene, number, index)
                       for index in (frames[0], frames[-1]))
        self.add('instance', scene, number, nbr_annotations=len(frames),
                 category_token=self.token('category', CATEGORIES[name]),
                 first_annotation_token=first, last_annotation_token=last)

    def add_annotation(self, scene: str, number: int, frames: range, index: int, attribute: str,
                       box2global: np.ndarray, size: np.ndarray, share: float,
                       num_points: int) -> None:
        """Add the annotation of an object in one frame.

        ``size`` is length, width and height, as in the infos.
        """
        call = 'sample_annotation', scene, number
        self.add(*call, index, sample_token=self.token('sample', scene, index),
                 instance_token=self.token('instance', scene, number),
                 visibility_token=visibility_of(share),
                 attribute_tokens=[self.token('attribute', attribute)] if attribute else [],
                 translation=(box2global[:3, 3] + (0, 0, size[2] / 2)).tolist(),
                 size=size[[1, 0, 2]].tolist(), rotation=_rotation(box2global),
                 prev=self.token(*call, index - 1) if index > frames[0] else '',
                 next=self.token(*call, index + 1) if index < frames[-1] else '',
                 num_lidar_pts=num_points, num_radar_pts=0)

    def write(self, root: Path) -> None:
        """Write the tables, and the map file that the devkit requires, which is empty."""
        (root / MAP).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / MAP), np.zeros((8, 8), np.uint8))
        logs = [log['token'] for log in self.records['log']]
        self.records['map'] = [dict(token=self.token('map'), category='semantic_prior',
                                    log_tokens=logs, filename=MAP)]
        (root / VERSION).mkdir()
        for table in TABLES:
            text = json.dumps(self.records[table], indent=0)
            (root / VERSION / f'{table}.json').write_text(text)


def lidar_box(box2global: np.ndarray, size: np.ndarray, lidar2global: np.ndarray) -> List[float]:
    """Return a box as in mmdet3d's infos: centre, length, width, height, yaw in the LiDAR frame."""
    centre = box2global.copy()
    centre[2, 3] += size[2] / 2
    box = np.linalg.inv(lidar2global) @ centre
    return [*box[:3, 3].tolist(), *size.tolist(), float(np.arctan2(box[1, 0], box[0, 0]))]


def write_infos(path: Path, infos: Sequence[dict]) -> None:
    """Write an info file in mmdet3d's version 1.1, with consecutive sample indices."""
    metainfo = dict(categories=LABELS, dataset='nuscenes', version=VERSION, info_version='1.1')
    data_list = [dict(sample_idx=index, **info) for index, info in enumerate(infos)]
    with open(path, 'wb') as file:
        pickle.dump(dict(metainfo=metainfo, data_list=data_list), file, protocol=4)
