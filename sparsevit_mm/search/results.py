"""What a finished search leaves beside its study: winning configs with their provenance, the front,
and where the study is."""
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
    """What a search found.

    Attributes:
        summary: The study's record: dense, candidates, finalists; the first finalist is the winner,
            in a Pareto search there is one for each point.
        limits: In milliseconds.
        setting: In which latency was measured.
        configs: The configs written: name of the finalist -> file.
        work_dir: Where candidates.csv and all else is.
        score_check: What made ``importance='auto'`` choose; None of other searches.
        spent: Seconds that this worker spent on the candidates, before the end: in 'all', and of
            these on their 'evaluation' by the toolkit and on measuring their 'latency'.
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
    """Says where the study of a work directory is, and which of its ends the request asks for, for
    tools that read it. No password in it."""
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
    """The front of the search, for ``set_latency_budget``: of the candidates that were judged again
    at the end, with these figures alone. `weights` is the fingerprint of the backbone's."""
    points = [FrontPoint(f.candidate.config, f.measured, summary.metric_of(f))
              for f in summary.judged
              if (f.full is None) == (summary.dense_full is None)
              and math.isfinite(summary.metric_of(f))]
    Front(points, summary.metric, setting, summary.identity['checkpoint'],
          weights).save(work_dir / FRONT)


def write_winners(cfg: Config, request: SearchRequest, search: SparsitySearch,
                  summary: Summary, importance: Optional[str] = None) -> None:
    """A config for the winner, or for each point of a Pareto search; `importance` is the score it
    was searched under, if that is to be in it."""
    finalists = {f.name: f for f in summary.finalists}
    for name, path in request.winners().items():
        finalist = finalists[name]
        export_config(cfg, request.config, request.options, finalist.candidate.config,
                      request.checkpoint, path,
                      provenance(request, search, summary, finalist, importance), finalist.scope,
                      importance)


def provenance(request: SearchRequest, search: SparsitySearch, summary: Summary,
               finalist: Finalist, importance: Optional[str] = None) -> List[str]:
    """Where a config came from, as lines of comment."""
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
