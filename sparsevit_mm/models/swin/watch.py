"""What scores say of the windows of a Swin, and what these are worth."""
from typing import List, Sequence

import torch
from torch import nn

from ..selection.importance import TOKEN_SCORES
from ..selection.ranking import score_windows, valid_windows
from ..selection.worth import Seen, StageWorth
from ..windows import partition


class WindowWatch:
    """Watches dense passes of a SparseSwinTransformer. Windows are those of the plain partition,
    scored by the features that the stage was given.

    Args:
        stages: Of the backbone.
        scores: Names.
    """

    def __init__(self, stages: Sequence[nn.Module], scores: Sequence[str]):
        self.stages, self.scores = stages, scores
        self.watches = [StageWorth(stage) for stage in stages]

    @torch.no_grad()
    def take(self) -> List[Seen]:
        """One for each stage."""
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
