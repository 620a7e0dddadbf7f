"""World of a miniature nuScenes scene: roads, and the traffic that moves on them."""
from typing import List, Sequence, Tuple

import numpy as np

from .nuscenes_looks import LOOKS, Model

# Interval between keyframes, in seconds.
PERIOD = 0.5
# Length, width and height in metres: roughly the means of nuScenes, with the longest shortened.
SIZES = dict(
    car=(4.6, 1.95, 1.7),
    truck=(6.9, 2.5, 2.9),
    trailer=(9., 2.8, 3.6),
    bus=(10., 2.9, 3.3),
    construction_vehicle=(6., 2.7, 3.1),
    bicycle=(1.75, 0.65, 1.4),
    motorcycle=(2.1, 0.8, 1.5),
    pedestrian=(0.7, 0.7, 1.75),
    traffic_cone=(0.42, 0.42, 1.05),
    barrier=(0.55, 2.5, 1.))
# Relative frequencies of the classes; barriers and cones are placed in rows.
DECK = [
    name for name, cards in dict(
        car=5, truck=2, trailer=2, bus=2, construction_vehicle=2, bicycle=3, motorcycle=3,
        pedestrian=5, traffic_cone=2, barrier=2).items() for _ in range(cards)
]
CARDS_PER_METRE = 0.2
TRIES = 12
LANE = 3.6
HALF_ROAD = 2 * LANE
SIDEWALK = 3.
# How far the traffic extends behind and ahead of the ego car's path, in metres.
BEHIND, AHEAD = 26., 32.
# Free space around an object, and around the ego car, in metres.
GAP, EGO_GAP = 0.2, 1.2
EGO_SIZE = (4.1, 1.75, 1.6)
EGO_LANE = -LANE / 2
# Distance from the ego frame's origin, at the rear axle, to the middle of the car, in metres.
EGO_MIDDLE = 1.3
CROSSING_EVERY = 70.


class Road:
    """A centre line that bends gently to the left and the right.

    Args:
        origin (Sequence[float]): x and y of place 0, in metres.
        heading (float): Heading around which the road bends, in radians.
        reach (tuple[float, float]): First and last place along the road, in metres.
        bend (float): Amplitude of the heading's oscillation, in radians.
        wavelength (float): Wavelength of the bends in metres.
        phase (float): Phase of the bends in radians.
    """
    STEP = 0.5

    def __init__(self, origin: Sequence[float], heading: float, reach: Tuple[float, float],
                 bend: float = 0., wavelength: float = 1., phase: float = 0.):
        self.places = np.arange(*reach, self.STEP)
        self.headings = heading + bend * np.sin(2 * np.pi * self.places / wavelength + phase)
        steps = self.STEP * np.stack([np.cos(self.headings), np.sin(self.headings)], axis=1)
        points = np.cumsum(steps, axis=0) - steps
        middle = [np.interp(0, self.places, points[:, axis]) for axis in (0, 1)]
        self.points = points - middle + origin

    def at(self, place, left=0.) -> Tuple[np.ndarray, np.ndarray]:
        """Return points (..., 2) and headings (...) at places along the road and ``left`` of it.

        Beyond its ends the road continues straight.
        """
        place = np.asarray(place, float)
        inside = np.clip(place, self.places[0], self.places[-1])
        heading = np.interp(inside, self.places, self.headings)
        ahead = np.stack([np.cos(heading), np.sin(heading)], axis=-1)
        across = np.stack([-ahead[..., 1], ahead[..., 0]], axis=-1)
        point = np.stack([np.interp(inside, self.places, self.points[:, axis]) for axis in (0, 1)],
                         axis=-1)
        return point + (place - inside)[..., None] * ahead + left * across, heading


class Track:
    """Path of an object that stands or moves along a road at a constant speed.

    Args:
        road (Road): The road.
        place (float): Position along the road at time 0, in metres.
        left (float): Metres left of the road's middle.
        speed (float): Speed along the road in metres per second; negative in reverse direction.
        turn (float): Angle from the road's heading to the object's, in radians.
    """

    def __init__(self, road: Road, place: float, left: float, speed: float = 0., turn: float = 0.):
        self.road, self.place, self.left = road, place, left
        self.speed, self.turn = speed, turn

    def at(self, time) -> Tuple[np.ndarray, np.ndarray]:
        """Return points (..., 2) in metres and headings (...) in radians at times in seconds."""
        point, heading = self.road.at(self.place + self.speed * np.asarray(time), self.left)
        return point, heading + self.turn

    def velocity(self, start: float, end: float) -> np.ndarray:
        """Return the mean velocity between two times in seconds, (2,) in metres per second."""
        before, after = self.at(np.array([start, end]))[0]
        return (after - before) / (end - start)


