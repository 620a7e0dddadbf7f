"""Figures of multi-camera frames: blocks run in each image, 3D boxes, and a bird's-eye view."""
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Polygon

from .overlay import (BAR, GAP, HEAD, LABEL, Counts, add_axes, add_bar, grey, new_figure, pixels_of,
                      show_counts, sum_of)

GROUND_TRUTH, PREDICTION = 'ground truth', 'prediction'
BOX_COLORS = {GROUND_TRUTH: 'white', PREDICTION: '#ff2d55'}  # not in the colour map of the counts
GROUND, LINES, CAR = '#26282c', '#565a60', '#9aa0a8'
COLUMNS = 3
WIDTH = 5.  # of one image; all sizes are in inches
NEAR = .1  # near plane: depth in metres below which nothing is drawn
RING = 10  # metres between the rings around the car
# Corner order of mmdet3d's LiDARInstance3DBoxes: x along the heading, 0 to 3 at the back.
EDGES = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5),
                  (2, 6), (3, 7)])
GROUND_CORNERS = [0, 4, 7, 3]


class View(NamedTuple):
    """Image of one camera of a frame.

    Attributes:
        camera: Name of the camera.
        image: (H, W, 3) uint8, RGB, as the network sees it.
        stages: Blocks run at each pixel, for each stage.
        lidar2img: (3, 4) projection of (x, y, z, 1), in metres of the LiDAR frame, to (d u, d v, d)
            with the depth d in metres and the pixel (u, v), whose centre has integer coordinates.
    """
    camera: str
    image: np.ndarray
    stages: List[Counts]
    lidar2img: np.ndarray


def draw_frame(views: Sequence[View], boxes: Dict[str, np.ndarray],
               area: Sequence[Tuple[float, float]], title: str) -> np.ndarray:
    """Draw the images in rows of three, coloured by the blocks run over all stages, beside a
    bird's-eye view with the car at the origin.

    Args:
        views: Views of one frame, all of one size.
        boxes: :data:`GROUND_TRUTH`, :data:`PREDICTION` or both -> (N, 8, 3) box corners in metres
            of the LiDAR frame (as in nuScenes: x right, y ahead, z up), in mmdet3d's corner order.
        area: (min, max) of x and of y of the bird's-eye view, in metres.
        title: Title of the figure.

    Returns:
        (h, w, 3) uint8, RGB, at 100 pixels per inch; each image is five inches wide.
    """
    height, width = views[0].image.shape[:2]
    columns, rows = min(len(views), COLUMNS), -(-len(views) // COLUMNS)
    height = WIDTH * height / width
    right, bottom = GAP + columns * (WIDTH + GAP), rows * (HEAD + height)
    side = bottom - HEAD
    figure, top = new_figure(title, bottom + BAR + LABEL, right + side + GAP)
    for index, view in enumerate(views):
        row, column = divmod(index, COLUMNS)
        place = GAP + column * (WIDTH + GAP), top + row * (HEAD + height) + HEAD
        draw_view(add_axes(figure, *place, WIDTH, height), view, boxes)
    blocks = sum_of(views[0].stages).blocks
    add_bar(figure, right / 2 - WIDTH / 2, top + bottom + .06, WIDTH, blocks)
    above = add_axes(figure, right, top + HEAD, side, side)
    draw_from_above(above, boxes, area)
    above.set_title(f'from above, rings every {RING} m', fontsize=11, pad=4)
    _add_legend(figure, right + side / 2, boxes)
    return pixels_of(figure)


def draw_view(axes: Axes, view: View, boxes: Dict[str, np.ndarray]) -> None:
    """Draw one image, coloured by the blocks run over all stages, with the box edges."""
    counts = sum_of(view.stages)
    axes.imshow(grey(view.image))
    show_counts(axes, counts)
    for kind, corners in boxes.items():
        _draw_lines(axes, project_edges(corners, view.lidar2img), kind)
    height, width = view.image.shape[:2]
    axes.set(xlim=(-.5, width - .5), ylim=(height - .5, -.5))
    axes.axis('off')
    axes.set_title(f'{view.camera}: run on {counts.share:.0%} of the image', fontsize=11, pad=4)


def draw_from_above(axes: Axes, boxes: Dict[str, np.ndarray],
                    area: Sequence[Tuple[float, float]]) -> None:
    """Draw the bird's-eye view, with ahead pointing up: the outline of each box and a line from
    its centre to its front. For the arguments see :func:`draw_frame`."""
    right, ahead = area
    axes.set(xlim=right, ylim=ahead, xticks=[], yticks=[], aspect='equal', facecolor=GROUND)
    for radius in range(RING, round(np.hypot(*np.abs(area).max(1))), RING):
        axes.add_patch(Circle((0, 0), radius, fill=False, color=LINES, linewidth=.6))
    axes.add_patch(Polygon([(-1, -2), (1, -2), (0, 2.5)], color=CAR))
    for kind, corners in boxes.items():
        ground = corners[:, GROUND_CORNERS, :2]
        front = np.stack([ground.mean(1), ground[:, 1:3].mean(1)], axis=1)
        sides = np.stack([ground, np.roll(ground, -1, axis=1)], axis=2).reshape(-1, 2, 2)
        _draw_lines(axes, np.concatenate([sides, front]), kind)


def project_edges(corners: np.ndarray, lidar2img: np.ndarray) -> np.ndarray:
    """Project box edges into an image, clipped at the camera's near plane.

    Args:
        corners: (N, 8, 3), see :func:`draw_frame`.
        lidar2img: (3, 4), see :class:`View`.

    Returns:
        (M, 2, 2): both ends (u, v) of M <= 12 N edges, in pixels, possibly outside the image.
    """
    points = corners @ lidar2img[:, :3].T + lidar2img[:, 3]
    ends = points[:, EDGES].reshape(-1, 2, 3)
    ends = ends[(ends[..., 2] >= NEAR).any(1)]
    behind = ends[..., 2] < NEAR  # at most one end of each remaining edge
    edge = np.nonzero(behind)[0]
    hidden, seen = ends[behind], ends[edge][~behind[edge]]
    share = (NEAR - seen[:, 2:]) / (hidden[:, 2:] - seen[:, 2:])
    ends[behind] = seen + share * (hidden - seen)
    return ends[..., :2] / ends[..., 2:]


def _draw_lines(axes: Axes, lines: np.ndarray, kind: str) -> None:
    for color, width in (('#0008', 2.2), (BOX_COLORS[kind], 1.1)):  # with a dark outline
        axes.add_collection(LineCollection(
            lines, colors=color, linewidths=width, capstyle='round'), autolim=False)


def _add_legend(figure: Figure, middle: float, boxes: Dict[str, np.ndarray]) -> None:
    """Add a legend at the bottom of the figure, centred `middle` inches from its left."""
    handles = [Line2D([], [], color=BOX_COLORS[kind], label=f'{kind} ({len(corners)})')
               for kind, corners in boxes.items()]
    figure.legend(handles=handles, loc='lower center', ncols=len(handles), fontsize=9,
                  bbox_to_anchor=(middle / figure.get_figwidth(), 0), facecolor=GROUND,
                  labelcolor='white', framealpha=1)
