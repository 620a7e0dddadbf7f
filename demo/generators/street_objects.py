"""Objects on a street: cars, persons, poles with lamps, signs and lights, trees, bins.

Each function paints one object that touches the ground ``right`` and ``ahead`` of the camera, in
metres. Colours are random per object and say little about the class; shape, size and place do.
"""
import colorsys

import numpy as np

from .cityscapes_labels import LABELS
from .scene import Scene, oval

GLASS = np.array([45., 55., 65.])
BLACK = np.array([25., 25., 28.])


def any_colour(rng: np.random.Generator, saturation=(0., 1.), value=(0.15, 0.95)) -> np.ndarray:
    """Draw a colour of any hue, RGB in 0..255."""
    hsv = rng.random(), rng.uniform(*saturation), rng.uniform(*value)
    return 255 * np.array(colorsys.hsv_to_rgb(*hsv))


def _grey(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    return rng.uniform(low, high) * rng.uniform(0.92, 1.08, size=3)


def _bar(start, end, width: float) -> np.ndarray:
    """Return the corners of a straight bar from one point to another, (4, 2)."""
    (x0, y0), (x1, y1) = start, end
    scale = width / 2 / np.hypot(x1 - x0, y1 - y0)
    x, y = scale * (y0 - y1), scale * (x1 - x0)
    return np.array([(x0 + x, y0 + y), (x1 + x, y1 + y), (x1 - x, y1 - y), (x0 - x, y0 - y)])


def car(scene: Scene, right: float, ahead: float) -> None:
    """Paint a car parallel to the street, seen from behind or from the front."""
    rng, of = scene.rng, scene.instance('car')
    width, height, length = rng.uniform(1.65, 1.95), rng.uniform(1.35, 1.9), rng.uniform(3.4, 4.8)
    paint = any_colour(rng, (0, 0.9)) if rng.random() < 0.6 else _grey(rng, 25, 235)
    from_behind = rng.random() < 0.6
    scene.shadow(right, ahead + length / 2, 1.15 * width, 1.1 * length)

    # Half-width of the roof and height of the waist, in shares of the car's width and height.
    roof, waist = rng.uniform(0.33, 0.42), rng.uniform(0.5, 0.6)
    side = -np.sign(right)
    if abs(right) > width / 2:
        lit = 1.1 if side == scene.sun else 0.7

        def along_side(*corners):
            return [(right + side * x * width, y * height, ahead + z * length)
                    for x, y, z in corners]

        wheels = [(0.5, 0, z + turn) for z in (0.2, 0.8) for turn in (-0.08, 0.08)]
        for low, high in (wheels[:2], wheels[2:]):
            scene.fill(
                along_side(low, (0.5, 0.35, low[2]), (0.5, 0.35, high[2]), high), BLACK, of)
        scene.fill(
            along_side((0.5, 0.16, 0), (0.5, waist, 0), (roof, 1, 0), (roof, 1, 0.62),
                       (0.46, waist, 0.8), (0.5, waist - 0.08, 1), (0.5, 0.16, 1)),
            np.clip(paint * lit, 0, 255), of)
        scene.fill(
            along_side((0.46, waist + 0.04, 0.1), (roof, 0.93, 0.14), (roof, 0.93, 0.58),
                       (0.46, waist + 0.04, 0.72)), GLASS, of)

    def facing(corners, colour):
        scene.upright(right, ahead, np.array(corners) * (width, height), colour, of)

    def mirrored(corners, colour):
        facing(corners, colour)
        facing([(-x, y) for x, y in corners], colour)

    mirrored([(0.48, 0), (0.48, 0.3), (0.34, 0.3), (0.34, 0)], BLACK)
    facing([(-0.49, 0.15), (-0.5, waist), (-roof - 0.03, 0.93), (-roof + 0.04, 1), (roof - 0.04, 1),
            (roof + 0.03, 0.93), (0.5, waist), (0.49, 0.15)], paint)
    facing([(-0.43, waist + 0.05), (-roof + 0.01, 0.93), (roof - 0.01, 0.93),
            (0.43, waist + 0.05)], GLASS * rng.uniform(0.6, 1.6))
    lamps = np.array([190, 25, 20]) if from_behind else np.array([245, 240, 215])
    mirrored([(0.47, waist - 0.18), (0.47, waist - 0.04), (0.3, waist - 0.06),
              (0.3, waist - 0.16)], lamps)
    facing([(-0.16, 0.28), (-0.16, 0.37), (0.16, 0.37), (0.16, 0.28)], np.full(3, 225))
    facing([(-0.49, 0.14), (-0.49, 0.22), (0.49, 0.22), (0.49, 0.14)], 0.5 * paint)


def crossing_car(scene: Scene, right: float, ahead: float) -> None:
    """Paint a car that crosses the street, seen from the side."""
    rng, of = scene.rng, scene.instance('car')
    size = np.array([rng.uniform(3.6, 4.9) * rng.choice([-1, 1]), rng.uniform(1.35, 1.7)])
    paint = any_colour(rng, (0, 0.9))
    scene.shadow(right, ahead, 1.05 * abs(size[0]), 1.6)
    for corners, colour in (
        ([(-0.5, 0.14), (-0.5, 0.5), (-0.46, 0.62), (-0.36, 0.66), (-0.24, 0.97), (0.12, 1),
          (0.28, 0.64), (0.46, 0.54), (0.5, 0.42), (0.5, 0.14)], paint),
        ([(-0.31, 0.66), (-0.21, 0.92), (-0.05, 0.94), (-0.05, 0.66)], GLASS),
        ([(-0.02, 0.66), (-0.02, 0.94), (0.1, 0.93), (0.22, 0.66)], GLASS)):
        scene.upright(right, ahead, np.array(corners) * size, colour, of)
    for hub in (-0.31, 0.31):
        for radius, colour in ((0.33, BLACK), (0.17, np.full(3, 130.))):
            scene.upright(right, ahead, oval((hub * size[0], 0.33), radius, radius), colour, of)


def person(scene: Scene, right: float, ahead: float) -> None:
    """Paint a walking or standing person."""
    rng, of = scene.rng, scene.instance('person')
    height = rng.uniform(1.5, 1.95) if rng.random() < 0.85 else rng.uniform(1.0, 1.4)
    stride, swing = rng.uniform(0.02, 0.17, size=2)
    skin = np.array([225., 180., 150.]) * rng.uniform(0.4, 1.05)
    trousers, coat = any_colour(rng, (0, 0.7), (0.1, 0.7)), any_colour(rng)
    hem = rng.uniform(0.3, 0.5)
    scene.shadow(right, ahead, 0.6, 0.5)

    def part(outline, colour, grain=0.):
        scene.upright(right, ahead, outline * height, colour, of, grain)

    for side in (-1, 1):
        part(_bar((side * 0.045, 0.5), (side * stride, 0.01), 0.085), trousers * (1 + 0.15 * side))
        part(_bar((side * 0.12, 0.81), (side * (0.1 + swing / 2), 0.46), 0.065), coat * 0.8)
    part(np.array([(-0.1, hem), (-0.13, 0.8), (-0.07, 0.85), (0.07, 0.85), (0.13, 0.8),
                   (0.1, hem)]), coat, 0.1)
    part(_bar((0, 0.83), (0, 0.9), 0.06), skin)
    part(oval((0, 0.925), 0.058, 0.075), skin)
    part(oval((0, 0.96), 0.06, 0.045), any_colour(rng, (0.1, 0.7), (0.05, 0.6)))


def _pole(scene: Scene, right: float, ahead: float, height: float, width: float,
          colour: np.ndarray) -> None:
    """Paint a bare pole, wide enough to cover a pixel; what hangs on it is painted later."""
    width = max(width, 1.3 * ahead / scene.focal)
    scene.upright(right, ahead, _bar((0, 0), (0, height), width), colour, LABELS['pole'].id)
    scene.upright(right, ahead, _bar((width / 4, 0), (width / 4, height), width / 2), 0.6 * colour)


def _pole_colour(rng: np.random.Generator) -> np.ndarray:
    return _grey(rng, 40, 170) if rng.random() < 0.7 else any_colour(rng, (0.1, 0.5), (0.2, 0.6))


def lamp_post(scene: Scene, right: float, ahead: float) -> None:
    """Paint a lamp on an arm that reaches over the street."""
    rng, of = scene.rng, LABELS['pole'].id
    height, reach, colour = rng.uniform(5, 8), rng.uniform(0.8, 2.), _pole_colour(rng)
    end = (-np.sign(right) * reach, height + rng.uniform(0, 0.4))
    _pole(scene, right, ahead, height, 0.17, colour)
    scene.upright(right, ahead, _bar((0, height), end, max(0.1, 1.2 * ahead / scene.focal)),
                  colour, of)
    scene.upright(right, ahead, oval(end, 0.35, 0.13), 0.7 * colour, of)


def sign_post(scene: Scene, right: float, ahead: float) -> None:
    """Paint one or two traffic signs on a pole."""
    rng, of = scene.rng, LABELS['traffic sign'].id
    top, radius = rng.uniform(2.4, 3.2), rng.uniform(0.38, 0.55)
    _pole(scene, right, ahead, top, 0.09, _pole_colour(rng))
    for _ in range(rng.integers(1, 3)):
        corners, turn = [(14, 0), (3, np.pi / 2), (3, -np.pi / 2), (4, np.pi / 4), (4, 0),
                         (8, np.pi / 8)][rng.integers(6)]
        rim = any_colour(rng, (0.7, 1), (0.55, 0.95))
        face = np.full(3, 235.) if rng.random() < 0.6 else rim * 0.9
        mark = any_colour(rng, (0, 1), (0, 1))
        for share, colour in ((1, rim), (0.75, face), (0.35, mark)):
            outline = oval((0, top), share * radius, share * radius, corners, turn)
            scene.upright(right, ahead, outline, colour, of)
        top -= 2 * radius


def traffic_light(scene: Scene, right: float, ahead: float) -> None:
    """Paint a box on a pole with three lamps, one of them lit."""
    rng, of = scene.rng, LABELS['traffic light'].id
    bottom, colour = rng.uniform(2.1, 3.2), _pole_colour(rng)
    _pole(scene, right, ahead, bottom + 1, 0.13, colour)
    scene.upright(right, ahead, [(-0.24, bottom), (-0.24, bottom + 1.1), (0.24, bottom + 1.1),
                                 (0.24, bottom)], _grey(rng, 15, 50), of)
    on = rng.integers(3)
    for number, lamp in enumerate([(60, 235, 120), (255, 190, 40), (255, 50, 40)]):
        scene.upright(right, ahead, oval((0, bottom + 0.2 + 0.35 * number), 0.13, 0.13),
                      np.array(lamp) * (1. if number == on else 0.25), of)


def tree(scene: Scene, right: float, ahead: float) -> None:
    """Paint a trunk and a crown of clumps, all labelled as vegetation."""
    rng, of = scene.rng, LABELS['vegetation'].id
    crown, trunk = rng.uniform(1.2, 2.6), rng.uniform(1.6, 3.2)
    leaves = any_leaves(rng)
    scene.shadow(right, ahead, 2 * crown, 2 * crown)
    stem = _bar((0, 0), (0, trunk + crown), max(rng.uniform(0.2, 0.4), 1.3 * ahead / scene.focal))
    scene.upright(right, ahead, stem, _grey(rng, 35, 85), of, 0.3)
    middle = trunk + 0.8 * crown
    for height in np.sort(rng.uniform(-0.7, 0.9, size=10 if ahead < 40 else 5)):
        reach = np.sqrt(1 - height**2) * 0.75
        centre = (rng.uniform(-reach, reach) * crown, middle + height * crown)
        radius = crown * rng.uniform(0.32, 0.55)
        outline = oval(centre, radius, radius * 0.85)
        outline += rng.normal(scale=0.1 * radius, size=outline.shape)
        scene.upright(right, ahead, outline,
                      leaves * (0.85 + 0.35 * height + rng.uniform(-0.15, 0.15)), of, 0.45)


def any_leaves(rng: np.random.Generator) -> np.ndarray:
    """Draw a leaf colour: usually green, but anything from blue-green to autumn red."""
    hue = np.clip(rng.normal(0.27, 0.07), 0.02, 0.45)
    return 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.2, 0.7), rng.uniform(0.3, 0.65)))


def bin_(scene: Scene, right: float, ahead: float) -> None:
    """Paint a bin or a box, which Cityscapes labels as static and does not score."""
    rng, size = scene.rng, scene.rng.uniform((0.4, 0.7), (0.9, 1.3))
    colour = any_colour(rng, (0, 0.7), (0.2, 0.8))
    scene.shadow(right, ahead, 1.2 * size[0], 0.7)
    for bottom, top, shade in ((0, 1, 1), (0.85, 1, 0.6)):
        outline = np.array([(-0.5, bottom), (-0.5, top), (0.5, top), (0.5, bottom)])
        scene.upright(right, ahead, outline * size, colour * shade, LABELS['static'].id)
