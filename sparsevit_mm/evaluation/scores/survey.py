"""Correlation of the scores of windows or tokens with the effect of running these on the features
and the loss."""
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.model import BaseModel
from scipy.stats import spearmanr

from ...models import SparseBackbone

FEWEST = 3  # windows or tokens per image needed for a rank correlation


@dataclass
class StageRow:
    """Statistics of a score in a stage: means over images, None if undefined for all images.

    Attributes:
        stage: Index of the stage.
        score: Name of the score.
        spread: Coefficient of variation of the score over the windows or tokens of an image.
        update: Rank correlation, within an image, of the score of a window or token with the norm
            of the update that the stage's blocks add to it. For a ViT that selects before each
            layer, the mean of the correlations of the layers.
        gain: The same with this norm times the norm of the loss's gradient at that place.
    """
    stage: int
    score: str
    spread: Optional[float]
    update: Optional[float]
    gain: Optional[float]


class ScoreSurvey:
    """Context manager that collects statistics of scores from dense passes of a backbone.

    Windows or tokens that lie entirely in padding are ignored. See
    :meth:`~sparsevit_mm.models.interface.SparseBackbone.watching`.

    Args:
        backbone: Backbone in eval mode.
        scores: Names of the scores.
    """

    def __init__(self, backbone: SparseBackbone, scores: Sequence[str]):
        self.backbone, self.scores = backbone, list(scores)
        self._cells: Dict[Tuple[int, str], List[List[float]]] = {
            (stage, score): [[], [], []]
            for stage in range(len(backbone.depths)) for score in self.scores}

    def __enter__(self) -> 'ScoreSurvey':
        self._context = self.backbone.watching(self.scores)
        self._last = self._context.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._context.__exit__(*error)

    @torch.no_grad()
    def take(self) -> None:
        """Add the last pass. Call it after the backward pass if there is one."""
        for seen in self._last():
            for name, scores in seen.scores.items():
                for image, which in enumerate(seen.inside):
                    self._add(seen.stage, name, *(
                        None if values is None else values[image][which].double().numpy()
                        for values in (scores, seen.update, seen.gain)))

    def _add(self, stage: int, name: str, score: np.ndarray, update: Optional[np.ndarray],
             gain: Optional[np.ndarray]) -> None:
        spreads, *correlations = self._cells[stage, name]
        if len(score) > 1 and score.mean() > 0:
            spreads.append(float(score.std() / score.mean()))
        for values, worth in zip(correlations, (update, gain)):
            if worth is not None and len(score) >= FEWEST and np.ptp(score) and np.ptp(worth):
                values.append(float(spearmanr(score, worth).statistic))

    def rows(self) -> List[StageRow]:
        """Return the statistics ordered by stage, then by score."""
        return [StageRow(stage, score, *(float(np.mean(v)) if v else None for v in values))
                for (stage, score), values in self._cells.items()]


def survey(model: BaseModel, backbone: SparseBackbone, scores: Sequence[str],
           batches: Iterable, with_loss: bool) -> List[StageRow]:
    """Run a model dense in eval mode and return statistics of its scores.

    Args:
        model: Model of any toolkit.
        backbone: Its sparse backbone.
        scores: Names of the scores.
        batches: Batches from the data loader.
        with_loss: Whether to compute the loss and its gradients. The batches then need labels.

    Raises:
        Exception: If the loss cannot be computed. The type depends on the model and the pipeline.
    """
    sparsity, backbone.sparsity = backbone.sparsity, 0.
    model.eval()
    try:
        with ScoreSurvey(backbone, scores) as seen, _without_gradients_of(model):
            for batch in batches:
                if with_loss:
                    _differentiate(model, batch)
                else:
                    with torch.no_grad():
                        model.val_step(batch)
                seen.take()
        return seen.rows()
    finally:
        backbone.sparsity = sparsity
        model.eval()


def _differentiate(model: BaseModel, batch) -> None:
    model.training = True  # this flag only: DINO and others compute losses only in train mode
    with torch.enable_grad():
        data = model.data_preprocessor(batch, True)  # training mode also pads the labels
        losses = model(**data, mode='loss')
        model.parse_losses(losses)[0].backward()


@contextmanager
def _without_gradients_of(model: BaseModel) -> Iterator[None]:
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
