"""A ring of cameras with random calibrations and augmentations, for tests."""
from typing import NamedTuple

import numpy as np
import torch

from sparsevit_mm.models.bevdet.geometry import view_to_bev

SIZE = (64, 176)  # of the augmented images


class Cameras(NamedTuple):
    """(V, 3, 3), (V, 4, 4), (V, 3, 3) and (4, 4) float64."""
    cam2img: np.ndarray
    lidar2cam: np.ndarray
    img_aug: np.ndarray
    bev_aug: np.ndarray

    @property
    def matrices(self):
        """(1, V, 3, 4) float64."""
        return view_to_bev(*map(torch.from_numpy, self))[None]

    def project(self, points, view):
        """Pixels (N, 2) and depths (N,) of points (N, 3) of the augmented LiDAR frame, the long
        way round."""
        points = np.concatenate([points, np.ones((len(points), 1))], axis=1)
        lidar = points @ np.linalg.inv(self.bev_aug).T
        camera = (lidar @ self.lidar2cam[view].T)[:, :3]
        pixels = camera @ self.cam2img[view].T
        pixels = (pixels / pixels[:, 2:]) @ self.img_aug[view].T
        return pixels[:, :2], camera[:, 2]


def _turn(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def random_cameras(seed, views=6):
    """Looking outwards all round, a little tilted; images resized, shifted, turned and flipped;
    the ground turned, scaled and flipped."""
    rng = np.random.default_rng(seed)
    cam2img, lidar2cam, img_aug = (np.tile(np.eye(n), (views, 1, 1)) for n in (3, 4, 3))
    for view in range(views):
        cam2img[view] = [[300, 0, 200], [0, 300, 110], [0, 0, 1]] + rng.normal(size=(3, 3)) * [
            [9, 0, 5], [0, 9, 5], [0, 0, 0]]
        yaw, tilt = 2 * np.pi * view / views + rng.normal(0, 0.1), rng.normal(0, 0.03)
        ahead = np.array([np.cos(yaw), np.sin(yaw), np.sin(tilt)])
        ahead /= np.linalg.norm(ahead)
        right = np.cross(ahead, [0, 0, 1.])
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(ahead, right), ahead])  # camera: x right, y down
        lidar2cam[view, :3, :3] = rotation
        lidar2cam[view, :3, 3] = -rotation @ (0.8 * ahead + [0, 0, -0.3])
        img_aug[view, :2, :2] = 0.44 * _turn(rng.uniform(-0.1, 0.1)) * [rng.choice([-1, 1]), 1]
        img_aug[view, :2, 2] = np.array(SIZE[::-1]) / 2 - img_aug[view, :2, :2] @ (200, 110)
    bev_aug = np.eye(4)
    bev_aug[:2, :2] = _turn(rng.uniform(-0.4, 0.4)) * rng.choice([-1, 1], size=2)
    bev_aug[:3, :3] *= rng.uniform(0.95, 1.05)
    return Cameras(cam2img, lidar2cam, img_aug, bev_aug)
