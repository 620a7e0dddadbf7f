"""One scene of a miniature nuScenes: what the sensors of the car see of its world."""
from typing import Dict, NamedTuple, Optional, Tuple

import numpy as np

from .nuscenes_cameras import (Camera, Canvas, box_corners, calibrate, lidar_pose, paint_order,
                               planar_pose)
from .nuscenes_ground import Backdrop
from .nuscenes_world import Thing, World

# How far the eye reaches: what is farther from the car is neither painted nor annotated, in metres.
RANGE = 30.
# An object is seen where one camera shows this many of its pixels, in images of this size, and
# all cameras together this share of it.
DEFAULT_SIZE = 352, 198
SEEN_PIXELS, SEEN_SHARE = 16, 0.2
PIXELS_PER_POINT = 8


class Shot(NamedTuple):
    """What a camera sees.

    Attributes:
        picture (np.ndarray): (height, width, 3) uint8 RGB.
        ids (np.ndarray): (height, width) uint16: 0, or one more than the index of the object.
        painted (np.ndarray): (number of objects,) int64 pixels of each in the image, were there
            no other.
        seen (np.ndarray): (number of objects,) int64 pixels of each that nothing hides.
    """
    picture: np.ndarray
    ids: np.ndarray
    painted: np.ndarray
    seen: np.ndarray


class Scene:
    """A world, the car's calibrated sensors, and what they see.

    Args:
        num_frames (int): Keyframes.
        image_size (tuple[int, int]): Width and height in pixels.
        rng (Generator): Source of all randomness.

    Attributes:
        world (World): Roads, traffic and the way of the car.
        cameras (dict[str, Camera]): By channel.
        lidar2ego (np.ndarray): (4, 4), level.
    """

    def __init__(self, num_frames: int, image_size: Tuple[int, int], rng: np.random.Generator):
        self.world = World(num_frames, rng)
        self.cameras = calibrate(image_size, rng)
        self.lidar2ego = lidar_pose(rng)
        self._least = max(SEEN_PIXELS * np.prod(image_size) / np.prod(DEFAULT_SIZE), 4)
        way, _ = self.world.ego.at(self.world.times)
        self._backdrop = Backdrop(self.world.roads, way, rng)

    def ego2global(self, frame: int) -> np.ndarray:
        """(4, 4) pose of the car in a keyframe."""
        point, heading = self.world.ego.at(self.world.times[frame])
        return planar_pose(*point, heading)

    def box2global(self, thing: Thing, frame: int) -> np.ndarray:
        """(4, 4) pose of an object: x is ahead, the origin on the ground below its middle."""
        point, heading = thing.track.at(self.world.times[frame])
        return planar_pose(*point, heading)

    def annotated(self, thing: Thing, num_frames: int) -> Optional[range]:
        """Of so many keyframes, those from the first to the last with an object within ``RANGE``.

        None if there are none.
        """
        times = self.world.times[:num_frames]
        offsets = thing.track.at(times)[0] - self.world.ego.at(times)[0]
        near = np.flatnonzero(np.linalg.norm(offsets, axis=1) < RANGE)
        return range(int(near[0]), int(near[-1]) + 1) if len(near) else None

    def shoot(self, frame: int) -> Dict[str, Shot]:
        """What the cameras see in a keyframe, by channel."""
        ego2global = self.ego2global(frame)
        global2ego = np.linalg.inv(ego2global)
        poses = [global2ego @ self.box2global(thing, frame) for thing in self.world.things]
        return {
            name: self._shoot(camera, ego2global, poses)
            for name, camera in self.cameras.items()
        }

    def _shoot(self, camera: Camera, ego2global: np.ndarray, poses) -> Shot:
        things = self.world.things
        canvas = Canvas(camera, self._backdrop.see(camera, ego2global), self._backdrop.haze)
        boxes = np.stack([box_corners(thing.size, pose) for thing, pose in zip(things, poses)])
        views = camera.see(boxes)
        distances = np.linalg.norm([pose[:2, 3] for pose in poses], axis=1)
        near = np.flatnonzero(camera.may_show(views) & (distances < RANGE))
        for index in near:
            canvas.shadow(boxes[index])
        painted = np.zeros(len(things), np.int64)
        for index in near[paint_order(views[near])]:
            thing, pose = things[index], poses[index]
            parts, quads = (corners * thing.size @ pose[:3, :3].T + pose[:3, 3]
                            for corners in (thing.model.parts, thing.model.quads))
            painted[index] = canvas.paint(int(index) + 1, parts, quads, thing.model)
        seen = np.bincount(canvas.ids.ravel(), minlength=len(things) + 1)[1:]
        return Shot(canvas.picture, canvas.ids, painted, seen)

    def visibility(self, shots: Dict[str, Shot]) -> Tuple[np.ndarray, np.ndarray]:
        """How well the objects are seen in a keyframe.

        Args:
            shots (dict[str, Shot]): What ``shoot`` returned.

        Returns:
            tuple[np.ndarray, np.ndarray]: Share in 0..1 that is seen of what lies in the images,
            and number of LiDAR points, 0 for objects that are hidden; (number of objects,) each.
        """
        seen = np.stack([shot.seen for shot in shots.values()])
        painted = sum(shot.painted for shot in shots.values())
        share = seen.sum(0) / np.maximum(painted, 1)
        enough = (seen.max(0) >= self._least) & (share >= SEEN_SHARE)
        return share, np.where(enough, np.maximum(seen.sum(0) // PIXELS_PER_POINT, 1), 0)
