"""Painting of an image and its labels, as seen by a camera that looks along a flat street."""
from collections import Counter
from functools import lru_cache
from typing import Callable, Optional, Tuple, Union

import numpy as np

from .cityscapes_labels import LABELS
from .shapes import cover, noise

# Maps the position of each pixel, three (h, w) arrays of metres right, up and ahead, to (3, h, w)
# RGB.
Texture = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

# Polygons smaller than this in both directions are left out, in pixels.
SMALLEST = 1.
# Focal length as a share of the image width; 1.1 is that of Cityscapes' camera.
FOCAL = 1.1


class Scene:
    """Canvas on which flat polygons are painted, from far to near.

    Points are (right, up, ahead) in metres, from the ground below the camera.

    Args:
        height (int): Height of the image in pixels.
        width (int): Width of the image in pixels.
        rng (Generator): Source of all randomness.

    Attributes:
        picture (np.ndarray): (3, height, width) float32 RGB in 0..255, before light and haze.
        ids (np.ndarray): (height, width) uint16 instance ids as defined by Cityscapes.
        depth (np.ndarray): (height, width) float32 distance ahead in metres; infinite where
            nothing was painted.
    """

    def __init__(self, height: int, width: int, rng: np.random.Generator):
        self.rng = rng
        self.picture = np.zeros((3, height, width), np.float32)
        self.ids = np.full((height, width), LABELS['sky'].id, np.uint16)
        self.depth = np.full((height, width), np.inf, np.float32)
        self.focal = FOCAL * width
        self.eye = rng.uniform(1.3, 1.7)
        self.vanishing = (width, height) * rng.uniform((0.38, 0.34), (0.62, 0.5))
        self.light = rng.uniform(0.6, 1.15) * rgb(rng.uniform(0.9, 1.1, size=3))
        self.haze = rng.uniform(150, 220) * rgb(rng.uniform(0.92, 1.08, size=3))
        self.sight = np.exp(rng.uniform(*np.log((70, 500))))
        self.sun = rng.choice([-1, 1])  # side that the light comes from: left, right
        self.grain = noise(height, width, ((height // 4, 0.5), (height // 2, 0.8)), rng)
        self._numbers = Counter()

    def instance(self, name: str) -> int:
        """Return a new instance id of a class that has instances."""
        number = self._numbers[name]
        self._numbers[name] += 1
        return LABELS[name].id * 1000 + number

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project points in metres, (n, 3), to pixels x and y, (n, 2)."""
        right, up, ahead = np.transpose(points)
        offsets = np.stack([right, self.eye - up], axis=1) * (self.focal / ahead)[:, None]
        return self.vanishing + offsets

    def _seen(self, points: np.ndarray, window: Tuple[slice, slice]) -> np.ndarray:
        """Return where the rays through the pixels of a window meet a plane, (3, h, w) in metres.
        """
        y, x = np.mgrid[window].astype(np.float32) + 0.5
        rays = np.stack([(x - self.vanishing[0]) / self.focal, (self.vanishing[1] - y) / self.focal,
                         np.ones_like(x)])
        eye = np.array([0, self.eye, 0])
        normal = np.cross(points[1] - points[0], points[2] - points[0])
        slope = np.tensordot(normal, rays, axes=1)
        # Pixels on the edge look past the polygon, possibly along the plane: clip their distance.
        ahead = np.clip(normal @ (points[0] - eye) / np.where(slope == 0, 1e-6, slope),
                        points[:, 2].min(), points[:, 2].max())
        return (eye[:, None, None] + rays * ahead).astype(np.float32)

    def fill(self,
             points,
             colour: Union[np.ndarray, Texture],
             of: Optional[int] = None,
             grain: float = 0.,
             opacity: float = 1.) -> None:
        """Paint a flat polygon.

        Args:
            points (sequence): (n, 3) corners in metres, all in front of the camera; with a
                texture, the first three must span the plane.
            colour (array | Texture): RGB in 0..255.
            of (int, optional): Id of the pixels that are covered by half or more; None keeps their
                ids.
            grain (float): Strength of the noise on the surface.
            opacity (float): Opacity in 0..1.
        """
        points = np.asarray(points, np.float64)
        self._paint(self.project(points), points[:, 2].mean(), colour, of, grain, opacity, points)

    def upright(self, right: float, ahead: float, outline, *args, **kwargs) -> None:
        """Paint a polygon that faces the camera in one colour, see :meth:`fill`.

        Args:
            right (float): Position on the ground, in metres right of the camera.
            ahead (float): Position on the ground, in metres ahead.
            outline (array): (n, 2) corners in metres right of that position and up from it.
        """
        scale = self.focal / ahead
        foot = self.vanishing + (right * scale, self.eye * scale)
        self._paint(foot + np.asarray(outline) * (scale, -scale), ahead, *args, **kwargs)

    def _paint(self, outline, ahead, colour, of=None, grain=0., opacity=1., points=None):
        """Fill an outline in pixels; a texture also needs its (n, 3) ``points`` in metres."""
        (left, top), (right, bottom) = outline.min(0).tolist(), outline.max(0).tolist()
        height, width = self.ids.shape
        if max(right - left, bottom - top) < SMALLEST:
            return
        left, top = max(int(left) - 1, 0), max(int(top) - 1, 0)
        right, bottom = min(int(right) + 2, width), min(int(bottom) + 2, height)
        if left >= right or top >= bottom:
            return
        share = cover([outline], left, top, right, bottom)
        window = np.s_[top:bottom, left:right]
        if callable(colour):
            seen = self._seen(points, window)
            colour, ahead = colour(*seen), seen[2]
        else:
            colour = rgb(colour)
        if grain:
            colour = colour * (1 + np.float32(grain) * self.grain[window])
        picture = self.picture[:, top:bottom, left:right]
        picture += (np.float32(opacity) * share) * (colour - picture)
        if of is not None:
            solid = share >= 0.5
            np.putmask(self.ids[window], solid, of)
            np.copyto(self.depth[window], ahead, where=solid)

    def shadow(self, right: float, ahead: float, width: float, length: float) -> None:
        """Darken the ground below an object without changing its label."""
        across, along = oval((right, ahead), width / 2, length / 2).T
        self.fill(
            np.column_stack([across, np.zeros_like(across), along]), np.zeros(3), opacity=0.5)

    def develop(self) -> np.ndarray:
        """Apply haze, light and sensor noise and return the (height, width, 3) uint8 RGB image."""
        clear = np.exp(-self.depth / self.sight)
        clear[np.isinf(self.depth)] = 1  # no haze over the sky
        picture = self.haze + clear * (self.picture - self.haze)
        picture *= self.light
        sensor = self.rng.standard_normal(self.ids.shape, dtype=np.float32)
        picture += np.float32(self.rng.uniform(2, 6)) * sensor
        return np.clip(np.round(picture), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def rgb(colour) -> np.ndarray:
    """Return a colour as (3, 1, 1) float32, which broadcasts against (h, w)."""
    return np.asarray(colour, np.float32)[:, None, None]


def oval(centre, across: float, along: float, corners: int = 14, turn: float = 0.) -> np.ndarray:
    """Return a regular polygon, stretched to the radii ``across`` and ``along``: (corners, 2).

    ``turn`` is the angle of the first corner before stretching, in radians from the right.
    """
    return np.asarray(centre) + _circle(corners, turn) * (across, along)


@lru_cache(maxsize=None)
def _circle(corners: int, turn: float) -> np.ndarray:
    angles = turn + np.arange(corners) * (2 * np.pi / corners)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)
