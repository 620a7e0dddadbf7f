"""Collect the scores of the windows of a Swin, and what running them is worth."""
from typing import List, Sequence

import torch
from torch import nn

from ..selection.importance import TOKEN_SCORES
from ..selection.ranking import score_windows, valid_windows
from ..selection.worth import Seen, StageWorth
from ..windows import partition


class WindowWatch:
    """Watches dense passes of a SparseSwinTransformer.

    Windows are those of the plain partition. They are scored on the input features of the stage.

    Args:
        stages: Stages of the backbone.
        scores: Names of the scores.
    """

    def __init__(self, stages: Sequence[nn.Module], scores: Sequence[str]):
        self.stages, self.scores = stages, scores
        self.watches = [StageWorth(stage) for stage in stages]

    @torch.no_grad()
    def take(self) -> List[Seen]:
        """Return the values of the last pass, one entry per stage, and clear them."""
        seen = []
        for index, (stage, watch) in enumerate(zip(self.stages, self.watches)):
            last = watch.last
            watch.clear()
            windows = partition(*last.info.hw_shape, stage.window_size, 0, last.x.device)
            inside = torch.ones(len(last.x), windows.num_windows, dtype=torch.bool)
            if last.info.sizes is not None:
                inside = valid_windows(windows, last.info.sizes).cpu()
            update, gain = (None if worth is None else score_windows(worth, windows).cpu()
                            for worth in (last.update, last.gain))
            scores = {name: score_windows(TOKEN_SCORES[name](last.x, last.info), windows).cpu()
                      for name in self.scores}
            seen.append(Seen(index, scores, inside, update, gain))
        return seen

    def close(self) -> None:
        for watch in self.watches:
            watch.close()
