"""Figures of the search report."""
from typing import Dict, List, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..evaluation.intervals import interval
from ..search.candidates import EVALUATED, REJECTED, Candidate
from ..search.limits import Limits
from ..search.summary import Summary
from .source import Judged, SearchRecord
from .statistics import progress
from .svg import AMBER, BLUE, GREEN, INK, MUTED, PAPER, PINK, RED, SKY, WIDTH

SERIES = [(BLUE, 'o'), (RED, 's'), (GREEN, '^'), (PINK, 'D'), (AMBER, 'v'), (SKY, 'P')]
MOST_WORKERS = len(SERIES)
LATENCY = 'latency (ms)'


def draw_tradeoff(record: SearchRecord, alike: Sequence[Candidate]) -> Figure:
    """Plot metric over latency: candidates, front, references, dense model and finalists.

    Args:
        record: Record of the search.
        alike: Candidates within noise of the best.
    """
    summary = record.summary
    figure, (axes, ) = _figure(4.2)
    trials = {c.trial for c in alike}
    dots = [((c.latency, c.metric), c.trial in trials) for c in summary.evaluated]
    _dots(axes, [p for p, inside in dots if not inside], 'candidate', 'o', PAPER, MUTED, 4)
    _dots(axes, [p for p, inside in dots if inside], 'within noise of the best', 'o', SKY, BLUE, 5)
    front = [(c.latency, c.metric) for c in summary.front]
    if front:
        axes.plot(*zip(*front), color=BLUE, linewidth=1.4, label='front', zorder=2)
    for kind, label, marker, color in (('uniform', 'uniform ratio', '^', GREEN),
                                       ('resolution', 'dense, smaller images', 'D', PINK)):
        references = [r for r in summary.references if r.kind == kind]
        _dots(axes, [(r.latency, r.metric) for r in references], label, marker, color, color, 6,
              line=':')
        for r in references:
            axes.annotate(r.name, (r.latency, r.metric), xytext=(6, -4), va='top',
                          textcoords='offset points', fontsize='small', color=color,
                          annotation_clip=True,
                          bbox=dict(facecolor=PAPER, alpha=.7, linewidth=0, pad=.5))
    _with_interval(axes, summary.dense, summary.dense.latency, 'dense', 's', INK, 7)
    chosen = summary.finalists if record.pareto else summary.finalists[:1]
    for i, finalist in enumerate(chosen):
        name = 'chosen points' if record.pareto else 'winner'
        _with_interval(axes, finalist.candidate, finalist.measured, '' if i else name, '*', RED, 14)
    _limits(axes, record)
    _cut_off(axes, summary)
    axes.set_xlabel(LATENCY)
    axes.set_ylabel(short(summary.metric))
    _legend(figure, axes)
    return figure


def draw_ratios(record: SearchRecord, labels: Sequence[str]) -> Figure:
    """Plot the sparsity ratios of the finalists as a heat map, one column per pair of blocks.

    Args:
        record: Record of the search.
        labels: Row label of each finalist.
    """
    configs = [f.candidate.config for f in record.summary.finalists]
    pairs = [len(stage[::2]) for stage in configs[0].ratios]
    figure, (axes, ) = _figure(.75 + .32 * len(configs))
    colors, gap = matplotlib.colormaps['Blues'], .35
    starts = np.cumsum([0] + [count + gap for count in pairs[:-1]])
    for row, config in enumerate(configs):
        for start, stage in zip(starts, config.ratios):
            for pair, ratio in enumerate(stage[::2]):
                axes.add_patch(Rectangle((start + pair, row), .94, .88, linewidth=0,
                                         facecolor=colors(.06 + ratio)))
                axes.text(start + pair + .47, row + .45, f'{ratio:g}', ha='center', va='center',
                          color='#fdfdfd' if ratio > .5 else '#111111',
                          fontsize='small' if sum(pairs) < 13 else 'xx-small')
    axes.set_xlim(0, starts[-1] + pairs[-1])
    axes.set_ylim(len(configs), 0)
    axes.set_xticks(starts + np.array(pairs) / 2, [f'stage {i}' for i in range(len(pairs))])
    axes.set_yticks(np.arange(len(configs)) + .45, labels)
    axes.xaxis.tick_top()
    _bare(axes)
    return figure


