"""A miniature nuScenes: generated traffic in nuScenes' tables and mmdet3d's info files.

``mmdet3d.NuScenesDataset`` (cameras only) and nuScenes' devkit read it, and the stock
``mmdet3d.NuScenesMetric`` scores it.

There are two devkit folders. For version v1.0-mini the metric scores the scenes that the devkit
lists as mini_val, scene-0103 and scene-0916, and requires predictions for all of them, so a folder
can have only one scored split. The root therefore holds the train and val scenes, and its subfolder
``test`` holds two other scenes of the same names.

The data are simpler than the real ones: all sensors fire at the time of the keyframe and share one
pose of the car; car and LiDAR are level; there are no frames between keyframes, no points and no
map. An object's number of LiDAR points is 0 if no camera sees it, so that the stock dataset and
metric ignore it; otherwise it grows with the number of visible pixels.
"""
import json
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np

from .folder import check_counts, make_folder
from .nuscenes_cameras import CAMERAS
from .nuscenes_scene import DEFAULT_SIZE, Scene, Shot
from .nuscenes_tables import LABELS, LIDAR, Tables, attribute_of, lidar_box, write_infos
from .nuscenes_world import PERIOD

# Part of the parameters that identify a data set; increase it when the images change.
VERSION = '1.0'
SPLITS = ('train', 'val', 'test')
# The scenes that the devkit scores in version v1.0-mini.
SCORED = ('scene-0103', 'scene-0916')
TRAIN_FRAMES = 8  # per scene
MIN_SIDE = 64
# Timestamp of the first keyframe, and interval between scenes, in microseconds.
START, SCENE_TIME = 1_600_000_000_000_000, 1_000_000_000
QUALITY = 92
PARAMETERS = 'mini_nuscenes.json'


def _scenes(split: str, count: int) -> List[Tuple[str, int, int]]:
    """Return the scenes of a split: name, number of frames to write, and length in frames."""
    if split == 'train':
        return [(f'scene-{9001 + index}', min(TRAIN_FRAMES, count - start), TRAIN_FRAMES)
                for index, start in enumerate(range(0, count, TRAIN_FRAMES))]
    halves = (count + 1) // 2, count // 2
    return [(name, half, half) for name, half in zip(SCORED, halves) if half]


class _Recorder:
    """Writer of the keyframes of a scene: images, table records and infos.

    Args:
        root (Path): Devkit folder.
        tables (Tables): Tables of the folder.
        name (str): Name of the scene.
        scene (Scene): The scene to record.
        num_frames (int): Number of keyframes to write.
        start (int): Timestamp of the first keyframe, in microseconds.
    """

    def __init__(self, root: Path, tables: Tables, name: str, scene: Scene, num_frames: int,
                 start: int):
        self.root, self.tables, self.name, self.scene = root, tables, name, scene
        self.num_frames, self.start = num_frames, start
        tables.add_scene(name, num_frames, 'generated')
        tables.add_calibration(name, LIDAR, scene.lidar2ego)
        for channel, camera in scene.cameras.items():
            tables.add_calibration(name, channel, camera.cam2ego, camera.cam2img)
        self._frames: Dict[int, range] = {}
        for number, thing in enumerate(scene.world.things):
            frames = scene.annotated(thing, num_frames)
            if frames:
                self._frames[number] = frames
                tables.add_instance(name, number, thing.name, frames)

    def write(self, frame: int) -> dict:
        """Write one keyframe and return its info, without the sample index."""
        tables, scene = self.tables, self.scene
        timestamp = self.start + round(1e6 * PERIOD * frame)
        ego2global = scene.ego2global(frame)
        tables.add_sample(self.name, frame, self.num_frames, timestamp, ego2global)
        shots = scene.shoot(frame)
        points = self._add_data(frame, LIDAR, timestamp, 'pcd.bin')
        images = {
            channel: self._write_image(frame, channel, timestamp, shot)
            for channel, shot in shots.items()
        }
        return dict(
            token=tables.token('sample', self.name, frame),
            timestamp=timestamp / 1e6,
            ego2global=ego2global.tolist(),
            images=images,
            lidar_points=dict(num_pts_feats=5, lidar_path=points,
                              lidar2ego=scene.lidar2ego.tolist()),
            instances=self._annotate(frame, shots))

    def _add_data(self, frame: int, channel: str, timestamp: int, suffix: str,
                  image_size: Sequence[int] = (0, 0)) -> str:
        """Add the record of a sensor's file and return the file name."""
        file = f'{self.name}__{channel}__{timestamp}.{suffix}'
        self.tables.add_data(self.name, frame, self.num_frames, channel, timestamp,
                             f'samples/{channel}/{file}', image_size)
        return file

    def _write_image(self, frame: int, channel: str, timestamp: int, shot: Shot) -> dict:
        camera = self.scene.cameras[channel]
        file = self._add_data(frame, channel, timestamp, 'jpg', camera.image_size)
        path = self.root / 'samples' / channel / file
        path.parent.mkdir(parents=True, exist_ok=True)
        quality = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
        if not cv2.imwrite(str(path), shot.picture[..., ::-1], quality):
            raise OSError(f'could not write {path}')
        return dict(
            img_path=file,
            cam2img=camera.cam2img.tolist(),
            cam2ego=camera.cam2ego.tolist(),
            ego2global=self.scene.ego2global(frame).tolist(),
            sample_data_token=self.tables.token('sample_data', self.name, channel, frame),
            timestamp=timestamp / 1e6,
            lidar2cam=(camera.ego2cam @ self.scene.lidar2ego).tolist())

    def _annotate(self, frame: int, shots: Dict[str, Shot]) -> List[dict]:
        """Add the annotations of a keyframe and return its instances."""
        scene = self.scene
        lidar2global = scene.ego2global(frame) @ scene.lidar2ego
        instances = []
        for number, (share, points) in enumerate(zip(*scene.visibility(shots))):
            frames = self._frames.get(number, ())
            if frame not in frames:
                continue
            thing = scene.world.things[number]
            box2global = scene.box2global(thing, frame)
            attribute = attribute_of(thing.name, bool(thing.track.speed))
            self.tables.add_annotation(self.name, number, frames, frame, attribute, box2global,
                                       thing.size, float(share), int(points))
            # As in the devkit, the mean velocity between the neighbouring annotations; an object
            # with a single annotation uses the times of the adjacent frames.
            around = max(frame - 1, frames[0]), min(frame + 1, frames[-1])
            start, end = around if len(frames) > 1 else (frame - 1, frame + 1)
            velocity = np.append(thing.track.velocity(PERIOD * start, PERIOD * end), 0)
            instances.append(dict(
                bbox_label=LABELS[thing.name],
                bbox_3d=lidar_box(box2global, thing.size, lidar2global),
                bbox_3d_isvalid=bool(points),
                bbox_label_3d=LABELS[thing.name],
                num_lidar_pts=int(points),
                num_radar_pts=0,
                velocity=(velocity @ lidar2global[:3, :3])[:2].tolist()))
        return instances


