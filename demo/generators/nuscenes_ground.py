"""Background of a miniature nuScenes scene: ground with roads, and sky."""
from typing import Dict, Sequence

import cv2
import numpy as np

from .nuscenes_cameras import SIGHT, Camera
from .nuscenes_world import HALF_ROAD, LANE, SIDEWALK, Road
from .shapes import noise

# Pixel size of the ground's texture, in metres.
PIXEL = 0.14
# How far the texture extends beyond the ego car's path, in metres.
REACH = 65.
# Rows and columns of the panorama, and the elevations of its first and last row in degrees.
PANORAMA = 96, 1024
TOP, BOTTOM = 30., -2.
SHIFT = 4  # as in nuscenes_cameras
DASH, DASH_GAP = 3., 4.5
# Grass, gravel, paving.
TERRAINS = ((88, 118, 62), (139, 128, 104), (128, 128, 124))


class Backdrop:
    """Ground and sky of one scene.

    Args:
        roads (Sequence[Road]): Roads, the topmost first.
        way (np.ndarray): (n, 2) positions of the ego car in metres.
        rng (Generator): Source of all randomness.

    Attributes:
        haze (np.ndarray): (3,) RGB in 0..255 at infinite distance.
    """

    def __init__(self, roads: Sequence[Road], way: np.ndarray, rng: np.random.Generator):
        self.haze = np.array([196, 203, 210]) * rng.uniform(0.85, 1.1)
        self._corner = way.min(0) - REACH
        self._ground = self._paint_ground(roads, way, rng)
        self._sky = self._paint_sky(rng)
        self._views: Dict[Camera, tuple] = {}

    def _paint_ground(self, roads, way, rng) -> np.ndarray:
        width, height = np.ceil((np.ptp(way, axis=0) + 2 * REACH) / PIXEL).astype(int).tolist()
        terrain = np.array(TERRAINS[rng.integers(len(TERRAINS))]) * rng.uniform(0.85, 1.15)
        ground = np.full((height, width, 3), terrain, np.uint8)
        self._terrain = terrain
        asphalt = rng.uniform(82, 112) * np.array([0.98, 1, 1.03])
        paved = rng.uniform(140, 165) * np.array([1, 0.99, 0.96])
        lines = np.full(3, rng.uniform(205, 235))
        for half, colour in ((HALF_ROAD + SIDEWALK, paved), (HALF_ROAD, asphalt)):
            for road in reversed(roads):
                self._strip(ground, road, road.places[[0, -1]], 0., 2 * half, colour)
        for side in (-1, 1):
            self._strip(ground, roads[0], roads[0].places[[0, -1]], side * (HALF_ROAD - 0.3), 0.15,
                        lines)
        for middle, colour in ((-LANE, lines), (0., (205, 165, 60)), (LANE, lines)):
            for start in np.arange(roads[0].places[0], roads[0].places[-1], DASH + DASH_GAP):
                length = DASH + DASH_GAP * (middle == 0)
                self._strip(ground, roads[0], (start, start + length), middle, 0.17, colour)
        coarse = noise(height // 8, width // 8, ((max(height // 64, 2), 5.),
                                                 (max(height // 16, 4), 5.)), rng)
        grain = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        for start in range(0, height, 256):
            rows = slice(start, start + 256)
            ground[rows] = np.clip(ground[rows] + grain[rows, :, None], 0, 255)
        return ground

    def _strip(self, ground, road: Road, ends, left: float, width: float, colour) -> None:
        """Paint a strip along a road between two places, centred ``left`` of its middle."""
        places = np.arange(ends[0], ends[1] + 1, 1.)
        sides = [road.at(places, left + half)[0] for half in (-width / 2, width / 2)]
        pixels = np.round((np.stack(sides) - self._corner) / PIXEL * (1 << SHIFT)).astype(np.int32)
        for index in range(len(places) - 1):
            quad = pixels[[0, 0, 1, 1], [index, index + 1, index + 1, index]]
            cv2.fillConvexPoly(ground, quad, np.asarray(colour).tolist(), cv2.LINE_AA, SHIFT)

    def _paint_sky(self, rng) -> np.ndarray:
        """Paint a panorama of clouds and, at the horizon, houses and trees."""
        rows, columns = PANORAMA
        elevation = np.linspace(TOP, BOTTOM, rows, dtype=np.float32)[:, None, None]
        zenith = np.array([(100, 145, 205), (165, 175, 188)][rng.integers(2)])
        share = np.clip(elevation / 22, 0, 1) ** 0.7
        sky = self.haze + share * (zenith - self.haze)
        clouds = np.clip(noise(rows, columns // 2, ((3, 1.), (8, 0.5)), rng), 0, 1)
        clouds = np.hstack([clouds, clouds[:, ::-1]])[..., None]  # mirrored: both ends match
        sky = sky + 0.5 * share * clouds * (240 - sky)
        sky = np.broadcast_to(sky, (rows, columns, 3)).copy()
        start = 0
        while start < columns:
            end = start + int(rng.integers(8, 45))
            if rng.random() < 0.5:
                top = rng.uniform(1., 4.5)
                wall = np.array([(112, 126, 108), (150, 142, 136),
                                 (138, 140, 148)][rng.integers(3)])
                colour = self.haze + 0.6 * (wall - self.haze)
                sky[(elevation < top)[:, 0, 0], start:end] = colour
            start = end
        sky[(elevation < 0)[:, 0, 0]] = self.haze
        return np.hstack([sky, sky]).astype(np.uint8)  # twice around: a view starts at any angle

    def _view(self, camera: Camera) -> tuple:
        """Compute, once per camera, the geometry of its view.

        Returns:
            tuple: Column and row of each pixel in the panorama; image row of the horizon; and from
            that row on, whether a pixel shows the ground, the ground's share of the colour, and
            the haze to add.
        """
        if camera not in self._views:
            rows, columns = PANORAMA
            rays = camera.rays()
            level = np.hypot(rays[..., 0], rays[..., 1])
            elevation = np.degrees(np.arctan2(rays[..., 2], level))
            row = (TOP - elevation) / (TOP - BOTTOM) * (rows - 1)
            column = np.arctan2(rays[..., 1], rays[..., 0]) % (2 * np.pi) * columns / (2 * np.pi)
            below = rays[..., 2] < 0
            horizon = int(below.any(1).argmax())
            slope = np.where(below, -rays[..., 2], 1)[horizon:]
            distance = camera.cam2ego[2, 3] * level[horizon:] / slope
            clear = np.exp(-distance / SIGHT)[..., None].astype(np.float32)
            self._views[camera] = (column.astype(np.float32), row.astype(np.float32), horizon,
                                   below[horizon:, :, None], clear,
                                   (1 - clear) * self.haze.astype(np.float32))
        return self._views[camera]

    def see(self, camera: Camera, ego2global: np.ndarray) -> np.ndarray:
        """Render the background of a camera's image, (height, width, 3) uint8 RGB.

        Args:
            camera (Camera): A camera of the scene.
            ego2global (np.ndarray): (4, 4) pose of the car, which is level on the ground.
        """
        column, row, horizon, below, clear, haze = self._view(camera)
        turned = np.arctan2(ego2global[1, 0], ego2global[0, 0]) % (2 * np.pi) / (2 * np.pi)
        picture = cv2.remap(self._sky, column + np.float32(turned * PANORAMA[1]), row,
                            cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

        # Homography from the texture to the ground, to the camera, and to its image below the
        # horizon at twice the size.
        texture = np.array([[PIXEL, 0, self._corner[0]], [0, PIXEL, self._corner[1]], [0, 0, 0],
                            [0, 0, 1]])
        double = np.array([[2, 0, 0.5], [0, 2, 0.5 - 2 * horizon], [0, 0, 1]])
        global2cam = camera.ego2cam @ np.linalg.inv(ego2global)
        matrix = double @ camera.cam2img @ global2cam[:3] @ texture
        height, width = below.shape[:2]
        ground = cv2.warpPerspective(self._ground, matrix, (2 * width, 2 * height),
                                     borderValue=self._terrain.tolist())
        ground = cv2.resize(ground, (width, height), interpolation=cv2.INTER_AREA)
        np.copyto(picture[horizon:], (ground * clear + haze).astype(np.uint8), where=below)
        return picture
