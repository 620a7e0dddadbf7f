"""Weight masks of a model in training, applied to weights, gradients and optimizer state."""
import hashlib
from contextlib import contextmanager
from typing import Dict, Iterator, Mapping, Optional, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .densities import erk_densities, uniform_densities
from .layers import LayerWeight
from .masks import initial_mask, nm_mask
from .update import drop_and_grow

DISTRIBUTIONS = dict(erk=erk_densities, uniform=uniform_densities)
Weights = Mapping[str, LayerWeight]
Masks = Dict[str, Tensor]


def draw_masks(weights: Weights, density: float, distribution: str = 'erk',
               pattern: Optional[Tuple[int, int]] = None, seed: int = 0) -> Masks:
    """Draw random masks, on the CPU; equal seeds give equal masks.

    Args:
        weights: Weights by name.
        density: Density over all weights; ignored with `pattern`.
        distribution: How to distribute the density over layers, a key of DISTRIBUTIONS.
        pattern: (N, M) keeps N of every M weights along a layer's inputs instead. Layers whose
            number of inputs is not a multiple of M are dense.
        seed: Seed of the draws.

    Raises:
        ValueError: See :func:`~.densities.check_density`; or if no layer's number of inputs is a
            multiple of M.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tuple(weight.parameter.shape) for name, weight in weights.items()}
    if pattern is None:
        densities = DISTRIBUTIONS[distribution](shapes, density)
        return {name: initial_mask(shape, densities[name], generator)
                for name, shape in shapes.items()}
    n, m = pattern
    masks = {}
    for name, shape in shapes.items():
        dim = weights[name].input_dim
        masks[name] = torch.ones(shape, dtype=torch.bool) if shape[dim] % m else nm_mask(
            torch.rand(shape, generator=generator), n, m, dim)
    if all(mask.all() for mask in masks.values()):
        raise ValueError(f'pattern {n}:{m} fits no layer: none has a multiple of {m} inputs; the '
                         f'first is {next(iter(shapes))} of shape {next(iter(shapes.values()))}')
    return masks


class Masking:
    """Base class of masks of weights and of units.

    Attributes:
        masks: Bool tensors by name.
    """
    masks: Masks

    @property
    def density(self) -> float:
        """Share of the mask entries that are True."""
        return (sum(int(mask.sum()) for mask in self.masks.values())
                / sum(mask.numel() for mask in self.masks.values()))

    def packed(self) -> Dict[str, Tensor]:
        """Return the masks packed into bits, uint8 on the CPU; see :func:`unpack`."""
        return {name: torch.from_numpy(np.packbits(mask.cpu().numpy()))
                for name, mask in self.masks.items()}

    def digest(self) -> str:
        """Return the SHA-256 digest of all masks."""
        digest = hashlib.sha256()
        for bits in self.packed().values():
            digest.update(bits.numpy().tobytes())
        return digest.hexdigest()

    def new_since(self, start: Mapping[str, Tensor]) -> float:
        """Return the share of True entries that were False in `start`, given as packed masks."""
        now = self.packed()
        new = sum(int(np.unpackbits(now[name].numpy() & ~start[name].numpy()).sum())
                  for name in now)
        return new / sum(int(mask.sum()) for mask in self.masks.values())


class WeightMasks(Masking):
    """Masks of the weights of a model, which keep masked weights at zero during training.

    Args:
        weights: Weights by name.
        masks: Bool masks by name, of the weights' shapes. They are moved to the weights' devices.
        group: M, if the masks keep N of every M weights.
    """

    def __init__(self, weights: Weights, masks: Masks, group: Optional[int] = None):
        self.weights, self.group = dict(weights), group
        self.masks = {name: masks[name].to(weight.parameter.device)
                      for name, weight in weights.items()}
        # Dense layers stay dense: skip them.
        self.sparse = [name for name, mask in self.masks.items() if not mask.all()]

    def parameters(self) -> Dict[str, nn.Parameter]:
        """Return the weights of the layers that are not dense, by name."""
        return {name: self.weights[name].parameter for name in self.sparse}

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Context of an optimizer step: zeroes the gradients of masked weights before it, and the
        weights after it.

        Zero gradients keep the moments of every elementwise optimizer at zero, and gradient
        clipping sees the norm over unmasked weights only.
        """
        self.apply_to_gradients()
        yield
        self.apply_to_weights()

    def apply_to_weights(self) -> None:
        self._multiply(self.parameters())

    def apply_to_gradients(self) -> None:
        self._multiply({name: p.grad for name, p in self.parameters().items()
                        if p.grad is not None})

    @torch.no_grad()
    def _multiply(self, values: Mapping[str, Tensor]) -> None:
        if values:
            torch._foreach_mul_(list(values.values()), [self.masks[name] for name in values])

    @torch.no_grad()
    def apply_to_moments(self, optimizer: Optimizer) -> None:
        """Mask the optimizer state tensors that have the shape of their weight."""
        for name, parameter in self.parameters().items():
            for moment in optimizer.state.get(parameter, {}).values():
                if torch.is_tensor(moment) and moment.shape == parameter.shape:
                    moment.mul_(self.masks[name])

    @torch.no_grad()
    def apply_to_copy(self, model: nn.Module) -> None:
        """Mask the parameters of the same names in another model."""
        parameters = dict(model.named_parameters())
        for name in self.sparse:
            parameters[name].mul_(self.masks[name].to(parameters[name].device))

    def outside(self) -> Dict[str, int]:
        """Count the nonzero weights outside the mask, by name, for layers that have any."""
        found = {name: int((p.detach()[~self.masks[name]] != 0).sum())
                 for name, p in self.parameters().items()}
        return {name: count for name, count in found.items() if count}

    def drop_and_grow(self, gradients: Mapping[str, Tensor], fraction: float) -> int:
        """Update the masks of the layers with a gradient. Weights are not changed.

        Args:
            gradients: Gradients by name.
            fraction: Share of each mask to drop, in [0, 1].

        Returns:
            Number of weights that entered a mask.
        """
        moved = 0
        for name, gradient in gradients.items():
            before, weight = self.masks[name], self.weights[name]
            after = drop_and_grow(weight.parameter, gradient, before, fraction, self.group,
                                  weight.input_dim)
            moved += int((after & ~before).sum())
            self.masks[name] = after
        return moved


def unpack(bits: Tensor, shape: Tuple[int, ...]) -> Tensor:
    """Unpack a mask from its bits; the inverse of :meth:`Masking.packed`."""
    size = torch.Size(shape).numel()
    flat = np.unpackbits(bits.cpu().numpy(), count=size)
    return torch.from_numpy(flat).bool().view(*shape)