def _write_folder(root: Path, splits: Sequence[str], num_frames: Dict[str, int],
                  size: Tuple[int, int], seed: int) -> None:
    """Write a devkit folder with the given splits, and an info file for each."""
    tables = Tables(f'mini_nuscenes/{seed}/{"+".join(splits)}', (LIDAR, *CAMERAS))
    start = START
    for split in splits:
        infos = []
        for index, (name, count, length) in enumerate(_scenes(split, num_frames[split])):
            # One random stream per scene, so that more scenes never change the earlier ones.
            rng = np.random.default_rng([seed, SPLITS.index(split), index])
            scene = Scene(length, size, rng)
            recorder = _Recorder(root, tables, name, scene, count, start)
            infos += [recorder.write(frame) for frame in range(count)]
            start += SCENE_TIME
        # The scored split of a folder is its val split: the stock metric expects that.
        write_infos(root / f'nuscenes_infos_{"train" if split == "train" else "val"}.pkl', infos)
    tables.write(root)


def _read_parameters(root: Path) -> Optional[dict]:
    """Return the parameters of the data set at ``root``, or None if there is none."""
    path = root / PARAMETERS
    return json.loads(path.read_text()) if path.is_file() else None


def generate_mini_nuscenes(root='data/mini_nuscenes',
                           num_frames: Optional[Dict[str, int]] = None,
                           image_size: Tuple[int, int] = DEFAULT_SIZE,
                           seed: int = 0,
                           overwrite: bool = False) -> Path:
    """Write a miniature nuScenes, or keep an existing one with the same parameters.

    The folder appears in one step once it is complete, so an interrupted call leaves no
    half-written data set behind.

    Args:
        root (str | Path): Folder to create, with ``v1.0-mini/{table}.json``,
            ``samples/{camera}/{scene}__{camera}__{timestamp}.jpg``, ``nuscenes_infos_train.pkl``
            and ``nuscenes_infos_val.pkl``. Its subfolder ``test`` has the same files except
            ``nuscenes_infos_train.pkl``.
        num_frames (dict[str, int], optional): Keyframes per split, with six images each; 400, 60
            and 80 for train, val and test by default. Scenes of train have 8 frames; val and test
            have two long scenes each.
        image_size (tuple[int, int]): Width and height in pixels. With 16:9 the fields of view
            match the real cameras.
        seed (int): Random seed. Scene i of a split depends only on the seed, the image size, the
            split, i and, in val and test, the number of frames.
        overwrite (bool): Whether to replace ``root`` if it exists.

    Returns:
        Path: ``root``.

    Raises:
        ValueError: If ``num_frames`` does not give the three splits positive counts, or
            ``image_size`` is not two numbers of at least 64.
        FileExistsError: If ``root`` exists with other parameters and ``overwrite`` is False.
    """
    num_frames = dict(num_frames or dict(train=400, val=60, test=80))
    check_counts(num_frames, SPLITS)
    image_size = list(image_size)
    if len(image_size) != 2 or min(image_size) < MIN_SIDE:
        raise ValueError(f'image_size must be (width, height) of {MIN_SIDE} pixels or more, '
                         f'got {image_size}')
    parameters = dict(
        description='Miniature nuScenes of generated traffic',
        version=VERSION,
        num_frames=num_frames,
        image_size=image_size,
        seed=seed)

    def write(folder: Path) -> None:
        _write_folder(folder, ('train', 'val'), num_frames, image_size, seed)
        (folder / 'test').mkdir()
        _write_folder(folder / 'test', ('test', ), num_frames, image_size, seed)
        (folder / PARAMETERS).write_text(json.dumps(parameters, indent=2) + '\n')

    return make_folder(Path(root), parameters, _read_parameters, write, overwrite)
