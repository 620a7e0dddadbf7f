"""Textured shapes on a cluttered ground: geometry and painting of a miniature detection image.

Colours are random on objects and ground alike. Only outline and texture distinguish the classes, so
a detector has to look at the windows that an object covers.
"""
from typing import Sequence, Tuple

import cv2
import numpy as np
from shapely import affinity
from shapely.geometry import Polygon


def _polar(radii: np.ndarray) -> Polygon:
    """Return the polygon with vertices at equal angles and the given radii."""
    angles = np.arange(len(radii)) * (2 * np.pi / len(radii))
    return Polygon(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1))


_ARM = 0.35
# Outlines around the origin, of radius 1 or a little more.
OUTLINES = {
    'disk': _polar(np.ones(28)),
    'triangle': _polar(np.ones(3)),
    'square': _polar(np.ones(4)),
    'star': _polar(np.tile([1., 0.42], 5)),
    'cross': Polygon([(_ARM, _ARM), (1, _ARM), (1, -_ARM), (_ARM, -_ARM), (_ARM, -1), (-_ARM, -1),
                      (-_ARM, -_ARM), (-1, -_ARM), (-1, _ARM), (-_ARM, _ARM), (-_ARM, 1),
                      (_ARM, 1)]),
}


def place(outline: Polygon, centre, radius: float, rng: np.random.Generator) -> Polygon:
    """Rotate, slightly stretch and move an outline.

    Args:
        outline (Polygon): One of ``OUTLINES``.
        centre (tuple[float, float]): x and y in pixels.
        radius (float): Radius in pixels.
        rng (Generator): Source of the angle and the stretch.

    Returns:
        Polygon: The outline in pixels.
    """
    stretch = rng.uniform(0.85, 1.15)
    shape = affinity.scale(outline, radius * stretch, radius / stretch, origin=(0, 0))
    shape = affinity.rotate(shape, rng.uniform(0, 360), origin=(0, 0))
    return affinity.translate(shape, *centre)


def irregular(centre, radius: float, rng: np.random.Generator) -> Polygon:
    """Return an outline that belongs to no class, for textured clutter."""
    return place(_polar(rng.uniform(0.35, 1., size=11)), centre, radius, rng)


def _stripes(u, v):
    return np.sin(u)


def _checks(u, v):
    return 2 * np.sign(np.sin(1.2 * u) * np.sin(1.2 * v))


def _dots(u, v):
    return 1 - 2.2 * np.hypot(np.sin(u / 2), np.sin(v / 2))


def _holes(u, v):
    return -_dots(u, v)


def _shade(u, v):
    return np.clip(u / np.abs(u).max(), -1, 1)


# Range of texture wavelengths in pixels.
WAVELENGTH = (7, 12)
# Each maps coordinates along and across the texture, as phases in radians, to a weight that mixes
# two colours; it is clipped to -1..1.
TEXTURES = {
    'stripes': _stripes,
    'checks': _checks,
    'dots': _dots,
    'holes': _holes,
    'shade': _shade
}


def two_colours(contrast: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a dark and a light colour, (2, 3) float64 in 0..255, about ``contrast`` levels apart."""
    middle = rng.uniform(contrast / 2, 255 - contrast / 2, size=3)
    step = contrast / 2 * rng.uniform(0.7, 1.3, size=3)
    return np.clip([middle - step, middle + step], 0, 255)


def _blend(colours: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mix two colours by an (h, w) weight in 0..1 into an (h, w, 3) float32 picture."""
    low, high = colours.astype(np.float32)
    return low + weight[..., None].astype(np.float32) * (high - low)


def noise(height: int, width: int, octaves: Sequence[Tuple[int, float]],
          rng: np.random.Generator) -> np.ndarray:
    """Return smooth noise of several octaves.

    Args:
        height (int): Height in pixels.
        width (int): Width in pixels.
        octaves (Sequence[tuple[int, float]]): Cells along the height, and strength, of each.
        rng (Generator): Source of all randomness.

    Returns:
        np.ndarray: (height, width) float32 noise around 0.
    """
    total = np.zeros((height, width), np.float32)
    for cells, strength in octaves:
        grid = rng.uniform(-1, 1, size=(cells, cells * width // height)).astype(np.float32)
        total += strength * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return total


def cover(rings: Sequence[np.ndarray], left: int, top: int, right: int,
          bottom: int) -> np.ndarray:
    """Return the share of each pixel of a window that a polygon covers, with antialiased edges.

    Args:
        rings (Sequence[np.ndarray]): (n, 2) x and y in pixels of the exterior and of the holes.
        left (int): Left edge of the window in pixels.
        top (int): Top edge.
        right (int): Right edge, exclusive.
        bottom (int): Bottom edge, exclusive.

    Returns:
        np.ndarray: (bottom - top, right - left) float32 in 0..1.
    """
    # fillPoly does not fill holes. It takes vertices in 1/16 pixel, with pixel centres at integers.
    levels = np.zeros((bottom - top, right - left), np.uint8)
    rings = [np.round((ring - (left + 0.5, top + 0.5)) * 16).astype(np.int32) for ring in rings]
    cv2.fillPoly(levels, rings, 255, cv2.LINE_AA, shift=4)
    return levels / np.float32(255)


def ground(size: int, rng: np.random.Generator) -> np.ndarray:
    """Paint a ground without objects: noise of several octaves and 3 to 8 random lines.

    Args:
        size (int): Height and width in pixels.
        rng (Generator): Source of all randomness.

    Returns:
        np.ndarray: (size, size, 3) float32 in 0..255.
    """
    weight = noise(size, size, ((4, 1.), (12, 0.7), (40, 0.6)), rng)
    picture = _blend(two_colours(70, rng), 1 / (1 + np.exp(-2 * weight)))
    for _ in range(rng.integers(3, 9)):
        ends = rng.integers(0, size, size=(2, 2))
        cv2.line(picture, ends[0].tolist(), ends[1].tolist(), rng.uniform(0, 255, size=3).tolist(),
                 int(rng.integers(1, 3)), cv2.LINE_AA)
    return picture


def paint(picture: np.ndarray, polygon: Polygon, texture: str, rng: np.random.Generator) -> None:
    """Paint a polygon onto a picture in place.

    Args:
        picture (np.ndarray): (h, w, 3) float32 in 0..255.
        polygon (Polygon): Polygon in pixels; part of it must lie within the picture.
        texture (str): Key of ``TEXTURES``.
        rng (Generator): Source of the colours, the wavelength and the direction.
    """
    height, width = picture.shape[:2]
    left, top, right, bottom = polygon.bounds
    left, top = max(int(left) - 1, 0), max(int(top) - 1, 0)
    right, bottom = min(int(right) + 2, width), min(int(bottom) + 2, height)
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
    centre, angle = polygon.centroid, rng.uniform(0, np.pi)
    x, y = x - centre.x, y - centre.y
    wave = 2 * np.pi / rng.uniform(*WAVELENGTH)
    u = wave * (x * np.cos(angle) + y * np.sin(angle))
    v = wave * (y * np.cos(angle) - x * np.sin(angle))
    weight = np.clip(0.5 + 0.5 * TEXTURES[texture](u, v), 0, 1)
    colours = _blend(two_colours(130, rng), weight)

    rings = [np.array(ring.coords) for ring in (polygon.exterior, *polygon.interiors)]
    alpha = cover(rings, left, top, right, bottom)[..., None]
    patch = picture[top:bottom, left:right]
    patch += alpha * (colours - patch)
