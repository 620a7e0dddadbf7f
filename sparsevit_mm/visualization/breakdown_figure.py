"""Output of a breakdown as CSV and as figure."""
import csv
import math
from pathlib import Path
from typing import Optional

import matplotlib

matplotlib.use('Agg')  # noqa: E402 - works without a display
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from ..files import replacing
from .breakdown import Breakdown


def write_breakdown(path: Path, breakdown: Breakdown) -> None:
    """Write one CSV line per row, with empty cells for missing values."""
    quantities = [*breakdown.metrics, 'share run']
    with replacing(path) as partial, partial.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['group', 'name', 'count', 'unit', *(
            f'{name}, {label}' for name in quantities for label in breakdown.labels)])
        for row in breakdown.rows:
            values = [*(row.figures[name] for name in breakdown.metrics), row.shares]
            writer.writerow([row.group, row.name, row.count, row.unit, *(
                _text(value) for group in values for value in group)])


def _text(value: Optional[float]) -> str:
    return '' if value is None else f'{value:.6g}'


def draw_breakdown(path: Path, breakdown: Breakdown, title: str) -> None:
    """Draw a breakdown as PNG: one bar panel per metric, with a row for each part of the data that
    is not empty, and a panel of the shares that ran, where a dashed line marks the whole image.

    Args:
        path: Path of the PNG.
        breakdown: Breakdown to draw.
        title: Title of the figure.
    """
    *rows, whole = breakdown.rows
    rows = [row for row in rows if row.count]
    num_bars, num_panels = len(breakdown.labels), len(breakdown.metrics) + 1
    colors = ['0.65', *(f'C{i}' for i in range(num_bars - 1))]
    figure, panels = plt.subplots(
        1, num_panels, sharey=True, constrained_layout=True,
        figsize=(2 + 3 * num_panels, 1.5 + (.1 + .1 * num_bars) * len(rows)))
    width = .8 / num_bars
    for i, (label, color) in enumerate(zip(breakdown.labels, colors)):
        heights = [y + (i + .5) * width - .4 for y in range(len(rows))]
        for axes, name in zip(panels, breakdown.metrics):
            axes.barh(heights, [row.figures[name][i] or 0 for row in rows], width, color=color,
                      label=label)
        if i == 0:  # dense: everything ran
            continue
        shares = [math.nan if row.shares[i] is None else row.shares[i] for row in rows]
        panels[-1].axvline(whole.shares[i], color=color, linestyle='--', linewidth=1)
        panels[-1].hlines(heights, whole.shares[i], shares, color=color, linewidth=1)
        panels[-1].plot(shares, heights, 'o', color=color, markersize=4)
    for axes, name in zip(panels, breakdown.metrics):
        axes.set_xlim(left=0)
        axes.set_xlabel(name)
    panels[-1].set_xlim(0, 1.02)
    panels[-1].xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    panels[-1].set_xlabel('share of the area that ran\n(dashed: whole image)')
    panels[0].set_yticks(range(len(rows)),
                         [f'{row.name} ({row.count:,})' for row in rows], fontsize=8)
    panels[0].set_ylabel(f'({rows[0].unit})')
    panels[0].set_ylim(len(rows) - .5, -.5)
    for axes in panels:
        _grid(axes, [i - .5 for i in range(1, len(rows)) if rows[i].group != rows[i - 1].group])
    figure.legend(*panels[0].get_legend_handles_labels(), loc='upper right', frameon=False,
                  ncol=num_bars, fontsize=8)
    figure.suptitle(title, fontsize=10, x=.01, ha='left')
    with replacing(path) as partial:
        figure.savefig(partial, dpi=130)
    plt.close(figure)


def _grid(axes: Axes, borders) -> None:
    for y in borders:
        axes.axhline(y, color='0.3', linewidth=.8)
    axes.grid(axis='x', alpha=.3)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(axis='y', length=0)
