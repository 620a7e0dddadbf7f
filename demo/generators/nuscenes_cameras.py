"""Sensors of a miniature nuScenes: poses of the cameras, and the painting of boxes."""
from typing import Dict, List, Sequence, Tuple

import cv2
import numpy as np

from .nuscenes_looks import BITS, Model

# Cameras of the real cars: x, y and z in the ego frame in metres, yaw in degrees, and focal length
# as a share of the image width. The back camera has a wider lens.
CAMERAS = dict(
    CAM_FRONT=((1.70, 0.01, 1.51), 0.4, 0.79),
    CAM_FRONT_RIGHT=((1.56, -0.495, 1.50), -57.0, 0.788),
    CAM_FRONT_LEFT=((1.55, 0.497, 1.505), 55.2, 0.791),
    CAM_BACK=((0.04, 0.005, 1.57), 179.7, 0.502),
    CAM_BACK_LEFT=((1.04, 0.484, 1.575), 108.6, 0.785),
    CAM_BACK_RIGHT=((1.04, -0.474, 1.556), -111.7, 0.784))
# Principal point as shares of the width and the height.
CENTRE = 0.51, 0.54
LIDAR = (0.96, 0., 1.84), -90.
# Rotation from a camera's axes (right, down, ahead) to those of a car with the same heading.
AXES = np.array([[0., 0, 1], [-1, 0, 0], [0, -1, 0]])
# Distance from the camera plane below which nothing is painted, in metres.
NEAR = 0.2
# Marks smaller than this in either direction are not painted, in pixels.
SMALLEST = 1.5
SHIFT = 4  # fractional bits of the coordinates that OpenCV takes
# Distance at which haze replaces 1 - 1/e of a colour, in metres.
SIGHT = 130.
SHADOW = 48.
# Three corners of each face of a box, as rows of BITS: (first - second) x (third - second) points
# outwards.
_FACES = np.array([[6, 4, 5], [0, 2, 3], [2, 6, 7], [4, 0, 1], [3, 7, 5], [6, 2, 0]])


def _turn(axis: int, angle: float) -> np.ndarray:
    """Return the rotation (3, 3) about an axis by an angle in radians."""
    vector = np.zeros(3)
    vector[axis] = angle
    return cv2.Rodrigues(vector)[0]


def pose(rotation: np.ndarray, translation: Sequence[float]) -> np.ndarray:
    """Return the (4, 4) matrix of a rotation (3, 3) and a translation in metres."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, translation
    return matrix


def planar_pose(x: float, y: float, heading: float) -> np.ndarray:
    """Return the (4, 4) pose of an object on the ground; the heading is in radians."""
    return pose(_turn(2, heading), (x, y, 0))


def lidar_pose(rng: np.random.Generator) -> np.ndarray:
    """Draw a calibration of the LiDAR: (4, 4) lidar2ego, level, so that boxes only have a yaw."""
    (x, y, z), yaw = LIDAR
    return pose(_turn(2, np.radians(yaw + rng.normal(0, 0.2))),
                np.array([x, y, z]) + rng.normal(0, 0.01, size=3))


class Camera:
    """A calibrated pinhole camera on the car.

    Args:
        cam2ego (np.ndarray): (4, 4) pose; x points right, y down and z ahead of the camera.
        cam2img (np.ndarray): (3, 3) in pixels, with pixel centres at integers.
        image_size (tuple[int, int]): Width and height in pixels.
    """

    def __init__(self, cam2ego: np.ndarray, cam2img: np.ndarray, image_size: Tuple[int, int]):
        self.cam2ego, self.cam2img, self.image_size = cam2ego, cam2img, tuple(image_size)
        self.ego2cam = np.linalg.inv(cam2ego)

    def see(self, points: np.ndarray) -> np.ndarray:
        """Transform points (..., 3) from the ego frame to the camera's."""
        return points @ self.ego2cam[:3, :3].T + self.ego2cam[:3, 3]

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project points (..., 3) of the camera's frame, all ahead of it, to pixels (..., 2)."""
        pixels = points @ self.cam2img.T
        return pixels[..., :2] / pixels[..., 2:]

    def may_show(self, shapes: np.ndarray) -> np.ndarray:
        """Whether convex shapes (n, corners, 3) in the camera's frame may be visible, (n,).

        False is certain; True may include shapes out of view.
        """
        x, y, ahead = np.moveaxis(shapes @ self.cam2img.T, -1, 0)
        width, height = self.image_size
        outside = ahead < NEAR, x < -ahead, y < -ahead, x > width * ahead, y > height * ahead
        return ~np.any([side.all(-1) for side in outside], axis=0)

    def rays(self) -> np.ndarray:
        """Return the viewing directions of the pixels in the ego frame, (height, width, 3)."""
        width, height = self.image_size
        y, x = np.mgrid[:height, :width]
        pixels = np.stack([x, y, np.ones_like(x)], axis=-1)
        return pixels @ np.linalg.inv(self.cam2img).T @ self.cam2ego[:3, :3].T


def calibrate(image_size: Tuple[int, int], rng: np.random.Generator) -> Dict[str, Camera]:
    """Draw the calibration of the six cameras of a car: the nominal one with small deviations."""
    width, height = image_size
    cameras = {}
    for name, (place, yaw, focal) in CAMERAS.items():
        turn = np.radians(rng.normal((0, 0, yaw), (0.3, 0.5, 0.4)))
        rotation = _turn(2, turn[2]) @ _turn(1, turn[1]) @ _turn(0, turn[0]) @ AXES
        length = focal * width * rng.normal(1, 0.004)
        centre = (width, height) * rng.normal(CENTRE, 0.004)
        cam2img = np.array([[length, 0, centre[0]], [0, length, centre[1]], [0, 0, 1]])
        cam2ego = pose(rotation, np.array(place) + rng.normal(0, 0.01, size=3))
        cameras[name] = Camera(cam2ego, cam2img, image_size)
    return cameras


