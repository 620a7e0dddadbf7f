"""What a stage's blocks add to each token, and what the loss makes of it."""
from typing import Dict, NamedTuple, Optional

import torch
from torch import Tensor, nn

from .importance import MapInfo


class Seen(NamedTuple):
    """What scores say of the n windows or tokens of a stage, and what these are worth.

    Attributes:
        stage: Index.
        scores: (B, n) fp32 of each score.
        inside: (B, n) bool, false of those that lie wholly in padding.
        update: (B, n) fp32, the norm of what the blocks add to them.
        gain: (B, n) fp32, likewise times that of the loss's gradient; None without one.
    """
    stage: int
    scores: Dict[str, Tensor]
    inside: Tensor
    update: Tensor
    gain: Optional[Tensor]


class Pass:
    """A dense forward pass of a stage, and the backward pass after it.

    Attributes:
        x: (B, L, C), what the stage was given.
        info: Of its map.
        update: (B, L) fp32, the norm of what a block adds to a token, summed over the blocks.
        gain: (B, L) fp32, likewise, each norm times that of the loss's gradient after the block;
            None without a backward pass.
    """

    def __init__(self, x: Tensor, info: MapInfo):
        self.x, self.info = x, info
        self.update: Optional[Tensor] = None
        self.gain: Optional[Tensor] = None
        self._differentiates = False

    @property
    def worth(self) -> Optional[Tensor]:
        """`gain` of a pass that gradients were to follow, `update` of one without."""
        return self.gain if self._differentiates else self.update

    def add(self, before: Tensor, after: Tensor) -> None:
        """Takes in a block's (B, L, C), before and after it."""
        update = torch.linalg.vector_norm(after.detach().float() - before.detach().float(), dim=-1)
        self.update = _sum(self.update, update)
        if after.requires_grad:
            self._differentiates = True
            after.register_hook(lambda grad: self._on_gradient(grad, update))

    def _on_gradient(self, grad: Tensor, update: Tensor) -> None:
        self.gain = _sum(self.gain, torch.linalg.vector_norm(grad.float(), dim=-1) * update)


class StageWorth:
    """Watches a stage of an eager backbone.

    Args:
        stage: A SwinStage.

    Attributes:
        last: Its last pass; None before one, and after one that pruned.
    """

    def __init__(self, stage: nn.Module):
        self.handles = [stage.register_forward_pre_hook(self._on_stage)]
        self.handles += [block.register_forward_hook(self._on_block) for block in stage.blocks]
        self.clear()

    def clear(self) -> None:
        """Forgets the last pass."""
        self.last: Optional[Pass] = None

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _on_stage(self, stage: nn.Module, args: tuple) -> Optional[tuple]:
        x, hw_shape, ratios, _, batch = args
        self.clear()
        if any(ratios):
            return None
        self.last = Pass(x.detach(), stage.map_info(hw_shape, batch.sizes))
        if not torch.is_grad_enabled() or x.requires_grad:
            return None
        # Where all weights before are frozen, there would be no gradient.
        return (x.detach().requires_grad_(), *args[1:])

    def _on_block(self, block: nn.Module, args: tuple, out: Tensor) -> None:
        if self.last is not None:
            self.last.add(args[0], out)


def _sum(total: Optional[Tensor], part: Tensor) -> Tensor:
    return part if total is None else total + part
