"""Which layers of a ViT share a selection, and what of that is allowed."""
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

from ...sparsity import SparsityConfig, SparsitySpace

RESELECT = ('layer', 'stage')
FAST = ('representative', 'copy')


class Group(NamedTuple):
    """Consecutive layers.

    Attributes:
        layers: Their numbers.
        ratio: Of all of them; at 0 every patch runs.
    """
    layers: Tuple[int, ...]
    ratio: float


def make_space(num_layers: int, reselect: str, stages: Optional[Sequence[int]],
               dense_layers: Optional[int]) -> SparsitySpace:
    """The configurations of a plain ViT: a ratio for each layer, in any order, or one for each
    stage; a first few layers stay dense.

    Args:
        num_layers: Depth.
        reselect: 'layer', or 'stage' where a selection serves the layers of a stage.
        stages: First layers of the stages after the first; a third and two thirds by default.
        dense_layers: How many; a third by default.

    Raises:
        ValueError: Names what does not fit.
    """
    if reselect not in RESELECT:
        raise ValueError(f'reselect {reselect!r} is none of {", ".join(RESELECT)}')
    third = num_layers // 3
    dense = third if dense_layers is None else dense_layers
    if not 0 <= dense <= num_layers:
        raise ValueError(f'dense_layers {dense} of {num_layers}')
    if reselect == 'layer':
        return SparsitySpace((num_layers, ), group=1, nested=False, dense=dense)
    starts = (third, 2 * third) if stages is None else tuple(stages)
    bounds = (0, *starts, num_layers)
    if list(bounds) != sorted({*bounds}):
        raise ValueError(f'stages {list(starts)} do not rise from 1 to {num_layers - 1}')
    depths = tuple(b - a for a, b in zip(bounds, bounds[1:]))
    if dense not in bounds:
        raise ValueError(f'dense_layers {dense} ends within a stage: {list(starts)}')
    return SparsitySpace(depths, group=max(depths), nested=False, dense=dense)


def check_config(config: SparsityConfig, reselect: str, score: str, of_attention: bool,
                 dense: int) -> None:
    """Whether a ViT can run a configuration.

    Args:
        score: Name of the importance.
        of_attention: Whether it comes from the attention of the layer before.
        dense: How many of the first layers select by themselves.

    Raises:
        ValueError: Ratios that differ within a stage that has one selection; the first layer
            pruned by its own attention. Names the stage.
    """
    first = 0
    for stage, ratios in enumerate(config.ratios if reselect == 'stage' else ()):
        shared = ratios[max(dense - first, 0):]
        if len(set(shared)) > 1:
            raise ValueError(f'sparsity of stage {stage} is {list(ratios)}: with '
                             f"reselect='stage' its layers share one selection, so one ratio")
        first += len(ratios)
    if of_attention and config.ratios[0][0]:
        raise ValueError(
            f'sparsity of the first layer is {config.ratios[0][0]}: there is no attention before '
            f"it for importance={score!r}; keep it dense, or take 'magnitude' or 'random'")


def groups_of(config: SparsityConfig, reselect: str, dense: int) -> List[List[Group]]:
    """For each stage its groups of layers in order: with 'layer' each layer by itself; with 'stage'
    those of the stage together, but for the first `dense` layers of the backbone."""
    stages, first = [], 0
    for ratios in config.ratios:
        alone = len(ratios) if reselect == 'layer' else min(max(dense - first, 0), len(ratios))
        groups = [Group((first + i, ), ratio) for i, ratio in enumerate(ratios[:alone])]
        if ratios[alone:]:
            groups.append(Group(tuple(range(first + alone, first + len(ratios))), ratios[alone]))
        stages.append(groups)
        first += len(ratios)
    return stages


def blend_weights(blend: Optional[Union[float, Sequence[float]]], num_layers: int) -> List[float]:
    """How much of a layer's attention enters the importance, for each layer; by default all in the
    first third and half after it, as published for DeiT.

    Raises:
        ValueError: Another number of values, or one outside [0, 1]; names the layer.
    """
    if blend is None:
        third = num_layers // 3
        return [1.] * third + [.5] * (num_layers - third)
    weights = list(blend) if isinstance(blend, (list, tuple)) else [blend] * num_layers
    if len(weights) != num_layers:
        raise ValueError(f'blend has {len(weights)} values for {num_layers} layers')
    for layer, weight in enumerate(weights):
        if not 0 <= weight <= 1:
            raise ValueError(f'blend of layer {layer} is {weight}, outside [0, 1]')
    return weights