def paint_order(boxes: np.ndarray) -> List[int]:
    """Return the order in which to paint disjoint boxes, so that nearer ones hide farther ones.

    Sorting by distance is not enough: a person beside a bus can be farther away than the middle of
    the bus and still be in front of it. Of two boxes separated by a plane, only the one on the
    camera's side can hide the other.

    Args:
        boxes (np.ndarray): (n, 8, 3) corners in the camera's frame, in the order of ``BITS``.

    Returns:
        list[int]: Indices of the boxes, from far to near.
    """
    second = boxes[:, _FACES[:, 1]]
    normals = np.cross(boxes[:, _FACES[:, 0]] - second, boxes[:, _FACES[:, 2]] - second)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    offsets = (normals * second).sum(-1)
    beyond = np.einsum('ifc,jkc->ifjk', normals, boxes).min(-1) > offsets[..., None] - 1e-4
    camera_beyond = (offsets < 0)[..., None]
    hidden = (beyond & camera_beyond).any(1) | (beyond & ~camera_beyond).any(1).T
    first = hidden & ~hidden.T  # [i, j]: j may hide i, but not i j
    np.fill_diagonal(first, False)

    distances = np.linalg.norm(boxes.mean(1), axis=1)
    order, left = [], list(np.argsort(-distances, kind='stable'))
    while left:
        free = [box for box in left if not first[left, box].any()]
        order.append(int((free or left)[0]))
        left.remove(order[-1])
    return order


def clip_near(polygon: np.ndarray) -> np.ndarray:
    """Clip a polygon (n, 3) to the part at least ``NEAR`` ahead, (m, 3)."""
    kept = []
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0)):
        if start[2] >= NEAR:
            kept.append(start)
        if (start[2] >= NEAR) != (end[2] >= NEAR):
            kept.append(start + (end - start) * (NEAR - start[2]) / (end[2] - start[2]))
    return np.array(kept).reshape(-1, 3)


class Canvas:
    """An image and the ids of the objects in it, painted from far to near.

    Args:
        camera (Camera): The camera of the image.
        picture (np.ndarray): (height, width, 3) uint8 RGB background, painted on in place.
        haze (np.ndarray): (3,) RGB in 0..255 that distant colours fade to.

    Attributes:
        ids (np.ndarray): (height, width) uint16; id of the visible object, or 0 for background.
    """

    def __init__(self, camera: Camera, picture: np.ndarray, haze: np.ndarray):
        self.camera, self.picture, self.haze = camera, picture, haze
        self.ids = np.zeros(picture.shape[:2], np.uint16)

    def _fade(self, colours: np.ndarray, distance: float) -> np.ndarray:
        return self.haze + np.exp(-distance / SIGHT) * (colours - self.haze)

    def _fill(self, polygon: np.ndarray, colour: np.ndarray, smallest: float = 0.,
              number: int = 0) -> None:
        """Fill a polygon (n, 3) of the camera's frame, at least ``smallest`` pixels in size."""
        if polygon[:, 2].min() < NEAR:
            polygon = clip_near(polygon)
        pixels = self.camera.project(polygon)
        if smallest and (pixels.max(0) - pixels.min(0)).min() < smallest:
            return
        fixed = np.round(pixels * (1 << SHIFT)).astype(np.int32)
        cv2.fillConvexPoly(self.picture, fixed, colour.tolist(), cv2.LINE_AA, SHIFT)
        if number:
            cv2.fillConvexPoly(self.ids, fixed, number, cv2.LINE_8, SHIFT)

    def shadow(self, corners: np.ndarray) -> None:
        """Darken the ground below a box.

        Args:
            corners (np.ndarray): (8, 3) corners in the ego frame.
        """
        ground = corners[[0, 4, 6, 2]] * (1, 1, 0)
        ground = ground.mean(0) + 1.06 * (ground - ground.mean(0))
        ground = self.camera.see(ground)
        if self.camera.may_show(ground[None])[0]:
            distance = np.linalg.norm(ground.mean(0))
            self._fill(ground, self._fade(np.full(3, SHADOW), distance))

    def paint(self, number: int, parts: np.ndarray, quads: np.ndarray, model: Model) -> int:
        """Paint one object.

        Args:
            number (int): Id of the object in ``ids``.
            parts (np.ndarray): (p, 8, 3) parts of the model in the ego frame.
            quads (np.ndarray): (q, 4, 3) quads of the model in the ego frame.
            model (Model): Gives colours, owners and which quads are solid.

        Returns:
            int: Number of pixels of the object, before nearer ones hide some.
        """
        parts, quads = self.camera.see(parts), self.camera.see(quads)
        sides = quads[:, [0, 2]] - quads[:, [1, 1]]
        shown = (np.cross(sides[:, 1], sides[:, 0]) * quads[:, 1]).sum(-1) < 0
        shown &= self.camera.may_show(quads)
        colours = self._fade(model.colours, np.linalg.norm(parts.mean((0, 1))))
        for part in paint_order(parts):
            for index in np.flatnonzero(shown & (model.owners == part)):
                if model.solid[index]:
                    self._fill(quads[index], colours[index], number=number)
                else:
                    self._fill(quads[index], colours[index], SMALLEST)
        return int(np.count_nonzero(self.ids == number))


def box_corners(size: Sequence[float], box2ego: np.ndarray) -> np.ndarray:
    """Return the corners (8, 3) of a box on the ground, in the ego frame and order of ``BITS``."""
    return (BITS - (0.5, 0.5, 0)) * size @ box2ego[:3, :3].T + box2ego[:3, 3]