def draw_importances(shares: Mapping[str, Sequence[float]]) -> Figure:
    """Plot one bar per stage, split into its pairs of blocks, and one per knob.

    Args:
        shares: Result of :func:`~.statistics.importances`.
    """
    figure, (axes, ) = _figure(.9 + .36 * len(shares))
    for stage, pairs in enumerate(shares.values()):
        lefts = np.cumsum([0, *pairs[:-1]])
        axes.barh([stage] * len(pairs), pairs, .62, lefts, color=BLUE, edgecolor=PAPER,
                  linewidth=1.2)
        axes.text(sum(pairs) + .01, stage, f'{sum(pairs):.0%}', va='center')
    axes.set_yticks(range(len(shares)), list(shares))
    axes.set_ylim(len(shares) - .5, -.5)
    axes.set_xlim(0, max(map(sum, shares.values())) * 1.12)
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.set_xlabel('share of the importance')
    axes.grid(axis='y', visible=False)
    axes.tick_params(axis='y', length=0)
    return figure


def draw_sensitivity(record: SearchRecord) -> Figure:
    """Plot the metric over ratio and over latency when one stage alone is pruned."""
    figure, (by_ratio, by_latency) = _figure(5.4, 2)
    dense = record.summary.dense
    stages: Dict[int, List] = {}
    for reference in record.summary.references:
        if reference.kind == 'stage':
            stages.setdefault(reference.stage, []).append(reference)
    for stage, references in sorted(stages.items()):
        color, marker = SERIES[stage % len(SERIES)]
        references.sort(key=lambda r: r.ratio)
        metrics = [dense.metric] + [r.metric for r in references]
        style = dict(color=color, marker=marker, markersize=5, label=f'stage {stage}')
        by_ratio.plot([0] + [r.ratio for r in references], metrics, **style)
        by_latency.plot([dense.latency] + [r.latency for r in references], metrics, **style)
    by_ratio.set_xlabel('ratio of the stage, others dense')
    by_latency.set_xlabel(LATENCY)
    for axes in (by_ratio, by_latency):
        axes.set_ylabel(short(record.summary.metric))
    _legend(figure, by_ratio)
    return figure


def draw_progress(record: SearchRecord) -> Figure:
    """Plot search progress over evaluations and over hours, coloured by worker if at most six."""
    judged = [j for j in record.judged if j.candidate.state in (EVALUATED, REJECTED)]
    reached = progress([j.candidate for j in judged], record.pareto)
    hours = hours_of(judged, record.judged[0])
    workers = list(dict.fromkeys(j.worker for j in record.judged))
    named = 1 < len(workers) <= MOST_WORKERS
    figure, panels = _figure(5.4, 2)
    for axes, places in zip(panels, (range(1, len(judged) + 1), hours)):
        axes.step(places, reached, where='post', color=INK, linewidth=1.4,
                  label='reached so far')
        for i, worker in enumerate(workers if named else ['all']):
            color, marker = SERIES[i]
            chosen = [k for k, j in enumerate(judged) if not named or j.worker == worker]
            heights = reached if record.pareto else [j.candidate.metric for j in judged]
            axes.plot([places[k] for k in chosen], [heights[k] for k in chosen], marker,
                      color=color, markersize=3.5, alpha=.75,
                      label=f'worker {i + 1}' if named else 'evaluation')
    panels[0].set_xlabel('evaluations')
    panels[0].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    panels[1].set_xlabel('hours since the first trial')
    panels[1].set_xlim(left=0)
    for axes in panels:
        axes.set_ylabel('area under the front' if record.pareto else short(record.summary.metric))
    _legend(figure, panels[0])
    return figure


