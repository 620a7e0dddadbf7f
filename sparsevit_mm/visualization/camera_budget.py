"""Distribution of the window budget over the cameras of a car, frame by frame."""
from typing import Dict, List, NamedTuple, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .camera_panel import GROUND_TRUTH, NEAR, View
from .overlay import DPI, pixels_of

WIDTH, HEIGHT = 10., 6.  # inches


class Budget(NamedTuple):
    """Window budget of one frame.

    Attributes:
        shares: Camera -> its share of what ran, averaged over the stages, as the stages of a Swin
            cost about the same. The shares sum to 1.
        objects: Camera -> number of ground-truth boxes whose centre it sees; empty without ground
            truth.
    """
    shares: Dict[str, float]
    objects: Dict[str, int]


def budget_of(views: Sequence[View], boxes: Dict[str, np.ndarray]) -> Budget:
    """Compute the budget of one frame. For the arguments see
    :func:`~.camera_panel.draw_frame`."""
    ran = np.array([[stage.run.sum() for stage in view.stages] for view in views], float)
    shares = (ran / ran.sum(0)).mean(1)
    names = [view.camera for view in views]
    objects = {}
    if GROUND_TRUTH in boxes:
        middles = boxes[GROUND_TRUTH].mean(1)
        objects = {view.camera: _seen(middles, view) for view in views}
    return Budget(dict(zip(names, shares.tolist())), objects)


def _seen(points: np.ndarray, view: View) -> int:
    """Count how many of (N, 3) points in the LiDAR frame lie in the image."""
    u, v, depth = (points @ view.lidar2img[:, :3].T + view.lidar2img[:, 3]).T
    height, width = view.image.shape[:2]
    with np.errstate(divide='ignore', invalid='ignore'):
        inside = (np.abs(u / depth - width / 2) <= width / 2) & (
            np.abs(v / depth - height / 2) <= height / 2)
    return int((inside & (depth > NEAR)).sum())


def draw_budgets(budgets: Sequence[Budget], title: str) -> np.ndarray:
    """Plot each camera's share of the windows over the frames, and below it the number of objects
    in its view if all frames have ground truth.

    Returns:
        (h, w, 3) uint8, RGB.
    """
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout='constrained')
    known = all(budget.objects for budget in budgets)
    axes = np.atleast_1d(figure.subplots(1 + known, 1, sharex=True))
    cameras = list(budgets[0].shares)
    lines = [[[budget.shares[c] for budget in budgets] for c in cameras]]
    if known:
        lines.append([[budget.objects[c] for budget in budgets] for c in cameras])
    for ax, of_cameras in zip(axes, lines):
        for camera, line in zip(cameras, of_cameras):
            ax.plot(line, marker='.', linewidth=1.2, label=camera)
        ax.grid(alpha=.3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].axhline(1 / len(cameras), color='0.3', linestyle='--', linewidth=1)
    axes[0].set_ylabel('share of the windows that ran')
    axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0].yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
    figure.suptitle(title, fontsize=11)
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside lower center',
                  ncols=len(cameras), fontsize=8, frameon=False)
    if known:
        axes[1].set_ylabel('objects in view')
        axes[1].yaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1].set_xlabel('frame')
    return pixels_of(figure)


def correlation(budgets: Sequence[Budget]) -> float:
    """Compute Pearson's correlation of share and number of objects over all cameras and frames; NaN
    without ground truth or if either is constant."""
    pairs: List[Sequence[float]] = [(b.shares[c], b.objects[c]) for b in budgets for c in b.objects]
    if not pairs or not np.ptp(pairs, axis=0).all():
        return float('nan')
    return float(np.corrcoef(np.array(pairs).T)[0, 1])
