"""Sparse training from scratch with dynamic weight masks."""
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
    """Hook that trains with a fixed density of the weights of linear layers and convolutions
    (unstructured SViTE, NeurIPS 2021).

    Masks are drawn before the first iteration. From then on masked weights, their optimizer moments
    and their EMAHook averages are zero. Every `interval` iterations each layer drops its smallest
    weights and grows as many where the gradient is largest, starting at 0, see
    :func:`~sparsevit_mm.weights.drop_and_grow`. The update follows the optimizer step and uses the
    gradient of that step before clipping; with gradient accumulation this is the gradient of all
    accumulated batches. Gradient clipping only sees unmasked weights.

    Masks depend on the seed and the gradients only, so they are equal on all ranks; this is checked
    once per epoch. Checkpoints hold the masks and the states of the random generators, and a
    resumed training continues as if uninterrupted. Without ``resume``, ``load_from`` loads the
    checkpoint's masks of layers with the same name and shape; the others are drawn.

    Frozen parameters stay as they are and do not count towards the density. The hook logs
    ``density``, ``weights_moved`` (in the last update) and ``mask_new``, the share of unmasked
    weights that were masked at the start.

    Args:
        density: Share of weights to keep, in (0, 1]; may be None with `pattern`.
        interval: Iterations between mask updates.
        distribution: How to distribute the density over layers, ``'erk'`` or ``'uniform'``.
        end: Share of the training after which masks are fixed; 0 fixes them from the start.
        drop_fraction: Share of a layer's weights that an update drops, at the start.
        last_drop_fraction: The same at the end of the training; a cosine interpolates.
        layers: One or several regular expressions that select layers by a match in their names.
        seed: Seed of the initial masks.
        pattern: N:M pattern in place of a distribution; ``'2:4'`` keeps 2 of every 4 weights along
            the inputs. Layers whose number of inputs is not a multiple of M stay dense.

    Raises:
        ValueError: If an argument is out of range. Before the first iteration: if `layers` match
            nothing, a layer cannot be masked, all are frozen, no update would take place, another
            hook trains with masks, a resumed checkpoint holds no masks, or the masks of the
            checkpoint do not fit its weights or these settings.
        TypeError: Before the first iteration: if the optimizer wrapper is not an OptimWrapper, or
            the optimizer keeps its moments on other ranks.
        RuntimeError: If the masks differ between ranks.
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
            raise ValueError(f'distribution is {distribution!r}: not one of '
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
            raise ValueError(f'all {len(found)} layers to mask are frozen, starting with '
                             f'{frozen[0]}')
        if frozen:
            runner.logger.info(f'{len(frozen)} frozen layers stay as they are: '
                               f'{", ".join(frozen)}')
        return weights

    def _scores(self, runner) -> Dict[str, Tensor]:
        """Return copies of the gradients by name."""
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
