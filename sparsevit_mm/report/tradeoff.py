"""Figure of a search: metric over latency, with the dense model and the winner or front."""
import math
from pathlib import Path
from typing import Dict, Optional, Sequence, Tuple

import matplotlib

matplotlib.use('Agg')  # noqa: E402 - works without a display
import matplotlib.pyplot as plt

from ..files import replacing
from ..search.candidates import EVALUATED, OUTSIDE
from ..search.results import SearchResult

Point = Tuple[float, float]


def draw_tradeoff(path: Path,
                  candidates: Sequence[Point],
                  marked: Dict[str, Sequence[Point]],
                  metric: str,
                  setting: str,
                  limits: Sequence[float] = (),
                  rejected: Optional[Sequence[float]] = None) -> None:
    """Draw metric over latency as PNG.

    Args:
        path: Path of the PNG.
        candidates: (latency in ms, metric) of each evaluated candidate.
        marked: Label -> points; several points of one label are joined by a line.
        metric: Name of the metric.
        setting: Latency setting, shown on the axis.
        limits: Latency limits in ms, drawn as lines.
        rejected: Latencies in ms of candidates outside the limits, which have no metric.
    """
    figure, axes = plt.subplots(figsize=(7.5, 5), constrained_layout=True)
    if candidates:
        axes.scatter(*zip(*candidates), s=18, color='0.6', label='candidates', zorder=2)
    colors = plt.get_cmap('tab10').colors
    for (name, points), color, marker in zip(marked.items(), colors, 'os*D^v'):
        size = 13 if marker == '*' else 7
        axes.plot(*zip(*sorted(points)), marker=marker, markersize=size, color=color,
                  linewidth=1, label=name, zorder=3)
    for limit in limits:
        axes.axvline(limit, color='0.3', linestyle='--', linewidth=1, zorder=1)
    if rejected:
        axes.plot(rejected, [0.01] * len(rejected), '|', color='0.75', zorder=1,
                  transform=axes.get_xaxis_transform(), label='outside the limits')
    axes.set_xlabel(f'latency (ms)\n{setting}', fontsize=9)
    axes.set_ylabel(metric)
    axes.grid(alpha=.3)
    axes.legend(frameon=False)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150)
    plt.close(figure)


def draw_search(path: Path, result: SearchResult) -> None:
    """Draw the trade-off of a finished search as PNG."""
    summary, limits = result.summary, result.limits
    marked = {'dense': [(summary.dense.latency, summary.dense.metric)]}
    if summary.is_pareto:
        marked['front'] = [(c.latency, c.metric) for c in summary.front]
    else:
        marked['winner'] = [(result.winner.measured, result.winner.candidate.metric)]
    draw_tradeoff(
        path,
        candidates=[(c.latency, c.metric) for c in summary.candidates if c.state == EVALUATED],
        marked=marked,
        metric=summary.metric,
        setting=str(result.setting),
        limits=[limit for limit in (limits.min_latency, limits.max_latency)
                if 0 < limit < math.inf],
        rejected=[c.latency for c in summary.candidates if c.state == OUTSIDE and c.latency])