class Thing:
    """An object of one of the ten classes.

    Args:
        name (str): Detection class.
        size (Sequence[float]): Length, width and height in metres.
        track (Track): Path of the object.
        model (Model): Appearance of the object.
    """

    def __init__(self, name: str, size: Sequence[float], track: Track, model: Model):
        self.name, self.size, self.track, self.model = name, np.asarray(size), track, model


def footprint(point: np.ndarray, heading: np.ndarray, length: float, width: float) -> np.ndarray:
    """Return the corners (..., 4, 2) of rectangles around points (..., 2) with headings (...)."""
    ahead = np.stack([np.cos(heading), np.sin(heading)], axis=-1)[..., None, :]
    across = np.stack([-ahead[..., 1], ahead[..., 0]], axis=-1)
    signs = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) / 2
    return (np.asarray(point)[..., None, :] + signs[:, :1] * length * ahead
            + signs[:, 1:] * width * across)


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether rectangles (..., 4, 2) overlap: no axis along a side of either separates them."""
    apart = False
    for sides in (one, other):
        axes = np.stack([sides[..., 0, :] - sides[..., 1, :], sides[..., 1, :] - sides[..., 2, :]],
                        axis=-1)
        first, second = one @ axes, other @ axes
        gap = (first.min(-2) > second.max(-2)) | (second.min(-2) > first.max(-2))
        apart = apart | gap.any(-1)
    return ~apart


class World:
    """Roads with traffic, and the path of the ego car.

    No two objects overlap at any keyframe.

    Args:
        num_frames (int): Number of keyframes, ``PERIOD`` apart.
        rng (Generator): Source of all randomness.

    Attributes:
        ego (Track): Path of the ego frame's origin.
        roads (list[Road]): The road of the ego car, then the roads that cross it.
        things (list[Thing]): The traffic.
        times (np.ndarray): (num_frames,) times of the keyframes in seconds.
    """

    def __init__(self, num_frames: int, rng: np.random.Generator):
        self.rng = rng
        self.times = np.arange(num_frames) * PERIOD
        speed = rng.uniform(2.5, 8.)
        travel = speed * self.times[-1]
        origin = rng.uniform(200, 1200, size=2)
        heading = rng.uniform(-np.pi, np.pi)
        self.roads = [
            Road(origin, heading, (-110, travel + 110), rng.uniform(0.05, 0.35),
                 rng.uniform(100, 180), rng.uniform(0, 2 * np.pi))
        ]
        self.ego = Track(self.roads[0], 0., EGO_LANE, speed)
        # The keyframes and one period before and after, which velocities need.
        self._times = np.append(-PERIOD, np.append(self.times, self.times[-1] + PERIOD))
        point, turned = self.ego.at(self._times)
        middle = point + EGO_MIDDLE * np.stack([np.cos(turned), np.sin(turned)], axis=-1)
        self._taken = [footprint(middle, turned, *np.add(EGO_SIZE[:2], 2 * EGO_GAP))]
        for start in np.arange(-BEHIND, travel + AHEAD, CROSSING_EVERY):
            if rng.random() < 0.6:
                self._add_crossing(start + rng.uniform(0, CROSSING_EVERY))

        self.things: List[Thing] = []
        reach = -BEHIND, travel + AHEAD
        deck: List[str] = []
        for _ in range(round(CARDS_PER_METRE * (reach[1] - reach[0]))):
            deck = deck or rng.permutation(DECK).tolist()
            name = deck.pop()
            for _ in range(TRIES):
                if self._deal(name, reach):
                    break

    def _add_crossing(self, place: float) -> None:
        point, heading = self.roads[0].at(place)
        turn = np.pi / 2 + self.rng.uniform(-0.3, 0.3)
        self.roads.append(Road(point, heading + turn, (-110, 110)))

    def _deal(self, name: str, reach: Tuple[float, float]) -> bool:
        """Try to place one object, or a row of them, and return whether there was room."""
        rng = self.rng
        place = rng.uniform(*reach)
        if name in ('traffic_cone', 'barrier'):
            return self._add_row(name, place)
        if name == 'pedestrian':
            return self._add(name, self._walk(place))
        kind = rng.random()
        if kind < 0.6:
            return self._add(name, self._drive(place))
        if kind < 0.8:  # parked at the kerb
            side = rng.choice((-1, 1))
            turn = rng.choice((0, np.pi)) + rng.normal(0, 0.06)
            left = side * (HALF_ROAD + SIZES[name][1] / 2 + rng.uniform(0.2, 0.6))
            return self._add(name, Track(self.roads[0], place, left, 0., turn))
        return self._add(name, self._stand_aside(place))

    def _drive(self, place: float) -> Track:
        """Draw a track on a lane of one of the roads; 60% of them move."""
        rng = self.rng
        road = self.roads[0]
        if len(self.roads) > 1 and rng.random() < 0.3:
            road = self.roads[rng.integers(1, len(self.roads))]
            place = rng.uniform(-30, 30)
        left = rng.choice((-1.5, -0.5, 0.5, 1.5)) * LANE + rng.normal(0, 0.2)
        way = -np.sign(left)  # traffic keeps to the right
        speed = way * rng.uniform(2., 8.) if rng.random() < 0.6 else 0.
        turn = (0. if way > 0 else np.pi) + rng.normal(0, 0.04)
        return Track(road, place, left, speed, turn)

    def _walk(self, place: float) -> Track:
        """Draw a track of a pedestrian: along the sidewalk, across the road or standing."""
        rng = self.rng
        left = rng.choice((-1, 1)) * (HALF_ROAD + rng.uniform(0.3, SIDEWALK))
        speed = rng.choice((-1, 1)) * rng.uniform(0.7, 1.8)
        kind = rng.random()
        if kind < 0.3:  # standing, anywhere
            return Track(self.roads[0], place, rng.uniform(-11, 11), 0., rng.uniform(-np.pi, np.pi))
        if kind < 0.6:  # crossing
            point, heading = self.roads[0].at(place)
            across = Road(point, heading + np.pi / 2, (-20, 20))
            return Track(across, left, 0., -np.sign(left) * abs(speed), 0. if left < 0 else np.pi)
        return Track(self.roads[0], place, left, speed, 0. if speed > 0 else np.pi)

    def _stand_aside(self, place: float) -> Track:
        """Draw a standing track beside the road, with any heading."""
        rng = self.rng
        left = rng.choice((-1, 1)) * (HALF_ROAD + SIDEWALK + rng.uniform(2, 12))
        return Track(self.roads[0], place, left, 0., rng.uniform(-np.pi, np.pi))

    def _add_row(self, name: str, place: float) -> bool:
        """Try to place a row of 2 or 3 barriers, or 2 to 4 cones, on or beside the road."""
        rng = self.rng
        count = rng.integers(2, 4 if name == 'barrier' else 5)
        spacing = rng.uniform(2.9, 3.6) if name == 'barrier' else rng.uniform(1.5, 3.5)
        turn = np.pi / 2 + rng.normal(0, 0.15)
        left, drift = rng.choice((-1, 1)) * rng.uniform(3.2, 10.), rng.uniform(-0.3, 0.3)
        added = [
            self._add(name, Track(self.roads[0], place + spacing * index,
                                  left + drift * spacing * index, 0., turn + drift))
            for index in range(count)
        ]
        return any(added)

    def _add(self, name: str, track: Track) -> bool:
        """Add an object unless it overlaps another at some time; return whether it was added."""
        size = np.array(SIZES[name]) * np.clip(self.rng.normal(1, 0.06, size=3), 0.85, 1.15)
        point, heading = track.at(self._times)
        area = footprint(point, heading, *(size[:2] + 2 * GAP))
        if overlap(np.stack(self._taken), area[None]).any():
            return False
        self._taken.append(area)
        model = LOOKS[name](self.rng, bool(track.speed))
        self.things.append(Thing(name, size, track, model))
        return True
