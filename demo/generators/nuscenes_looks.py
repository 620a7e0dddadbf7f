"""Appearance of the ten nuScenes classes: coloured boxes in a box, with a front and a back."""
import colorsys
from typing import Tuple

import numpy as np

# Axis and sign of the normal of each face, and shade of its colour. Front and back differ.
FACES = dict(
    front=(0, 1, 0.95), back=(0, -1, 0.7), left=(1, 1, 0.82), right=(1, -1, 0.82),
    top=(2, 1, 1.1), bottom=(2, -1, 0.45))
# Corners of a box, as bits: 4 for the front, 2 for the left, 1 for the top.
BITS = np.array([[corner >> 2 & 1, corner >> 1 & 1, corner & 1] for corner in range(8)])
GLASS = (40, 52, 66)
BLACK = (30, 30, 33)
LAMP = (255, 250, 205)
TAIL = (215, 25, 25)


def tint(rng: np.random.Generator, hue: float, saturation: float, value: float) -> np.ndarray:
    """Draw a colour close to a hue in degrees, saturation and value: (3,) RGB in 0..255."""
    hue += rng.normal(0, 7)
    saturation = np.clip(saturation + rng.normal(0, 0.07), 0, 1)
    value = np.clip(value + rng.normal(0, 0.08), 0.1, 1)
    return 255 * np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value))


def _quad(low: np.ndarray, high: np.ndarray, face: str) -> np.ndarray:
    """Return the corners (4, 3) of a face of a box, counter-clockwise as seen from outside."""
    axis, sign, _ = FACES[face]
    across, up = [other for other in range(3) if other != axis]
    quad = np.empty((4, 3))
    quad[:, axis] = high[axis] if sign > 0 else low[axis]
    quad[:, across] = np.array([low, high])[[0, 1, 1, 0], across]
    quad[:, up] = np.array([low, high])[[0, 0, 1, 1], up]
    return quad if (sign > 0) != (axis == 1) else quad[::-1]


class Model:
    """Boxes with marks on their faces, within the box from (-0.5, -0.5, 0) to (0.5, 0.5, 1).

    x points ahead, y to the left and z up. The boxes, called parts, do not overlap.

    Attributes:
        parts (np.ndarray): (p, 8, 3) corners of the parts, in the order of ``BITS``.
        quads (np.ndarray): (q, 4, 3) corners of faces and of marks on them, counter-clockwise
            as seen from outside; a mark comes after its face.
        colours (np.ndarray): (q, 3) RGB in 0..255.
        owners (np.ndarray): (q,) index of the part of each quad.
        solid (np.ndarray): (q,) True for faces, False for marks.
    """

    def __init__(self):
        self.parts = np.empty((0, 8, 3))
        self.quads = np.empty((0, 4, 3))
        self.colours = np.empty((0, 3))
        self.owners = np.empty(0, int)
        self.solid = np.empty(0, bool)

    def box(self, x: Tuple[float, float], y: Tuple[float, float], z: Tuple[float, float],
            colour) -> 'Model':
        """Add a part and return the model."""
        self._extent = np.array([x, y, z], float).T
        self.parts = np.append(self.parts, [np.choose(BITS, self._extent[:, None])], axis=0)
        for face in FACES:
            self._add(_quad(*self._extent, face), face, colour, True)
        return self

    def mark(self, faces: str, u: Tuple[float, float], v: Tuple[float, float], colour) -> 'Model':
        """Paint a rectangle on faces of the last part and return the model.

        Args:
            faces (str): Names of faces, separated by spaces.
            u (tuple[float, float]): Extent in shares of the face, from back to front; on the front
                and back faces, from right to left.
            v (tuple[float, float]): Extent upwards; on the top and bottom faces, to the left.
            colour (Sequence[float]): RGB in 0..255.
        """
        for face in faces.split():
            low, high = self._extent.copy()
            across, up = [axis for axis in range(3) if axis != FACES[face][0]]
            for axis, share in ((across, u), (up, v)):
                size = high[axis] - low[axis]
                low[axis], high[axis] = low[axis] + size * share[0], low[axis] + size * share[1]
            self._add(_quad(low, high, face), face, colour, False)
        return self

    def _add(self, quad: np.ndarray, face: str, colour, solid: bool) -> None:
        shade = np.clip(np.asarray(colour, float) * FACES[face][2], 0, 255)
        self.quads = np.append(self.quads, [quad], axis=0)
        self.colours = np.append(self.colours, [shade], axis=0)
        self.owners = np.append(self.owners, len(self.parts) - 1)
        self.solid = np.append(self.solid, solid)


