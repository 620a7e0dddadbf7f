"""Temperature schedule of the token selector."""
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.registry import HOOKS

from ..models import get_sparse_backbone
from ..models.selection.importance import SELECTOR
from ..models.selection.selector import FIRST_TAU, LAST_TAU, TokenSelector


@HOOKS.register_module()
class TokenSelectorHook(Hook):
    """Hook that decreases the temperature of the Gumbel top-k linearly over the training (SViTE+;
    SViTE, NeurIPS 2021: from 10 to 0.1). The schedule depends on the iteration only, so a resumed
    training continues as if uninterrupted. The temperature is logged as ``tau``.

    Args:
        first: Temperature of the first iteration.
        last: Temperature of the last iteration.

    Raises:
        ValueError: If a temperature is not above 0, or it rises. Before training: if the backbone
            uses another importance score.
    """

    def __init__(self, first: float = FIRST_TAU, last: float = LAST_TAU):
        if not 0 < last <= first:
            raise ValueError(f'tau falls from {first} to {last}: both must be above 0, and it must '
                             f'not rise')
        self.first, self.last = first, last

    def before_train(self, runner) -> None:
        backbone = get_sparse_backbone(runner.model)
        importance = backbone.selection.importance
        if importance != SELECTOR:
            raise ValueError(f"TokenSelectorHook needs importance='selector', but the backbone has "
                             f'{importance!r}')
        self.selectors = [m for m in backbone.modules() if isinstance(m, TokenSelector)]

    def tau(self, iteration: int, max_iters: int) -> float:
        """Return the temperature of an iteration, counted from 0."""
        done = iteration / max(1, max_iters - 1)
        return self.first + (self.last - self.first) * done

    def before_train_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        tau = self.tau(runner.iter, runner.max_iters)
        for selector in self.selectors:
            selector.tau = tau
        runner.message_hub.update_scalar('train/tau', tau)
