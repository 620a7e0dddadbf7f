"""Output files of a finished search: winning configs, Pareto front, and manifest."""
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Mapping, Optional

import mmcv
import mmengine
import torch
from mmengine.config import Config

from ..config.export import export_config
from ..cost.latency import LatencySetting
from ..evaluation.scores.compare import ScoreComparison
from ..files import absolute, replacing, way_to
from ..budget import Front, FrontPoint
from ..version import __version__
from .limits import Limits
from .request import SearchRequest
from .store.urls import shown
from .study import SparsitySearch
from .summary import Finalist, Summary

MANIFEST, FRONT = 'search.json', 'front.json'


@dataclass(frozen=True)
class SearchResult:
    """Result of a search.

    Attributes:
        summary: Record of the study: dense model, candidates and finalists. The first finalist is
            the winner; a Pareto search has one finalist per point.
        limits: Limits in milliseconds.
        setting: Setting in which latency was measured.
        configs: Mapping of finalist name to the path of its config.
        work_dir: Directory of candidates.csv and the other output files.
        score_check: Comparison by which ``importance='auto'`` chose the score, else None.
        spent: Seconds that this worker spent on candidates before the final evaluation: 'all', and
            thereof 'evaluation' by the toolkit and 'latency' measurement.
    """
    summary: Summary
    limits: Limits
    setting: LatencySetting
    configs: Dict[str, Path]
    work_dir: Path
    score_check: Optional[ScoreComparison] = None
    spent: Mapping[str, float] = field(default_factory=dict)

    @property
    def winner(self) -> Finalist:
        return self.summary.finalists[0]


def write_manifest(work_dir: Path, request: SearchRequest, study: str, end: str) -> None:
    """Write search.json, which tells tools where the study is and which final evaluation to read.

    Passwords and other secrets in the storage URL are masked.
    """
    text = json.dumps({
        'storage': shown(request.storage),
        'study': study,
        'end': end,
        'config': absolute(request.config) if '::' not in request.config else
        request.config,
        'checkpoint': request.checkpoint if '://' in request.checkpoint else
        absolute(request.checkpoint),
        'winners': {name: way_to(path, work_dir)
                    for name, path in request.winners().items()},
        'options': request.options,
        'table': request.table and absolute(request.table),
    }, indent=2, default=str)
    with replacing(work_dir / MANIFEST) as partial:
        partial.write_text(text + '\n', encoding='utf-8')


def write_front(work_dir: Path, summary: Summary, setting: Dict, weights: List[float]) -> None:
    """Write front.json, the Pareto front for ``set_latency_budget``.

    It contains only candidates that were judged again in a final evaluation, with those results.

    Args:
        work_dir: Directory to write to.
        summary: Record of the study.
        setting: Identity of the latency setting.
        weights: Fingerprint of the backbone's weights.
    """
    points = [FrontPoint(f.candidate.config, f.measured, summary.metric_of(f))
              for f in summary.judged
              if (f.full is None) == (summary.dense_full is None)
              and math.isfinite(summary.metric_of(f))]
    Front(points, summary.metric, setting, summary.identity['checkpoint'],
          weights).save(work_dir / FRONT)


def write_winners(cfg: Config, request: SearchRequest, search: SparsitySearch,
                  summary: Summary, importance: Optional[str] = None) -> None:
    """Write a config for the winner, or for each point of a Pareto search.

    Args:
        cfg: Config of the whole model.
        request: Settings of the search.
        search: The search.
        summary: Record of the study.
        importance: Importance score to set in the configs; None leaves it unchanged.
    """
    finalists = {f.name: f for f in summary.finalists}
    for name, path in request.winners().items():
        finalist = finalists[name]
        export_config(cfg, request.config, request.options, finalist.candidate.config,
                      request.checkpoint, path,
                      provenance(request, search, summary, finalist, importance), finalist.scope,
                      importance)


def provenance(request: SearchRequest, search: SparsitySearch, summary: Summary,
               finalist: Finalist, importance: Optional[str] = None) -> List[str]:
    """Return the provenance of a winning config as comment lines."""
    candidate = finalist.candidate
    metric, dense = summary.metric, summary.dense
    now = summary.dense_latency
    samples = 'all of val' if request.num_samples is None else (
        f'{request.num_samples} images of val (seed {request.seed})')
    lines = [
        'Found by tools/search_sparsity.py; train.py fine-tunes it, test.py tests it.',
        f'{metric} {candidate.metric:.4g} on {samples}, dense {dense.metric:.4g}',
        f'{request.setting.of} latency {finalist.measured:.2f} ms, dense {now:.2f} ms; '
        f'{"predicted by a table" if request.table else "in the search"}: '
        f'{candidate.latency:.2f} ms',
        f'measured at {request.setting}; evaluated in {request.evaluated_in}',
        f'backbone {candidate.macs / 1e9:.3f} GMACs, dense {dense.macs / 1e9:.3f}',
        f'study {search.study.study_name} in {shown(request.storage)}, trial {candidate.trial}; '
        f'{search.num_evaluated} evaluated, sampler {request.sampler}, seed {request.seed}',
        f'sparsevit_mm {__version__}, torch {torch.__version__}, mmengine '
        f'{mmengine.__version__}, mmcv {mmcv.__version__}',
    ]
    if importance is not None:
        lines.insert(1, f'searched under importance={importance!r}')
    if finalist.full is not None:
        lines.insert(2, f'{metric} {summary.metric_of(finalist):.4g} on all of val, dense '
                        f'{summary.dense_metric:.4g}')
    if finalist.scope is not None:
        lines.insert(2, f'in scope {finalist.scope!r}, better than in the one that was searched')
    if finalist.point is not None:
        lines.insert(1, f'the best that takes {finalist.point:.2f} ms at most')
    return lines