HALF = (-0.5, 0.5)


def _wheels(model: Model, height: float, *places: float) -> None:
    """Mark wheels on both sides of the last part, centred at places in shares of its length."""
    for place in places:
        model.mark('left right', (place - 0.09, place + 0.09), (0, height), BLACK)


def _lamps(model: Model, v: Tuple[float, float]) -> None:
    for u in ((0.05, 0.28), (0.72, 0.95)):
        model.mark('front', u, v, LAMP).mark('back', u, v, TAIL)


def _car(rng: np.random.Generator, moving: bool) -> Model:
    paint = tint(rng, 215, 0.65, 0.75)
    model = Model().box(HALF, HALF, (0, 0.58), paint)
    model.mark('left right front back', (0, 1), (0, 0.25), BLACK)
    _wheels(model, 0.6, 0.2, 0.8)
    _lamps(model, (0.55, 0.85))
    model.box((-0.42, 0.2), (-0.43, 0.43), (0.58, 1), paint)
    model.mark('front', (0.05, 0.95), (0.05, 0.9), GLASS)
    model.mark('back', (0.12, 0.88), (0.3, 0.85), GLASS)
    return model.mark('left right', (0.08, 0.92), (0.15, 0.85), GLASS)


def _truck(rng: np.random.Generator, moving: bool) -> Model:
    cab = tint(rng, 130, 0.65, 0.5)
    model = Model().box((0.22, 0.5), (-0.48, 0.48), (0, 0.82), cab)
    _lamps(model, (0.15, 0.3))
    model.mark('front', (0.06, 0.94), (0.5, 0.88), GLASS)
    model.mark('left right', (0.35, 0.85), (0.5, 0.85), GLASS)
    model.mark('left right', (0.2, 0.75), (0, 0.28), BLACK)
    model.box((-0.5, 0.2), HALF, (0, 1), tint(rng, 95, 0.18, 0.85))
    model.mark('left right front back', (0, 1), (0, 0.22), BLACK)
    model.mark('left right', (0, 1), (0.55, 0.66), cab)
    model.mark('back', (0.48, 0.52), (0.22, 1), BLACK)
    return model.mark('back', (0, 1), (0.22, 0.3), TAIL)


def _trailer(rng: np.random.Generator, moving: bool) -> Model:
    paint = tint(rng, 275, 0.3, 0.62)
    model = Model().box((-0.5, 0.42), HALF, (0, 1), paint)
    for start in np.arange(0.05, 1, 0.19):
        model.mark('left right', (start, start + 0.05), (0.25, 0.97), paint * 0.55)
    model.mark('left right', (0.05, 0.4), (0, 0.22), BLACK)
    model.mark('back', (0.06, 0.94), (0.3, 0.92), paint * 0.6)
    model.mark('back', (0, 1), (0.2, 0.27), TAIL)
    return model.box((0.42, 0.5), (-0.25, 0.25), (0.12, 0.3), BLACK)


def _bus(rng: np.random.Generator, moving: bool) -> Model:
    model = Model().box(HALF, HALF, (0, 1), tint(rng, 0, 0.8, 0.78))
    model.mark('left right', (0.03, 0.97), (0.5, 0.82), GLASS)
    _wheels(model, 0.2, 0.2, 0.8)
    model.mark('front', (0.04, 0.96), (0.35, 0.85), GLASS).mark('front', (0.2, 0.8), (0.88, 0.97),
                                                              LAMP)
    model.mark('back', (0.2, 0.8), (0.58, 0.82), GLASS)
    _lamps(model, (0.12, 0.2))
    return model


def _construction_vehicle(rng: np.random.Generator, moving: bool) -> Model:
    paint = tint(rng, 50, 0.9, 0.9)
    model = Model().box((-0.5, 0.25), HALF, (0, 0.28), BLACK)
    model.box((-0.5, 0.25), (-0.45, 0.45), (0.28, 0.6), paint)
    for start in (0.08, 0.4, 0.72):
        model.mark('back', (start, start + 0.16), (0, 1), BLACK)
    model.box((-0.25, 0.2), (-0.05, 0.45), (0.6, 1), paint)
    model.mark('front left right', (0.1, 0.9), (0.1, 0.85), GLASS)
    # Arm and shovel.
    model.box((0.25, 0.42), (-0.15, 0.1), (0.4, 0.62), paint * 0.8)
    return model.box((0.42, 0.5), (-0.48, 0.48), (0, 0.62), (105, 100, 95))


