"""Statistics of a search: importances, progress, and differences to the dense model."""
from typing import Dict, List, Sequence, Tuple

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.importance import MeanDecreaseImpurityImportanceEvaluator, get_param_importances

from ..evaluation.intervals import difference, interval
from ..operating_point import short_names
from ..search.candidates import Candidate
from ..search.summary import Finalist, Summary

FEWEST = 20  # evaluations needed for meaningful importances

Point = Tuple[float, float]


def importances(candidates: Sequence[Candidate]) -> Dict[str, List[float]]:
    """Compute how much of the metric's variation each pair of blocks and each knob explains.

    Uses Optuna's mean decrease in impurity (a scikit-learn random forest), whose shares may be
    summed over the pairs of a stage. Optuna's default, PED-ANOVA, rates each pair on its own, so a
    stage of nine correlated pairs would count nine times.

    Args:
        candidates: Candidates; those without a metric are ignored.

    Returns:
        'stage N' -> one share per (plain, shifted) pair, and short name of each knob -> [share].
        All shares add up to 1.

    Raises:
        ValueError: If fewer than 20 candidates were evaluated, or all have the same metric.
        ImportError: If scikit-learn is not installed.
    """
    candidates = [c for c in candidates if c.metric is not None]
    if len(candidates) < FEWEST:
        raise ValueError(f'{len(candidates)} evaluated candidates are too few, '
                         f'{FEWEST} are needed')
    if len({c.metric for c in candidates}) == 1:
        raise ValueError('all evaluated candidates have the same metric')
    study = optuna.create_study(direction='maximize', storage=None)
    values: Dict[str, List] = {}
    for name, value in (knob for c in candidates for knob in c.config.knobs):
        if value not in values.setdefault(name, []):
            values[name].append(value)
    for candidate in candidates:
        params = {f'stage {stage}, {pair}': ratio
                  for stage, ratios in enumerate(candidate.config.ratios)
                  for pair, ratio in enumerate(ratios[::2])}
        space = dict.fromkeys(params, FloatDistribution(0., 1.))
        for name, value in candidate.config.knobs:
            params[name], space[name] = value, CategoricalDistribution(values[name])
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space,
                                                  value=candidate.metric))
    given = get_param_importances(study, evaluator=MeanDecreaseImpurityImportanceEvaluator(seed=0))
    shares: Dict[str, List[float]] = {}
    short = short_names(list(values))
    for name in params:
        shares.setdefault(short.get(name) or name.rpartition(', ')[0], []).append(
            given.get(name, 0.))
    return shares


def front_area(points: Sequence[Point], corner: Point) -> float:
    """Compute the hypervolume of (latency, metric) points: the area between their front and a
    reference point `corner` that none of them is worse than."""
    area, reached = 0., corner[1]
    for latency, metric in sorted(points, key=lambda p: (p[0], -p[1])):
        if metric > reached:
            area += (corner[0] - latency) * (metric - reached)
            reached = metric
    return area


def progress(candidates: Sequence[Candidate], pareto: bool) -> List[float]:
    """Compute the progress of a search after each candidate.

    Args:
        candidates: Evaluated candidates, in the order of evaluation.
        pareto: Whether to return the area under the front as a share of its final value, instead
            of the best metric so far.
    """
    if not pareto:
        return np.maximum.accumulate([c.metric for c in candidates]).tolist()
    points = [(c.latency, c.metric) for c in candidates]
    corner = max(p[0] for p in points), min(p[1] for p in points)
    areas = [front_area(points[:i + 1], corner) for i in range(len(points))]
    return [area / areas[-1] if areas[-1] else 1. for area in areas]


def less_dense(summary: Summary, finalist: Finalist) -> str:
    """Format the finalist's metric minus the dense model's, with its 95% confidence interval if
    there are bootstrap resamples. Uses all of val where it was evaluated."""
    one, other = summary.resampled_of(finalist), summary.dense_resampled
    if one is None or other is None:
        return f'{summary.metric_of(finalist) - summary.dense_metric:+.4f}'
    return difference(one, other).text('+.4f')


def less_dense_heading(summary: Summary) -> str:
    """Return the column heading of :func:`less_dense`, with the resampled unit: scenes, blocks or
    images."""
    resampled = summary.dense_resampled
    if resampled is None:
        return 'vs dense'
    unit = interval(resampled).unit
    return f'vs dense (95% CI over {unit})' if unit else 'vs dense (95% CI)'


def backbone_alone(finalist: Finalist) -> List[str]:
    """Return a table cell with the latency of the backbone alone, sparse and dense; an empty list
    if it was not measured."""
    if finalist.backbone is None:
        return []
    sparse, dense = finalist.backbone
    return [f'{sparse:.1f} of {dense:.1f} ms']
