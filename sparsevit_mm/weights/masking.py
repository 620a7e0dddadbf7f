"""The masks of a model in training, and what they are applied to."""
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
    """Random masks, on the CPU; equal seeds give equal ones.

    Args:
        weights: By name.
        density: Of all weights together.
        distribution: Over layers, a key of DISTRIBUTIONS.
        pattern: (N, M): N of every M weights along a layer's inputs instead; layers whose number of
            inputs is no multiple of M are dense.

    Raises:
        ValueError: No layer's number of inputs is a multiple of M.
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
    """What masks of any kind share.

    Attributes:
        masks: Bool tensors by name.
    """
    masks: Masks

    @property
    def density(self) -> float:
        """Share of what is masked that exists."""
        return (sum(int(mask.sum()) for mask in self.masks.values())
                / sum(mask.numel() for mask in self.masks.values()))

    def packed(self) -> Dict[str, Tensor]:
        """The masks as bits: uint8 on the CPU, see :func:`unpack`."""
        return {name: torch.from_numpy(np.packbits(mask.cpu().numpy()))
                for name, mask in self.masks.items()}

    def digest(self) -> str:
        """Equal for equal masks, and, in practice, for no others."""
        digest = hashlib.sha256()
        for bits in self.packed().values():
            digest.update(bits.numpy().tobytes())
        return digest.hexdigest()

    def new_since(self, start: Mapping[str, Tensor]) -> float:
        """Share of the masks that is not in others, given as bits."""
        now = self.packed()
        new = sum(int(np.unpackbits(now[name].numpy() & ~start[name].numpy()).sum())
                  for name in now)
        return new / sum(int(mask.sum()) for mask in self.masks.values())


class WeightMasks(Masking):
    """Which weights of a model exist, and the steps that keep the others at zero.

    Args:
        weights: By name.
        masks: A bool tensor for each, of its shape. They go to the weight's device.
        group: M of masks that keep N of every M weights.
    """

    def __init__(self, weights: Weights, masks: Masks, group: Optional[int] = None):
        self.weights, self.group = dict(weights), group
        self.masks = {name: masks[name].to(weight.parameter.device)
                      for name, weight in weights.items()}
        # A dense layer stays so, and costs nothing.
        self.sparse = [name for name, mask in self.masks.items() if not mask.all()]

    def parameters(self) -> Dict[str, nn.Parameter]:
        """Of the layers that are not dense."""
        return {name: self.weights[name].parameter for name in self.sparse}

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Around a step of the optimizer: gradients of weights that do not exist are zero before
        it, and the weights after it.

        Zero gradients keep moments at zero in every optimizer that works value by value, and the
        norm that is clipped is that of the weights that exist.
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
        """To whatever the optimizer keeps for each value of a weight."""
        for name, parameter in self.parameters().items():
            for moment in optimizer.state.get(parameter, {}).values():
                if torch.is_tensor(moment) and moment.shape == parameter.shape:
                    moment.mul_(self.masks[name])

    @torch.no_grad()
    def apply_to_copy(self, model: nn.Module) -> None:
        """To the parameters of these names in another model."""
        parameters = dict(model.named_parameters())
        for name in self.sparse:
            parameters[name].mul_(self.masks[name].to(parameters[name].device))

    def outside(self) -> Dict[str, int]:
        """How many weights outside the mask are not zero, in the layers that have such."""
        found = {name: int((p.detach()[~self.masks[name]] != 0).sum())
                 for name, p in self.parameters().items()}
        return {name: count for name, count in found.items() if count}

    def drop_and_grow(self, gradients: Mapping[str, Tensor], fraction: float) -> int:
        """Updates the masks of the layers that have a gradient; weights stay as they are.

        Returns:
            Number of weights that moved: are in a mask now and were not before.
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
    """A mask from its bits."""
    size = torch.Size(shape).numel()
    flat = np.unpackbits(bits.cpu().numpy(), count=size)
    return torch.from_numpy(flat).bool().view(*shape)
