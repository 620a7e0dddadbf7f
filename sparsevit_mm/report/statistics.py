"""Figures of a search that need computing: importances and progress."""
from typing import Dict, List, Sequence, Tuple

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.importance import MeanDecreaseImpurityImportanceEvaluator, get_param_importances

from ..evaluation.intervals import difference, interval
from ..operating_point import short_names
from ..search.candidates import Candidate
from ..search.summary import Finalist, Summary

FEWEST = 20  # evaluations, for importances that say something

Point = Tuple[float, float]


def importances(candidates: Sequence[Candidate]) -> Dict[str, List[float]]:
    """How much of the metric's variation among candidates goes with the ratio of each pair, and
    with each knob.

    Optuna's mean decrease in impurity (of a random forest, scikit-learn's): what it gives the
    pairs of a stage may be added up. Optuna's default, PED-ANOVA, looks at each pair alone; a
    stage of nine pairs that move together would count nine times.

    Args:
        candidates: Those with a metric are used.

    Returns:
        'stage N' -> one share per (plain, shifted) pair, and the end of a knob's name -> its share;
        all of them add up to 1.

    Raises:
        ValueError: Fewer than 20 were evaluated, or all have the same metric.
        ImportError: scikit-learn is not installed.
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
    """Area between the front of (latency, metric) points and a corner that all of them beat: the
    hypervolume of two objectives."""
    area, reached = 0., corner[1]
    for latency, metric in sorted(points, key=lambda p: (p[0], -p[1])):
        if metric > reached:
            area += (corner[0] - latency) * (metric - reached)
            reached = metric
    return area


def progress(candidates: Sequence[Candidate], pareto: bool) -> List[float]:
    """How far the search had come with each candidate: the best metric so far, or, of a Pareto
    search, the area under the front as share of what it is at the end.

    Args:
        candidates: Evaluated ones, in the order of evaluation.
        pareto: Which of both.
    """
    if not pareto:
        return np.maximum.accumulate([c.metric for c in candidates]).tolist()
    points = [(c.latency, c.metric) for c in candidates]
    corner = max(p[0] for p in points), min(p[1] for p in points)
    areas = [front_area(points[:i + 1], corner) for i in range(len(points))]
    return [area / areas[-1] if areas[-1] else 1. for area in areas]


def less_dense(summary: Summary, finalist: Finalist) -> str:
    """The finalist's metric less the dense model's, with the 95% interval where the evaluator can
    be resampled; by the best evidence there is."""
    one, other = summary.resampled_of(finalist), summary.dense_resampled
    if one is None or other is None:
        return f'{summary.metric_of(finalist) - summary.dense_metric:+.4f}'
    return difference(one, other).text('+.4f')


def less_dense_heading(summary: Summary) -> str:
    """Heading of :func:`less_dense`, which names what was drawn: scenes, blocks or images."""
    resampled = summary.dense_resampled
    if resampled is None:
        return 'less dense'
    unit = interval(resampled).unit
    return f'less dense (95% over {unit})' if unit else 'less dense (95%)'


def backbone_alone(finalist: Finalist) -> List[str]:
    """Latency of the backbone without the rest of the model, where both were measured: one cell of
    a table, or none."""
    if finalist.backbone is None:
        return []
    sparse, dense = finalist.backbone
    return [f'{sparse:.1f} of {dense:.1f} ms']