def _rider(rng: np.random.Generator, model: Model, seat: float, top: np.ndarray) -> None:
    model.box((-0.22, 0.05), (-0.38, 0.38), (seat, 0.86), top)
    model.box((-0.18, 0.02), (-0.2, 0.2), (0.86, 1), tint(rng, 25, 0.4, 0.85))


def _motorcycle(rng: np.random.Generator, moving: bool) -> Model:
    paint = tint(rng, 315, 0.75, 0.6)
    model = Model().box((-0.5, -0.22), (-0.2, 0.2), (0, 0.42), BLACK)
    model.mark('back', (0.1, 0.9), (0.6, 0.95), TAIL)
    model.box((-0.22, 0.22), (-0.28, 0.28), (0.1, 0.55), paint)
    model.box((0.22, 0.5), (-0.2, 0.2), (0, 0.42), BLACK)
    model.box((0.22, 0.36), HALF, (0.42, 0.72 if moving else 1), paint)
    model.mark('front', (0.3, 0.7), (0.2, 0.8), LAMP)
    if moving:
        _rider(rng, model, 0.55, np.array(BLACK) * 1.8)
    return model


def _bicycle(rng: np.random.Generator, moving: bool) -> Model:
    paint = tint(rng, 178, 0.8, 0.75)
    model = Model().box((-0.5, -0.18), (-0.1, 0.1), (0, 0.42), BLACK)
    model.mark('left right', (0.25, 0.75), (0.25, 0.75), (150, 150, 150))
    model.box((-0.18, 0.18), (-0.12, 0.12), (0.2, 0.58), paint)
    model.box((0.18, 0.5), (-0.1, 0.1), (0, 0.42), BLACK)
    model.mark('left right', (0.25, 0.75), (0.25, 0.75), (150, 150, 150))
    model.box((0.18, 0.3), HALF, (0.42, 0.7 if moving else 1), paint)
    if moving:
        _rider(rng, model, 0.58, tint(rng, 165, 0.5, 0.9))
    return model


def _pedestrian(rng: np.random.Generator, moving: bool) -> Model:
    skin = tint(rng, 25, 0.4, 0.85)
    stride = 0.45 if moving else 0.15
    trousers = tint(rng, 230, 0.3, 0.28)
    model = Model().box((-stride, stride - 0.2), (-0.35, 0), (0, 0.47), trousers)
    model.box((0.2 - stride, stride), (0, 0.35), (0, 0.47), trousers)
    model.box((-0.5, 0.5), HALF, (0.47, 0.85), tint(rng, 28, 0.65, 0.55))
    model.mark('back', (0.2, 0.8), (0.2, 0.95), BLACK)  # a backpack
    model.box((-0.2, 0.2), (-0.2, 0.2), (0.85, 1), tint(rng, 25, 0.6, 0.25))
    return model.mark('front', (0.05, 0.95), (0, 0.8), skin)


def _traffic_cone(rng: np.random.Generator, moving: bool) -> Model:
    paint = tint(rng, 18, 0.95, 0.97)
    model = Model().box(HALF, HALF, (0, 0.1), paint * 0.6)
    for low, high, half in ((0.1, 0.35, 0.36), (0.35, 0.6, 0.27), (0.6, 0.8, 0.19),
                            (0.8, 1, 0.1)):
        colour = (240, 240, 235) if low == 0.35 else paint
        model.box((-half, half), (-half, half), (low, high), colour)
    return model


def _barrier(rng: np.random.Generator, moving: bool) -> Model:
    stripe = tint(rng, 350, 0.8, 0.85)
    model = Model().box(HALF, HALF, (0, 0.3), (150, 150, 148))
    model.box((-0.25, 0.25), HALF, (0.3, 1), (236, 234, 228))
    for start in (0.02, 0.28, 0.54, 0.8):
        model.mark('front back', (start, start + 0.16), (0.1, 0.95), stripe)
    return model.mark('back', (0, 1), (0, 0.12), BLACK)


# Each takes a random generator and whether the object moves, and returns its model.
LOOKS = dict(
    car=_car, truck=_truck, trailer=_trailer, bus=_bus,
    construction_vehicle=_construction_vehicle, bicycle=_bicycle, motorcycle=_motorcycle,
    pedestrian=_pedestrian, traffic_cone=_traffic_cone, barrier=_barrier)
