"""Grouping of ViT layers that share a selection, and validation of sparsity configurations."""
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

from ...sparsity import SparsityConfig, SparsitySpace

RESELECT = ('layer', 'stage')
FAST = ('representative', 'copy')


class Group(NamedTuple):
    """Consecutive layers that share a selection.

    Attributes:
        layers: Layer indices in the backbone.
        ratio: Sparsity ratio of the layers; at 0 all patches run.
    """
    layers: Tuple[int, ...]
    ratio: float


def make_space(num_layers: int, reselect: str, stages: Optional[Sequence[int]],
               dense_layers: Optional[int]) -> SparsitySpace:
    """Return the sparsity space of a plain ViT: one ratio per layer, not necessarily ascending, or
    one per stage, with dense leading layers.

    Args:
        num_layers: Depth.
        reselect: 'layer', or 'stage' if all layers of a stage share a selection.
        stages: First layer of each stage after the first; by default at one third and two thirds
            of the depth.
        dense_layers: Number of dense leading layers; by default a third of the depth.

    Raises:
        ValueError: If an argument is invalid, or the dense layers end within a stage. Names the
            argument.
    """
    if reselect not in RESELECT:
        raise ValueError(f'reselect {reselect!r} is not one of {", ".join(RESELECT)}')
    third = num_layers // 3
    dense = third if dense_layers is None else dense_layers
    if not 0 <= dense <= num_layers:
        raise ValueError(f'dense_layers {dense} is outside [0, {num_layers}]')
    if reselect == 'layer':
        return SparsitySpace((num_layers, ), group=1, nested=False, dense=dense)
    starts = (third, 2 * third) if stages is None else tuple(stages)
    bounds = (0, *starts, num_layers)
    if list(bounds) != sorted({*bounds}):
        raise ValueError(f'stages {list(starts)} must be strictly increasing, within '
                         f'[1, {num_layers - 1}]')
    depths = tuple(b - a for a, b in zip(bounds, bounds[1:]))
    if dense not in bounds:
        raise ValueError(f'dense_layers {dense} ends within a stage: stages after the first begin '
                         f'at layers {list(starts)}')
    return SparsitySpace(depths, group=max(depths), nested=False, dense=dense)


def check_config(config: SparsityConfig, reselect: str, score: str, of_attention: bool,
                 dense: int) -> None:
    """Check that a ViT can run a configuration.

    Args:
        config: Sparsity ratios.
        reselect: 'layer' or 'stage'.
        score: Name of the importance score, for messages.
        of_attention: Whether the score comes from the attention of earlier layers.
        dense: Number of leading layers that have a selection each, even with 'stage'.

    Raises:
        ValueError: If ratios differ within a stage that shares one selection (names the stage), or
            if the first layer would be pruned by an attention score.
    """
    first = 0
    for stage, ratios in enumerate(config.ratios if reselect == 'stage' else ()):
        shared = ratios[max(dense - first, 0):]
        if len(set(shared)) > 1:
            raise ValueError(f'sparsity of stage {stage} is {list(ratios)}: its layers share one '
                             f"selection with reselect='stage', so their ratios must be equal")
        first += len(ratios)
    if of_attention and config.ratios[0][0]:
        raise ValueError(
            f'sparsity of the first layer is {config.ratios[0][0]}: no earlier layer provides the '
            f"attention for importance={score!r}; keep it dense, or use 'magnitude' or 'random'")


def groups_of(config: SparsityConfig, reselect: str, dense: int) -> List[List[Group]]:
    """Return the groups of layers of each stage: single layers with 'layer'; with 'stage' one group
    of all layers of the stage, except that the first `dense` layers of the backbone stay single."""
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
    """Return the weight of each layer's attention in the importance; by default 1 in the first
    third of the layers and 0.5 after it, as published for DeiT.

    Raises:
        ValueError: If the number of values is wrong, or a value is outside [0, 1]. Names the layer.
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
