"""Fits the heads of the learned score, in closed form, to what running a token is worth."""
from typing import Optional

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .head import describe
from .importance import EPS, ValidArea
from .worth import StageWorth

RIDGE = 1e-3  # of the mean of the squared inputs
LEAST = 1e-6  # of the mean of its image's: what a token is worth at least


class LeastSquares:
    """Ridge regression on samples that come in parts; only their sums are kept.

    Args:
        size: Inputs of a sample, n.
    """

    def __init__(self, size: int):
        self.moments = torch.zeros(size, size, dtype=torch.float64)
        self.products = torch.zeros(size, dtype=torch.float64)
        self.count = torch.zeros((), dtype=torch.float64)

    def add(self, inputs: Tensor, targets: Tensor) -> bool:
        """Takes (M, n) inputs and (M,) targets in; a part with a value that is not finite is left
        out. Whether it was taken."""
        inputs, targets = inputs.double(), targets.double()
        if not (inputs.isfinite().all() and targets.isfinite().all()):
            return False
        for total, part in ((self.moments, inputs.T @ inputs), (self.products, inputs.T @ targets),
                            (self.count, torch.tensor(float(len(targets))))):
            total += part.to(total)
        return True

    def sum_over_ranks(self) -> None:
        """Makes the sums those of all processes."""
        if dist.is_available() and dist.is_initialized():
            for total in (self.moments, self.products, self.count):
                on_device = total.cuda() if dist.get_backend() == 'nccl' else total
                dist.all_reduce(on_device)
                total.copy_(on_device)

    def solve(self, ridge: float = RIDGE) -> Optional[Tensor]:
        """(n,) fp32 weights; None where nothing was added, or only inputs that are 0."""
        if not self.moments.any():
            return None
        scale = self.moments.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
        damped = self.moments + ridge * scale * torch.eye(len(self.moments), dtype=torch.float64)
        return torch.linalg.solve(damped, self.products).float()


class ImportanceFitter:
    """Watches dense forward passes of a backbone, and the backward passes after them, and fits the
    heads of its learned score.

    The target of a token is the log of what its blocks add to it, the norm of each block's update
    times that of the loss's gradient there, summed over the stage; without a backward pass, of
    the updates alone. Windows are ranked within an image, so that inputs and targets are taken
    less their means over it.

    Args:
        backbone: A SparseSwinTransformer with heads, eager.
    """

    def __init__(self, backbone: nn.Module):
        self.backbone = backbone
        backbone.watched = True
        self.stages = [_StageFit(stage) for stage in backbone.stages]

    def take(self) -> None:
        """Takes in the last pass, after its backward pass if there is one."""
        for stage in self.stages:
            stage.take()

    def drop(self) -> None:
        """Forgets the last pass."""
        for stage in self.stages:
            stage.clear()

    def fit(self) -> bool:
        """Sets the heads, the same on every rank. False if nothing was taken in."""
        done = True
        for stage in self.stages:
            done &= stage.fit()
        return done

    def close(self) -> None:
        self.backbone.watched = False
        for stage in self.stages:
            stage.close()


class _StageFit:
    """The samples of one stage."""

    def __init__(self, stage: nn.Module):
        self.stage, self.watch = stage, StageWorth(stage)
        self.sums = LeastSquares(len(stage.importance.weight))
        self.images = 0  # taken in
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
            # Few tokens have no gradient at all: they are no outliers.
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


