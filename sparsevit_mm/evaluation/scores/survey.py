"""What the scores say of windows, beside what running these adds to the features and to the task.
"""
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.model import BaseModel
from scipy.stats import spearmanr

from ...models import SparseSwinTransformer
from ...models.selection.importance import TOKEN_SCORES
from ...models.selection.ranking import score_windows, valid_windows
from ...models.selection.worth import StageWorth
from ...models.windows import partition

FEWEST = 3  # windows of an image, for a rank correlation


@dataclass
class StageRow:
    """A score in a stage; means over images, None where no image gives a figure.

    Attributes:
        stage: Index.
        score: Name.
        spread: Coefficient of variation of the score over the windows of an image.
        update: Rank correlation, within an image, of a window's score with the norm of what the
            stage's blocks add to its tokens.
        gain: Likewise with that norm times the norm of the loss's gradient there.
    """
    stage: int
    score: str
    spread: Optional[float]
    update: Optional[float]
    gain: Optional[float]


class ScoreSurvey:
    """Takes in dense passes of a backbone. Use it as a context.

    Windows are those of the plain partition, less those that lie wholly in padding.

    Args:
        backbone: In eval mode.
        scores: Names.
    """

    def __init__(self, backbone: SparseSwinTransformer, scores: Sequence[str]):
        self.backbone, self.scores = backbone, list(scores)
        self._cells: Dict[Tuple[int, str], List[List[float]]] = {
            (stage, score): [[], [], []]
            for stage in range(len(backbone.stages)) for score in self.scores}

    def __enter__(self) -> 'ScoreSurvey':
        self._watches = [StageWorth(stage) for stage in self.backbone.stages]
        self.backbone.watched = True
        # Recordings run no hooks.
        self._executor, self.backbone._executor = self.backbone._executor, None
        return self

    def __exit__(self, *_) -> None:
        self.backbone._executor, self.backbone.watched = self._executor, False
        for watch in self._watches:
            watch.close()

    @torch.no_grad()
    def take(self) -> None:
        """Takes in the last pass, after its backward pass if there is one."""
        for index, (stage, watch) in enumerate(zip(self.backbone.stages, self._watches)):
            last = watch.last
            watch.clear()
            windows = partition(*last.info.hw_shape, stage.window_size, 0, last.x.device)
            inside = torch.ones(len(last.x), windows.num_windows, dtype=torch.bool)
            if last.info.sizes is not None:
                inside = valid_windows(windows, last.info.sizes).cpu()
            update, gain = (None if worth is None else score_windows(worth, windows).cpu()
                            for worth in (last.update, last.gain))
            for name in self.scores:
                score = score_windows(TOKEN_SCORES[name](last.x, last.info), windows).cpu()
                for image, which in enumerate(inside):
                    self._add(index, name, *(
                        None if values is None else values[image][which].double().numpy()
                        for values in (score, update, gain)))

    def _add(self, stage: int, name: str, score: np.ndarray, update: Optional[np.ndarray],
             gain: Optional[np.ndarray]) -> None:
        spreads, *correlations = self._cells[stage, name]
        if len(score) > 1 and score.mean() > 0:
            spreads.append(float(score.std() / score.mean()))
        for values, worth in zip(correlations, (update, gain)):
            if worth is not None and len(score) >= FEWEST and np.ptp(score) and np.ptp(worth):
                values.append(float(spearmanr(score, worth).statistic))

    def rows(self) -> List[StageRow]:
        """By stage, then by score."""
        return [StageRow(stage, score, *(float(np.mean(v)) if v else None for v in values))
                for (stage, score), values in self._cells.items()]


def survey(model: BaseModel, backbone: SparseSwinTransformer, scores: Sequence[str],
           batches: Iterable, with_loss: bool) -> List[StageRow]:
    """Runs a model dense, in eval mode.

    Args:
        model: Of any toolkit.
        backbone: Its own.
        scores: Names.
        batches: As its data loader gives them.
        with_loss: Whether to compute the loss and its gradients; the batches then need labels.

    Raises:
        Exception: Of many kinds, by model and pipeline, where the loss lacks what it needs.
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
    model.training = True  # its own flag: DINO and its like compute the loss only then
    with torch.enable_grad():
        data = model.data_preprocessor(batch, True)  # which pads the labels too
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
