"""One scene of a miniature nuScenes: the world as seen by the sensors of the car."""
from typing import Dict, NamedTuple, Optional, Tuple

import numpy as np

from .nuscenes_cameras import (Camera, Canvas, box_corners, calibrate, lidar_pose, paint_order,
                               planar_pose)
from .nuscenes_ground import Backdrop
from .nuscenes_world import Thing, World

# Objects farther from the car than this, in metres, are neither painted nor annotated.
RANGE = 30.
# An object counts as visible if one camera shows at least SEEN_PIXELS of its pixels, in images of
# DEFAULT_SIZE, and all cameras together show at least SEEN_SHARE of it.
DEFAULT_SIZE = 352, 198
SEEN_PIXELS, SEEN_SHARE = 16, 0.2
PIXELS_PER_POINT = 8


class Shot(NamedTuple):
    """Image of a camera.

    Attributes:
        picture (np.ndarray): (height, width, 3) uint8 RGB.
        ids (np.ndarray): (height, width) uint16; index of the object plus 1, or 0 for background.
        painted (np.ndarray): (number of objects,) int64; pixels of each object, occluded ones
            included.
        seen (np.ndarray): (number of objects,) int64; visible pixels of each object.
    """
    picture: np.ndarray
    ids: np.ndarray
    painted: np.ndarray
    seen: np.ndarray


class Scene:
    """A world, and the calibrated sensors of the car in it.

    Args:
        num_frames (int): Number of keyframes.
        image_size (tuple[int, int]): Width and height in pixels.
        rng (Generator): Source of all randomness.

    Attributes:
        world (World): Roads, traffic and the path of the car.
        cameras (dict[str, Camera]): Cameras by channel.
        lidar2ego (np.ndarray): (4, 4) pose of the LiDAR, which is level.
    """

    def __init__(self, num_frames: int, image_size: Tuple[int, int], rng: np.random.Generator):
        self.world = World(num_frames, rng)
        self.cameras = calibrate(image_size, rng)
        self.lidar2ego = lidar_pose(rng)
        self._least = max(SEEN_PIXELS * np.prod(image_size) / np.prod(DEFAULT_SIZE), 4)
        way, _ = self.world.ego.at(self.world.times)
        self._backdrop = Backdrop(self.world.roads, way, rng)

    def ego2global(self, frame: int) -> np.ndarray:
        """Return the (4, 4) pose of the car in a keyframe."""
        point, heading = self.world.ego.at(self.world.times[frame])
        return planar_pose(*point, heading)

    def box2global(self, thing: Thing, frame: int) -> np.ndarray:
        """Return the (4, 4) pose of an object: x points ahead, the origin is below its middle."""
        point, heading = thing.track.at(self.world.times[frame])
        return planar_pose(*point, heading)

    def annotated(self, thing: Thing, num_frames: int) -> Optional[range]:
        """Return the frames from the first to the last in which an object is within ``RANGE``.

        Only the first ``num_frames`` keyframes count; None if there is no such frame.
        """
        times = self.world.times[:num_frames]
        offsets = thing.track.at(times)[0] - self.world.ego.at(times)[0]
        near = np.flatnonzero(np.linalg.norm(offsets, axis=1) < RANGE)
        return range(int(near[0]), int(near[-1]) + 1) if len(near) else None

    def shoot(self, frame: int) -> Dict[str, Shot]:
        """Render the images of all cameras in a keyframe, by channel."""
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
        """Compute how visible the objects are in a keyframe.

        Args:
            shots (dict[str, Shot]): Result of :meth:`shoot`.

        Returns:
            tuple[np.ndarray, np.ndarray]: Visible share in 0..1 of an object's pixels in all
            images, and number of LiDAR points, 0 for objects that do not count as visible;
            (number of objects,) each.
        """
        seen = np.stack([shot.seen for shot in shots.values()])
        painted = sum(shot.painted for shot in shots.values())
        share = seen.sum(0) / np.maximum(painted, 1)
        enough = (seen.max(0) >= self._least) & (share >= SEEN_SHARE)
        return share, np.where(enough, np.maximum(seen.sum(0) // PIXELS_PER_POINT, 1), 0)
