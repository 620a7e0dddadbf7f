"""Closed-form fit of the heads of the learned score to what running a token is worth."""
from typing import Optional

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .head import describe
from .importance import EPS, ValidArea
from .worth import StageWorth

RIDGE = 1e-3  # relative to the mean diagonal entry of the moments
LEAST = 1e-6  # lower bound of what a token is worth, relative to the mean over its image


class LeastSquares:
    """Ridge regression on samples that arrive in batches. Only their sums are stored.

    Args:
        size: Number of inputs of a sample, n.
    """

    def __init__(self, size: int):
        self.moments = torch.zeros(size, size, dtype=torch.float64)
        self.products = torch.zeros(size, dtype=torch.float64)
        self.count = torch.zeros((), dtype=torch.float64)

    def add(self, inputs: Tensor, targets: Tensor) -> bool:
        """Add samples with inputs (M, n) and targets (M,), unless one of the values is not finite.
        Return whether they were added."""
        inputs, targets = inputs.double(), targets.double()
        if not (inputs.isfinite().all() and targets.isfinite().all()):
            return False
        for total, part in ((self.moments, inputs.T @ inputs), (self.products, inputs.T @ targets),
                            (self.count, torch.tensor(float(len(targets))))):
            total += part.to(total)
        return True

    def sum_over_ranks(self) -> None:
        """Sum over all processes."""
        if dist.is_available() and dist.is_initialized():
            for total in (self.moments, self.products, self.count):
                on_device = total.cuda() if dist.get_backend() == 'nccl' else total
                dist.all_reduce(on_device)
                total.copy_(on_device)

    def solve(self, ridge: float = RIDGE) -> Optional[Tensor]:
        """Return (n,) fp32 weights, or None if no samples were added or all inputs are 0."""
        if not self.moments.any():
            return None
        scale = self.moments.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
        damped = self.moments + ridge * scale * torch.eye(len(self.moments), dtype=torch.float64)
        return torch.linalg.solve(damped, self.products).float()


class ImportanceFitter:
    """Fits the heads of the learned score of a backbone from its dense forward passes and the
    backward passes that follow.

    The target of a token is the log of the sum, over the blocks of a stage, of the norm of the
    block's update times the norm of the gradient of the loss after the block. Without a backward
    pass only the updates count. Windows are ranked within an image, so inputs and targets are
    centred per image.

    Args:
        backbone: A SparseSwinTransformer with heads, in eager execution.
    """

    def __init__(self, backbone: nn.Module):
        self.backbone = backbone
        backbone.watched = True
        self.stages = [_StageFit(stage) for stage in backbone.stages]

    def take(self) -> None:
        """Add the samples of the last pass. Call it after the backward pass, if there is one."""
        for stage in self.stages:
            stage.take()

    def drop(self) -> None:
        """Discard the last pass."""
        for stage in self.stages:
            stage.clear()

    def fit(self) -> bool:
        """Set the heads of all stages that have samples, to the same weights on every rank.

        Returns:
            Whether every stage had samples.
        """
        done = True
        for stage in self.stages:
            done &= stage.fit()
        return done

    def close(self) -> None:
        self.backbone.watched = False
        for stage in self.stages:
            stage.close()


class _StageFit:
    """Fit of one stage."""

    def __init__(self, stage: nn.Module):
        self.stage, self.watch = stage, StageWorth(stage)
        self.sums = LeastSquares(len(stage.importance.weight))
        self.images = 0  # with samples
        self.clear, self.close = self.watch.clear, self.watch.close

    @torch.no_grad()
    def take(self) -> None:
        last = self.watch.last
        self.clear()
        if last is None or last.worth is None:
            return
        x, info = last.x, last.info
        valid = ValidArea(x, info)
        rows = x.reshape(x.shape[0], *info.hw_shape, -1)
        everything = slice(None), slice(None)
        inputs = torch.cat(describe(rows, valid, everything, valid.mean(x)), -1).flatten(1, 2)
        for image in range(len(inputs)):
            own, worth = inputs[image], last.worth[image]
            if valid.mask is not None:
                inside = valid.mask[image].flatten()
                own, worth = own[inside], worth[inside]
            # A few tokens have no gradient at all. The bound keeps their logs from being outliers.
            least = (LEAST * worth.mean()).clamp(min=torch.finfo(torch.float32).tiny)
            wanted = worth.maximum(least).log()
            if len(own) > 1 and wanted.max() - wanted.min() > EPS:
                self.images += self.sums.add(own - own.mean(0), wanted - wanted.mean())

    def fit(self) -> bool:
        self.sums.sum_over_ranks()
        weights = self.sums.solve()
        if weights is not None:
            self.stage.importance.set(weights)
        return weights is not None


