"""Measure what running a token is worth: the norm of its update, and its effect on the loss."""
from typing import Dict, NamedTuple, Optional

import torch
from torch import Tensor, nn

from .importance import MapInfo


class Seen(NamedTuple):
    """Scores of the n windows or tokens of a stage, and what running them is worth.

    Attributes:
        stage: Index of the stage.
        scores: (B, n) fp32 for each score.
        inside: (B, n) bool, false for those that consist of padding only.
        update: (B, n) fp32, the norm of the update by the blocks.
        gain: (B, n) fp32, the same with updates weighted by the norm of the gradient of the loss;
            None without a backward pass.
    """
    stage: int
    scores: Dict[str, Tensor]
    inside: Tensor
    update: Tensor
    gain: Optional[Tensor]


class Pass:
    """Measurements of a dense forward pass of a stage, and of the backward pass after it.

    Attributes:
        x: (B, L, C), input of the stage.
        info: Information on the map of the stage.
        update: (B, L) fp32, the norm of a block's update of a token, summed over the blocks.
        gain: (B, L) fp32, the same with each norm multiplied by the norm of the gradient of the
            loss after the block; None without a backward pass.
    """

    def __init__(self, x: Tensor, info: MapInfo):
        self.x, self.info = x, info
        self.update: Optional[Tensor] = None
        self.gain: Optional[Tensor] = None
        self._differentiates = False

    @property
    def worth(self) -> Optional[Tensor]:
        """`gain` if the forward pass tracked gradients, else `update`."""
        return self.gain if self._differentiates else self.update

    def add(self, before: Tensor, after: Tensor) -> None:
        """Add a block's update, from the tokens (B, L, C) before and after it."""
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
        last: The last pass; None before the first one and after one that pruned.
    """

    def __init__(self, stage: nn.Module):
        self.handles = [stage.register_forward_pre_hook(self._on_stage)]
        self.handles += [block.register_forward_hook(self._on_block) for block in stage.blocks]
        self.clear()

    def clear(self) -> None:
        """Discard the last pass."""
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
        # Without this there is no gradient if all preceding weights are frozen.
        return (x.detach().requires_grad_(), *args[1:])

    def _on_block(self, block: nn.Module, args: tuple, out: Tensor) -> None:
        if self.last is not None:
            self.last.add(args[0], out)


def _sum(total: Optional[Tensor], part: Tensor) -> Tensor:
    return part if total is None else total + part
