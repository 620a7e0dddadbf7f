"""Sparse training from scratch: a part of the weights exists, and which part moves."""
from typing import Dict, Optional, Sequence, Set, Union

from mmengine.registry import HOOKS
from torch import Tensor, nn

from ..weights import WeightMasks, maskable_weights
from ..weights.densities import check_density
from ..weights.layers import LayerWeight
from ..weights.masking import DISTRIBUTIONS, Masks, draw_masks
from ..weights.masks import parse_pattern
from .masked_training import MaskedTrainingHook, as_patterns


@HOOKS.register_module()
class SparseTrainingHook(MaskedTrainingHook):
    """Trains with a fixed share of the weights of linear layers and convolutions (SViTE,
    unstructured; NeurIPS 2021).

    Masks are drawn before the first iteration; weights outside them, their moments in the
    optimizer and their averages in EMAHook are zero from then on. Every `interval` iterations each
    layer drops the smallest of its weights and grows as many where the gradient is largest, see
    :func:`~sparsevit_mm.weights.drop_and_grow`; weights that grow start at 0. The update follows
    the optimizer's step and takes the gradient of that step, before it is clipped: with gradient
    accumulation of all its batches. Clipping sees the gradient of the weights that exist.

    Masks are a function of the seed and the gradients, so all ranks have the same; they are
    compared once an epoch. The checkpoint holds them and the states of the random generators, and a
    resumed training goes on as the unbroken one. Without ``resume``, ``load_from`` takes over the
    masks that the checkpoint holds for layers of the same name and shape; others are drawn.

    Parameters without gradient (frozen stages) stay as they are and count for no density. Logged
    are ``density``, ``weights_moved`` (by the last update) and ``mask_new``, the share of the masks
    that was not there at the start.

    Args:
        density: Share of the weights that exist, in (0, 1]; may be None with a pattern.
        interval: Iterations from one update of the masks to the next.
        distribution: Over layers: ``'erk'`` or ``'uniform'``.
        end: Share of the training after which masks stay as they are; 0 for masks that never move.
        drop_fraction: Share of a layer's weights that an update drops, at the start.
        last_drop_fraction: The same at the end of the training; between them it falls by a cosine.
        layers: Regular expressions, one or several: only layers whose name holds a match.
        seed: Of the first masks.
        pattern: ``'2:4'``: 2 of every 4 weights along the inputs, in place of a distribution.
            Layers whose number of inputs is no multiple of 4 stay dense.

    Raises:
        ValueError: An argument out of its range. Before the first iteration: `layers` match
            nothing, a layer can't be masked, no update would take place, or a resumed checkpoint
            holds no masks or others than these settings make.
        TypeError: Before the first iteration: the optimizer wrapper is none of OptimWrapper's kind,
            or the optimizer keeps its moments on other ranks.
        RuntimeError: The masks differ over ranks.
    """
    record = 'sparse_training'

    def __init__(self,
                 density: Optional[float],
                 interval: int,
                 distribution: str = 'erk',
                 end: float = .8,
                 drop_fraction: float = .5,
                 last_drop_fraction: float = .005,
                 layers: Optional[Union[str, Sequence[str]]] = None,
                 seed: int = 0,
                 pattern: Optional[str] = None):
        self.pattern = None if pattern is None else parse_pattern(pattern)
        if self.pattern:
            n, m = self.pattern
            if density not in (None, n / m):
                raise ValueError(f'density is {density}, but pattern {pattern} keeps {n / m}')
            density = n / m
        elif density is None:
            raise ValueError('density is None: give the share of the weights to keep')
        check_density(density)
        if distribution not in DISTRIBUTIONS:
            raise ValueError(f'distribution is {distribution!r}: none of '
                             f'{", ".join(DISTRIBUTIONS)}')
        self.layers = as_patterns('layers', layers)
        self.density, self.distribution, self.seed = density, distribution, seed
        super().__init__(interval, end, drop_fraction, last_drop_fraction)

    @property
    def settings(self) -> Dict:
        return dict(density=self.density, distribution=self.distribution, **super().settings,
                    layers=self.layers, seed=self.seed,
                    pattern=None if self.pattern is None else list(self.pattern))

    def _first_masks(self, runner, model: nn.Module) -> Masks:
        self.weights = self._trainable_weights(runner, model)
        self.without_gradient: Set[str] = set()
        return draw_masks(self.weights, self.density, self.distribution, self.pattern, self.seed)

    def _make(self, masks: Masks) -> WeightMasks:
        return WeightMasks(self.weights, masks, self.pattern and self.pattern[1])

    def _trainable_weights(self, runner, model: nn.Module) -> Dict[str, LayerWeight]:
        found = maskable_weights(model, self.layers)
        weights = {name: weight for name, weight in found.items()
                   if weight.parameter.requires_grad}
        frozen = [name for name in found if name not in weights]
        if not weights:
            raise ValueError(f'all {len(found)} layers to be masked are frozen, {frozen[0]} first')
        if frozen:
            runner.logger.info(f'{len(frozen)} frozen layers stay as they are: '
                               f'{", ".join(frozen)}')
        return weights

    def _scores(self, runner) -> Dict[str, Tensor]:
        """Gradients by name."""
        parameters = self.masks.parameters()
        without = {name for name, p in parameters.items() if p.grad is None}
        if without - self.without_gradient:
            runner.logger.info(f'layers without a gradient keep their masks: '
                               f'{", ".join(sorted(without - self.without_gradient))}')
            self.without_gradient |= without
        return {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}

    def _unfit(self, scores: Dict[str, Tensor]) -> str:
        unfit = [name for name, gradient in scores.items()
                 if not (gradient.isfinite().all()
                         and self.masks.weights[name].parameter.isfinite().all())]
        if not unfit:
            return ''
        return f'gradients or weights of {len(unfit)} layers are not finite, {unfit[0]} first'

    def _move(self, runner, scores: Dict[str, Tensor], fraction: float) -> int:
        return self.masks.drop_and_grow(scores, fraction)

    def _figures(self, moved: int) -> Dict[str, float]:
        return dict(density=self.masks.density, weights_moved=moved)