def draw_check(record: SearchRecord) -> Figure:
    """Plot how much the latencies remeasured at the end differ from those of the search."""
    latencies = {c.trial: c.latency for c in record.summary.candidates}
    points = {trial: (latencies[trial], 100 * (again / latencies[trial] - 1))
              for trial, again in record.again.items()}
    winners = {f.candidate.trial for f in record.summary.finalists}
    figure, (axes, ) = _figure(2.9)
    axes.axhline(0, color=INK, linewidth=1)
    for label, color, marker, chosen in (
            ('finalist', RED, '*', winners), ('not chosen', MUTED, 'o', set(points) - winners)):
        _dots(axes, [points[t] for t in points if t in chosen], label, marker, color, color,
              11 if marker == '*' else 6)
    reach = 1.25 * max(1., *(abs(p[1]) for p in points.values()))
    axes.set_ylim(-reach, reach)
    axes.margins(x=.15)
    axes.yaxis.set_major_formatter('{x:+.3g}%')
    axes.set_xlabel(f'{LATENCY}, in the search')
    axes.set_ylabel('change when remeasured')
    _legend(figure, axes)
    return figure


def draw_first_look(candidates: Sequence[Candidate], metric: str) -> Figure:
    """Plot the metric of the full evaluation over that of the first look."""
    figure, (axes, ) = _figure(3.3)
    _dots(axes, [(c.first_look, c.metric) for c in candidates], '', 'o', SKY, BLUE, 5)
    axes.set_xlabel(f'{short(metric)}, first look')
    axes.set_ylabel(short(metric))
    return figure


def short(metric: str) -> str:
    """Return the last part of a metric's key."""
    return metric.rsplit('/', 1)[-1]


def hours_of(judged: Sequence[Judged], first: Judged) -> List[float]:
    """Return when each candidate ended, in hours since the start of `first`."""
    return [(j.end - first.start).total_seconds() / 3600 for j in judged]


def _figure(height: float, panels: int = 1):
    """Create a figure of vertically stacked panels."""
    figure = Figure(figsize=(WIDTH, height), layout='constrained')
    axes = figure.subplots(panels, 1, squeeze=False)
    return figure, list(axes.flat)


def _dots(axes: Axes, points, label: str, marker: str, color: str, edge: str, size: float,
          line: str = '') -> None:
    if points:
        axes.plot(*zip(*sorted(points)), linestyle=line, marker=marker, color=color,
                  markeredgecolor=edge, markersize=size, label=label, zorder=3)


def _with_interval(axes: Axes, candidate: Candidate, latency: float, label: str, marker: str,
                   color: str, size: float) -> None:
    _dots(axes, [(latency, candidate.metric)], label, marker, color, PAPER, size)
    if candidate.resampled is not None:
        around = interval(candidate.resampled)
        if around.known:
            axes.vlines(latency, around.low, around.high, color=color, linewidth=1.2, zorder=2)


def _cut_off(axes: Axes, summary: Summary) -> None:
    """Cut the y-axis below the candidates if references lie so far below that the candidates would
    be indistinguishable; arrows mark those references."""
    metrics = [summary.dense.metric, *(c.metric for c in summary.evaluated)]
    low, height = min(metrics), max(metrics) - min(metrics)
    floor = low - .25 * height
    deep = [r for r in summary.references if r.kind != 'stage' and r.metric < low - height]
    if deep:
        axes.set_ylim(bottom=floor)
    for r in deep:
        color = GREEN if r.kind == 'uniform' else PINK
        axes.plot(r.latency, .03, 'v', color=color, transform=axes.get_xaxis_transform())
        axes.annotate(f'{r.name}: {r.metric:.3g}', (r.latency, .03), xytext=(6, 0), color=color,
                      xycoords=axes.get_xaxis_transform(), textcoords='offset points',
                      va='center', fontsize='small')


def _limits(axes: Axes, record: SearchRecord) -> None:
    limits = limits_of(record)
    for value in (limits.min_latency, limits.max_latency):
        if 0 < value < float('inf'):
            axes.axvline(value, color=MUTED, linestyle='--', linewidth=1, zorder=1)


def limits_of(record: SearchRecord) -> Limits:
    """Return the limits of the search, in milliseconds."""
    identity = record.summary.identity
    values = {key: identity[key] for key in ('max_latency', 'min_latency', 'of_dense')
              if identity.get(key) is not None}
    return Limits(**values).resolve(record.summary.dense.latency)


def _legend(figure: Figure, axes: Axes) -> None:
    """Add a legend above the axes, clear of the data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper left', ncols=3, fontsize='small',
                  columnspacing=1.2, handletextpad=.5)


def _bare(axes: Axes) -> None:
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
