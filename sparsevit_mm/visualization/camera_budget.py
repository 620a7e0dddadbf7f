"""How a budget of windows moves between the cameras of a car, frame by frame."""
from typing import Dict, List, NamedTuple, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .camera_panel import GROUND_TRUTH, NEAR, View
from .overlay import DPI, pixels_of

WIDTH, HEIGHT = 10., 6.  # inches


class Budget(NamedTuple):
    """Of one frame.

    Attributes:
        shares: Camera -> its share of what ran, the mean over stages; they sum to 1. Stages of a
            Swin cost about the same.
        objects: Camera -> ground-truth boxes whose middle it sees; empty without ground truth.
    """
    shares: Dict[str, float]
    objects: Dict[str, int]


def budget_of(views: Sequence[View], boxes: Dict[str, np.ndarray]) -> Budget:
    """See :func:`~.camera_panel.draw_frame` for the arguments."""
    ran = np.array([[stage.run.sum() for stage in view.stages] for view in views], float)
    shares = (ran / ran.sum(0)).mean(1)
    names = [view.camera for view in views]
    objects = {}
    if GROUND_TRUTH in boxes:
        middles = boxes[GROUND_TRUTH].mean(1)
        objects = {view.camera: _seen(middles, view) for view in views}
    return Budget(dict(zip(names, shares.tolist())), objects)


def _seen(points: np.ndarray, view: View) -> int:
    """How many of (N, 3) points of the LiDAR frame lie in the image."""
    u, v, depth = (points @ view.lidar2img[:, :3].T + view.lidar2img[:, 3]).T
    height, width = view.image.shape[:2]
    with np.errstate(divide='ignore', invalid='ignore'):
        inside = (np.abs(u / depth - width / 2) <= width / 2) & (
            np.abs(v / depth - height / 2) <= height / 2)
    return int((inside & (depth > NEAR)).sum())


def draw_budgets(budgets: Sequence[Budget], title: str) -> np.ndarray:
    """A line for each camera: its share of the windows over the frames, and below it the objects
    that it sees, where they are known.

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
    """Pearson's, of share and objects over all cameras and frames; NaN where either is constant."""
    pairs: List[Sequence[float]] = [(b.shares[c], b.objects[c]) for b in budgets for c in b.objects]
    if not pairs or not np.ptp(pairs, axis=0).all():
        return float('nan')
    return float(np.corrcoef(np.array(pairs).T)[0, 1])
