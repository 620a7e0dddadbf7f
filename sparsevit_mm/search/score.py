"""Importance score that ranks windows or tokens, the same throughout a study."""
from dataclasses import replace
from typing import Callable, Optional

from mmengine.config import Config

from ..evaluation.scores.compare import (SPARSITIES, ScoreComparison, check_importance,
                                         compare_scores, usable_scores)
from .record import StudyRecord
from .request import AUTO, SearchRequest
from .splits import Evaluations


class SearchedScore:
    """Importance score of a study. The first worker determines it, the others read it.

    Args:
        cfg: Config of the whole model.
        request: Settings of the search.
        evaluations: Evaluations built from both.
        record: Record of the study.

    Attributes:
        own: The config's score.
        written: The score in use, which goes into the winning config; None before :meth:`settle`.

    Raises:
        ValueError: If the study uses another score than the requested one.
    """

    def __init__(self, cfg: Config, request: SearchRequest, evaluations: Evaluations,
                 record: StudyRecord):
        self.cfg, self.request, self.record = cfg, request, record
        self.evaluations, self.evaluator = evaluations, evaluations.evaluator
        self.own = self.evaluator.selection.importance
        self.written: Optional[str] = None
        self._compare(record.importance())

    def settle(self, metric: str, report: Callable[[str], None]) -> Optional[ScoreComparison]:
        """Determine the score and set it in the evaluator and its backbone.

        Args:
            metric: Key of the metric that 'auto' compares the scores by.
            report: Callback that receives a description of each evaluation before it starts.

        Returns:
            The comparison that 'auto' chose by; None if the score was given.

        Raises:
            ValueError: If another worker has just stored another score, if the backbone does not
                support the score or the checkpoint lacks its weights, or see
                :func:`~..evaluation.scores.compare.compare_scores`.
        """
        held = self.record.importance(lambda: self._decide(metric, report))
        self._compare(held)
        name = held['name']
        check_importance(name, self.cfg, self.request.checkpoint, self.evaluator.backbone)
        self.written = name
        selection = replace(self.evaluator.selection, importance=name)
        self.evaluator.selection = self.evaluator.backbone.selection = selection
        check = held.get('check')
        return check and ScoreComparison.from_json(check)

    def _compare(self, held: Optional[dict]) -> None:
        asked = self.request.importance
        if held is not None and asked not in (None, AUTO, held['name']):
            raise ValueError(f'the study belongs to a different search:\n  importance: '
                             f'{held["name"]} in the study, {asked} now')

    def _decide(self, metric: str, report: Callable[[str], None]) -> dict:
        asked = self.request.importance
        if asked != AUTO:
            return dict(name=asked or self.own)
        backbone = self.evaluator.backbone
        sparsities = [backbone.space.config(ratio) for ratio in SPARSITIES]
        scores = usable_scores(self.cfg, self.request.checkpoint, backbone)
        check = compare_scores(self.evaluator, self.evaluations.check, metric, sparsities, scores,
                               self.request.seed, report=report)
        return dict(name=check.choice, check=check.to_json())
