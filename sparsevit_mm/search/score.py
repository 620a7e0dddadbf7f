"""The score that a search chooses windows by: one for all of a study."""
from dataclasses import replace
from typing import Callable, Optional

from mmengine.config import Config

from ..evaluation.scores.compare import (SPARSITIES, ScoreComparison, check_importance,
                                         compare_scores, usable_scores)
from .record import StudyRecord
from .request import AUTO, SearchRequest
from .splits import Evaluations


class SearchedScore:
    """The worker that begins a study settles it, and the others take it from there.

    Args:
        cfg: The config.
        request: What the user asks for.
        evaluations: Made of both.
        record: Of the study.

    Attributes:
        written: The score in force, for the winner's config; None before it is settled.

    Raises:
        ValueError: The study was begun under another score than the one asked for.
    """

    def __init__(self, cfg: Config, request: SearchRequest, evaluations: Evaluations,
                 record: StudyRecord):
        self.cfg, self.request, self.record = cfg, request, record
        self.evaluations, self.evaluator = evaluations, evaluations.evaluator
        self.own = self.evaluator.selection.importance
        self.written: Optional[str] = None
        self._compare(record.importance())

    def settle(self, metric: str, report: Callable[[str], None]) -> Optional[ScoreComparison]:
        """Puts the score in force, of the evaluator and its backbone.

        Args:
            metric: Key of the objective, which 'auto' chooses by.
            report: Called with what it evaluates next.

        Returns:
            What it chose by; None if the score was given.

        Raises:
            ValueError: As the class, where another worker began the study just now; the checkpoint
                can't run under the score; see :func:`~..evaluation.scores.compare.compare_scores`.
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
            raise ValueError(f'the study was made for another search:\n  importance: '
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
