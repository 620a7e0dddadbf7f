"""Sparse training of small classifiers: part of the weights, or part of the heads and neurons."""
from typing import Dict, Optional

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsevit_mm.hooks.head_watch import HeadWatch
from sparsevit_mm.weights import WeightMasks, drop_fraction, maskable_weights
from sparsevit_mm.weights.blocks import unit_groups
from sparsevit_mm.weights.masking import draw_masks
from sparsevit_mm.weights.unit_masking import UnitMasks, first_units

DENSITY, UNIT_DENSITY = .5, .6
UPDATES, UPDATES_END, PRUNED_AT = 80, .8, .75


def is_due(i: int, iters: int) -> bool:
    """Whether masks are updated after optimizer step `i` (counted from 1) of `iters`."""
    return i % max(1, round(UPDATES_END * iters / UPDATES)) == 0 and i < UPDATES_END * iters


class SparseWeights:
    """Keeps the weights of a model sparse during training.

    Args:
        model: The model.
        kind: 'svite' (masks move), 'static' (random masks stay), 'magnitude' (pruned once during
            training) or None (dense).
        iters: Number of iterations of the training.
        seed: Seed of the initial masks.
    """

    def __init__(self, model: nn.Module, kind: Optional[str], iters: int, seed: int):
        self.kind, self.iters = kind, iters
        self.weights = maskable_weights(model)
        self.masks: Optional[WeightMasks] = None
        if kind in ('svite', 'static'):
            self.masks = WeightMasks(self.weights, draw_masks(self.weights, DENSITY, seed=seed))
            self.masks.apply_to_weights()

    def begin(self, i: int) -> None:
        """Prepare step `i` (counted from 1) before its forward pass; does nothing here."""

    def step(self, i: int, optimizer: Optimizer) -> None:
        """Make optimizer step `i` (counted from 1) and update and apply the masks."""
        optimizer.step()
        if self.kind == 'magnitude' and i == round(PRUNED_AT * self.iters):
            drawn = draw_masks(self.weights, DENSITY)  # gives the number of weights per layer
            self.masks = WeightMasks(self.weights, {
                name: largest(self.weights[name].parameter, int(mask.sum()))
                for name, mask in drawn.items()})
        if self.masks is None:
            return
        if self.kind == 'svite' and is_due(i, self.iters):
            self.masks.apply_to_weights()  # weights that grow start at 0
            gradients = {name: p.grad for name, p in self.masks.parameters().items()}
            self.masks.drop_and_grow(gradients, drop_fraction(i, self.iters))
        self.masks.apply_to_weights()
        self.masks.apply_to_moments(optimizer)


class SparseUnits:
    """Like :class:`SparseWeights` for heads and FFN neurons, as in StructuredSparseTrainingHook."""

    def __init__(self, model: nn.Module, iters: int):
        self.iters, self.groups = iters, unit_groups(model)
        self.masks = UnitMasks(self.groups, first_units(
            self.groups, dict(heads=UNIT_DENSITY, neurons=UNIT_DENSITY)))
        self.masks.apply_to_weights()
        self.watch = HeadWatch(self.groups)

    def begin(self, i: int) -> None:
        """See :meth:`SparseWeights.begin`."""
        if is_due(i, self.iters):
            self.watch.watch()

    def step(self, i: int, optimizer: Optimizer) -> None:
        """See :meth:`SparseWeights.step`."""
        with self.masks.stepping():
            optimizer.step()
        if is_due(i, self.iters):
            importance: Dict[str, Tensor] = {
                name: self.masks.norms(name) for name, group in self.groups.items()
                if group.kind == 'neurons'}
            self.masks.apply_to_moments(optimizer)
            self.masks.drop_and_grow({**self.watch.importance(), **importance},
                                     self.masks.growth(), drop_fraction(i, self.iters))
            self.watch.end()
        self.masks.apply_to_weights()
        self.masks.apply_to_moments(optimizer)


def largest(weight: Tensor, count: int) -> Tensor:
    """Return a bool mask of the `count` weights of largest magnitude."""
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[weight.detach().abs().flatten().topk(count).indices] = True
    return mask.view_as(weight)
