"""Drawing of a street: an image and its labels from one geometry.

Large plain areas (road, sky, walls) cover most of an image, and small objects (cars, persons,
poles, signs) a little: the case that window pruning is made for.
"""
from typing import Tuple

import numpy as np

from .cityscapes_labels import LABELS
from .scene import Scene, oval, rgb
from .shapes import noise
from .street_objects import (any_colour, any_leaves, bin_, car, crossing_car, lamp_post, person,
                             sign_post, traffic_light, tree)

# The scored classes that occur.
CLASSES = ('road', 'sidewalk', 'building', 'pole', 'traffic light', 'traffic sign', 'vegetation',
           'terrain', 'sky', 'person', 'car')
# Metres ahead at which the ground begins, and at which it ends in a strip of houses and trees.
NEAR, FAR = 2., 140.
PARK_PROBABILITY = 0.4
EGO_VEHICLE_PROBABILITY = 0.6


def draw_street(height: int, width: int,
                rng: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
    """Draw one street.

    Args:
        height (int): Height in pixels.
        width (int): Width in pixels.
        rng (Generator): Source of all randomness.

    Returns:
        tuple[np.ndarray, np.ndarray]: (height, width, 3) uint8 RGB image, and (height, width)
        uint16 ids: 1000 * label id + number for persons and cars, the label id otherwise.
    """
    scene = Scene(height, width, rng)
    half = rng.uniform(3.4, 6.)
    middle = rng.uniform(-0.5, 0.2) * half
    sides = [
        Side(sign, middle + sign * half, rng.uniform(2., 4.5), rng.random() < PARK_PROBABILITY)
        for sign in (-1, 1)
    ]
    _sky(scene)
    _skyline(scene)
    _road(scene, *[side.kerb for side in sides])
    for side in sides:
        _sidewalk(scene, side)
        if side.is_park:
            _terrain(scene, side)
        else:
            _houses(scene, side)
    things = _on_the_road(scene, sides) + [
        thing for side in sides for thing in _beside_the_road(scene, side)
    ]
    for ahead, right, paint in sorted(things, key=lambda thing: -thing[0]):
        paint(scene, right, ahead)
    if rng.random() < EGO_VEHICLE_PROBABILITY:
        _ego_vehicle(scene)
    return scene.develop(), scene.ids


class Side:
    """One side of the street.

    Args:
        sign (int): -1 for the left side, 1 for the right.
        kerb (float): Border of road and sidewalk, in metres right of the camera.
        width (float): Width of the sidewalk in metres.
        is_park (bool): Whether grass borders the sidewalk, instead of houses.
    """

    def __init__(self, sign: int, kerb: float, width: float, is_park: bool):
        self.sign, self.kerb, self.width, self.is_park = sign, kerb, width, is_park

    def beyond(self, distance: float) -> float:
        """Return the position at a distance from the kerb, in metres right of the camera.

        Positive distances point away from the road, negative ones onto it.
        """
        return self.kerb + self.sign * distance


def _strip(scene: Scene, start: float, end: float, colour, of=None, grain=0., near=NEAR,
           far=FAR, opacity=1.) -> None:
    """Fill a strip of ground along the street between two positions across it."""
    scene.fill([(start, 0, near), (end, 0, near), (end, 0, far), (start, 0, far)], colour, of,
               grain, opacity)


def _share(distance: np.ndarray, period: float, width: float) -> np.ndarray:
    """Return 1 where a pattern of bars with this period and width has a bar, else 0."""
    return (distance % period < width).astype(np.float32)


def _blend(low, high, weight: np.ndarray) -> np.ndarray:
    """Mix two colours with an (h, w) weight into (3, h, w)."""
    return rgb(low) + weight * (rgb(high) - rgb(low))


def _sky(scene: Scene) -> None:
    rng = scene.rng
    height, width = scene.ids.shape
    # Blue, overcast or evening.
    zenith, horizon = [((95, 145, 215), (190, 210, 235)), ((185, 190, 195), (220, 222, 222)),
                       ((120, 120, 165), (245, 200, 160))][rng.choice(3, p=(0.5, 0.35, 0.15))]
    down = np.clip((np.arange(height, dtype=np.float32) + 0.5) / scene.vanishing[1], 0, 1)
    sky = _blend(zenith, horizon, down[:, None])
    clouds = noise(height, width, ((4, 1.), (9, 0.5), (20, 0.2)), rng) - rng.uniform(-0.3, 0.9)
    scene.picture[:] = sky + np.clip(clouds, 0, 0.8) * (238 - sky)


def _skyline(scene: Scene) -> None:
    """Paint the end of the street: houses and trees across the whole view."""
    rng = scene.rng
    reach = FAR * scene.ids.shape[1] / scene.focal
    for right in np.arange(-reach, reach, 10):
        if rng.random() < 0.55:
            width, height = rng.uniform(10, 22), rng.uniform(5, 13)
            # Start below the ground, which is painted later, to leave no gap.
            outline = [(-width / 2, -1), (-width / 2, height), (width / 2, height), (width / 2, -1)]
            scene.upright(right, FAR, outline, _wall_colour(rng), LABELS['building'].id)
        else:
            outline = oval((0, 0), rng.uniform(9, 14), rng.uniform(4, 11))
            scene.upright(right, FAR, outline + rng.normal(scale=0.7, size=outline.shape),
                          any_leaves(rng) * 0.8, LABELS['vegetation'].id, 0.4)


def _road(scene: Scene, left: float, right: float) -> None:
    rng, of = scene.rng, LABELS['road'].id
    asphalt = rng.uniform(60, 140) * rng.uniform(0.92, 1.08, size=3)
    # Fill the whole ground first, so that none of its pixels stays sky.
    _strip(scene, -300, 300, asphalt, of)
    patches = noise(*scene.ids.shape, ((3, 0.6), (8, 0.4)), rng)
    scene.picture *= np.where(scene.ids == of, 1 + 0.12 * patches, 1)
    _strip(scene, left, right, lambda x, up, z: _blend(
        asphalt, 0.88 * asphalt, _share(x - left, (right - left) / 2, 0.8)), grain=0.06,
           opacity=0.5)
    white = np.full(3, rng.uniform(180, 235))
    dashes, middle = rng.uniform(4, 9), (left + right) / 2
    for start in np.arange(rng.uniform(NEAR, NEAR + dashes), 70, dashes):
        _strip(scene, middle - 0.07, middle + 0.07, white, near=start, far=start + dashes / 2)
    if rng.random() < 0.3:
        start = rng.uniform(8, 25)
        for x in np.arange(left + 0.4, right - 0.4, 1.):
            _strip(scene, x, x + 0.5, white, near=start, far=start + 3)


def _sidewalk(scene: Scene, side: Side) -> None:
    rng, of = scene.rng, LABELS['sidewalk'].id
    stone = rng.uniform(85, 185) * rng.uniform(0.9, 1.1, size=3)
    tile, joint = rng.uniform(0.5, 1.2), rng.uniform(0.75, 0.9)

    def paving(right, up, ahead):
        joints = np.maximum(_share(right, tile, 0.09), _share(ahead, tile, 0.09))
        return _blend(stone, joint * stone, joints * np.clip(12 / ahead, 0, 1))

    end = side.beyond(side.width if side.is_park else 40.)
    _strip(scene, side.kerb, end, paving, of, 0.1)
    _strip(scene, side.kerb, side.beyond(0.2), np.clip(stone * 1.25, 0, 255), of)
    _strip(scene, side.beyond(-0.25), side.kerb, np.zeros(3), opacity=0.35)


def _terrain(scene: Scene, side: Side) -> None:
    rng = scene.rng
    grass = any_leaves(rng) * 1.2
    _strip(scene, side.beyond(side.width), side.beyond(300), grass, LABELS['terrain'].id, 0.25)
    if rng.random() < 0.6:  # a hedge along it
        height, depth = rng.uniform(0.6, 1.6), side.beyond(side.width + rng.uniform(1, 6))
        ahead = np.linspace(FAR, 8, 40)
        top = height * rng.uniform(0.85, 1.15, size=len(ahead))
        outline = [(depth, up, z) for up, z in zip(top, ahead)] + [(depth, 0, 8), (depth, 0, FAR)]
        scene.fill(outline, any_leaves(rng), LABELS['vegetation'].id, 0.45)


def _wall_colour(rng: np.random.Generator) -> np.ndarray:
    return any_colour(rng, (0.02, 0.45), (0.35, 0.9))


def _houses(scene: Scene, side: Side) -> None:
    """Paint a row of houses along the sidewalk, with gaps."""
    rng = scene.rng
    rows, start = [], NEAR
    while start < FAR - 10:
        end = min(start + rng.uniform(9, 22), FAR)
        rows.append((start, end, rng.uniform(4.5, 15)))
        start = end + (rng.uniform(3, 8) if rng.random() < 0.25 else 0)
    wall = side.beyond(side.width)
    for start, end, height in reversed(rows):
        facade = _facade(scene, side)
        of = LABELS['building'].id
        back = wall + side.sign * 14
        scene.fill([(wall, 0, start), (back, 0, start), (back, height, start),
                    (wall, height, start)], lambda x, y, z: facade(x, y, z, x), of, 0.04)
        scene.fill([(wall, 0, start), (wall, 0, end), (wall, height, end), (wall, height, start)],
                   lambda x, y, z: facade(x, y, z, z), of, 0.04)
        scene.fill([(wall, height - 0.5, start), (wall, height - 0.5, end), (wall, height, end),
                    (wall, height, start)], np.full(3, 60.), opacity=0.5)
    if side.sign == scene.sun:
        _strip(scene, wall, side.beyond(-rng.uniform(0, 4)), np.zeros(3), opacity=0.4)


def _facade(scene: Scene, side: Side):
    """Return the texture of a house: rows of windows, and a ground floor of another colour."""
    rng = scene.rng
    wall = _wall_colour(rng) * (0.75 if side.sign == scene.sun else 1.05)
    base = wall * rng.uniform(0.5, 1.1)
    glass = np.array([50., 60., 75.]) if rng.random() < 0.75 else np.array([185., 205., 220.])
    period, storey = rng.uniform(1.8, 3.6), rng.uniform(2.7, 3.5)
    width, height, sill = rng.uniform(0.35, 0.7), rng.uniform(0.4, 0.65), rng.uniform(0.2, 0.3)
    lit = rng.random((8, 8)).astype(np.float32)

    def texture(right, up, ahead, along):
        column, row = along / period, up / storey
        window = _share(column - 0.15, 1, width) * _share(row - sill, 1, height)
        brightness = 0.7 + 0.6 * lit[np.floor(column).astype(int) % len(lit),
                                     np.floor(row).astype(int) % len(lit)]
        # Blend windows that are too narrow for the pixels into their mean.
        pixels = scene.focal * period / ahead
        if along is ahead:
            pixels = pixels * np.abs(right) / ahead
        sharp = np.clip(pixels / 3 - 0.5, 0, 1)
        weight = sharp * window + (1 - sharp) * 0.5 * width * height
        plaster = _blend(wall, base, (up < storey).astype(np.float32))
        return plaster + weight * (rgb(glass) * brightness - plaster)

    return texture


def _distance(rng: np.random.Generator, near: float, far: float) -> float:
    """Draw a log-uniform distance in metres, so that sizes in the image are log-uniform too."""
    return float(np.exp(rng.uniform(np.log(near), np.log(far))))


def _on_the_road(scene: Scene, sides) -> list:
    """Place cars on the road, and cars and persons crossing it: (ahead, right, function) each."""
    rng = scene.rng
    left, right = (side.kerb for side in sides)
    things = []
    for side in sides:
        if rng.random() < 0.6:
            ahead = rng.uniform(6, 14)
            while ahead < 65:
                if rng.random() < 0.6:
                    things.append((ahead, side.beyond(-1.05), car))
                ahead += rng.uniform(5.5, 9)
        if rng.random() < 0.5:
            lane = side.beyond(-0.6 * (right - left) / 2)
            things.append((_distance(rng, 9, 60), lane + rng.uniform(-0.3, 0.3), car))
    if rng.random() < 0.15:
        ahead = _distance(rng, 13, 35)
        things = [thing for thing in things if not -7 < thing[0] - ahead < 3]  # make room for it
        things.append((ahead, rng.uniform(left, right), crossing_car))
    if rng.random() < 0.4:
        ahead = _distance(rng, 9, 30)
        for _ in range(rng.integers(1, 4)):
            things.append((ahead + rng.uniform(0, 2), rng.uniform(left, right), person))
    return things


def _beside_the_road(scene: Scene, side: Side) -> list:
    """Place persons and objects on one side of the road: (ahead, right, function) each."""
    rng = scene.rng
    things = []

    def put(function, near, far, start, end):
        things.append((_distance(rng, near, far), side.beyond(rng.uniform(start, end)), function))

    for _ in range(rng.poisson(2.5)):
        put(person, 6.5, 40, 0.4, side.width)
        if rng.random() < 0.4:  # in company
            ahead, right, _ = things[-1]
            things.append((ahead + rng.uniform(-0.4, 0.4), right + rng.uniform(0.5, 0.8), person))
    spacing = rng.uniform(14, 30)
    things += [(ahead, side.beyond(0.5), lamp_post)
               for ahead in np.arange(rng.uniform(8, 8 + spacing), 70, spacing)]
    for _ in range(rng.poisson(1.3)):
        put(sign_post, 7, 35, 0.3, 0.8)
    for _ in range(rng.poisson(0.9)):
        put(traffic_light, 8, 35, 0.3, 0.8)
    if rng.random() < 0.25:
        put(bin_, 7, 25, 0.6, side.width)
    if side.is_park:
        for _ in range(rng.integers(2, 12)):
            put(tree, 12, 110, side.width + 1.5, side.width + 25)
    elif rng.random() < 0.35:
        spacing = rng.uniform(8, 15)
        things += [(ahead, side.beyond(0.9), tree)
                   for ahead in np.arange(rng.uniform(11, 11 + spacing), 70, spacing)]
    return things


def _ego_vehicle(scene: Scene) -> None:
    """Paint the bonnet of the car that carries the camera; it is not scored."""
    rng, of = scene.rng, LABELS['ego vehicle'].id
    height, width = scene.ids.shape
    ahead = 1.
    pixel = ahead / scene.focal
    middle = (width / 2 - scene.vanishing[0]) * pixel
    bottom = scene.eye - (height - scene.vanishing[1]) * pixel
    paint = any_colour(rng, (0, 0.4), (0.1, 0.6))
    for share, shade in ((1, 1.), (0.6, 1.25)):
        rise = share * rng.uniform(0.05, 0.11) * height * pixel
        scene.upright(middle, ahead, oval((0, bottom), 0.56 * width * pixel, rise, 60),
                      paint * shade, of)
