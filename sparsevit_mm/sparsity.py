"""Sparsity ratios of the blocks of a backbone. This module does not need torch."""
import ast
import math
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

Depths = Tuple[int, ...]
Ratios = Tuple[Tuple[float, ...], ...]
Genes = Tuple[int, ...]

# Ratios are compared, hashed and printed: 0.1 + 0.2 must equal 0.3.
_DECIMALS = 6


def kept_windows(num_windows: int, ratio: float) -> int:
    """Return how many of `num_windows` windows or tokens a block runs at a sparsity ratio.

    This is floor(nW * (1 - r)), at least 1 (SparseViT, section 3.1; see docs/window_pruning.md).
    The product is rounded before the floor: 20 windows at 0.9 give 2, not the 1 that binary
    fractions would give.
    """
    return max(1, math.floor(round(num_windows * (1 - ratio), _DECIMALS)))


@dataclass(frozen=True, init=False, repr=False)
class SparsityConfig:
    """Sparsity ratio of every block, as a frozen, hashable value.

    A backbone may allow only some configurations, see :class:`SparsitySpace`.

    Args:
        sparsity: ``None`` or ``0`` (dense); one ratio for all blocks; one per stage; one per
            group of blocks or one per block, flat or nested by stage; any of these as text; or
            another SparsityConfig. The form may differ between stages:
            ``[.6, [0], [.2, .4, .5], 0]`` is valid for depths (2, 2, 6, 2).
        depths: Number of blocks in each stage.
        group: Number of consecutive blocks of a stage that one ratio may stand for. The default
            is for Swin's (plain, shifted) pairs. The last group of a stage may be smaller.

    Attributes:
        ratios: One tuple per stage, with one float per block.

    Raises:
        ValueError: If the number of ratios is wrong, or a ratio is outside [0, 1). The message
            names the stage, block and value of such a ratio.
        TypeError: If `sparsity`, or a part of it, is neither a number nor a list of numbers.
    """
    ratios: Ratios
    knobs = ()  # overridden in OperatingPoint

    def __init__(self, sparsity, depths: Sequence[int], group: int = 2):
        depths = tuple(depths)
        if isinstance(sparsity, str):
            sparsity = _parse_text(sparsity)
        if isinstance(sparsity, SparsityConfig):
            sparsity = sparsity.ratios
        ratios = tuple(
            _check_stage(i, _spread_stage(i, stage, depth, group))
            for i, (stage, depth) in enumerate(
                zip(_split_by_stage(sparsity, depths, group), depths)))
        object.__setattr__(self, 'ratios', ratios)

    @property
    def depths(self) -> Depths:
        return tuple(len(stage) for stage in self.ratios)

    @property
    def is_dense(self) -> bool:
        return not any(r for stage in self.ratios for r in stage)

    @property
    def mean(self) -> float:
        """Mean ratio over blocks."""
        return float(np.mean([r for stage in self.ratios for r in stage]))

    @property
    def label(self) -> str:
        """Short text for tables: 'dense', 'uniform 0.6', or the ratios of pairs of blocks.

        Stages with a pair whose ratios differ list the ratio of each block.
        """
        if self.is_dense:
            return 'dense'
        flat = {r for stage in self.ratios for r in stage}
        if len(flat) == 1:
            return f'uniform {flat.pop():g}'
        stages = [stage[::2] if stage[:-1:2] == stage[1::2] else stage
                  for stage in self.ratios]
        return ' | '.join(' '.join(f'{r:g}' for r in stage) for stage in stages)

    def to_list(self) -> List[List[float]]:
        """Return nested lists, one per stage, for a config file or JSON."""
        return [list(stage) for stage in self.ratios]

    def __str__(self) -> str:
        return '[' + ', '.join(
            '[' + ', '.join(f'{r:g}' for r in stage) + ']' for stage in self.ratios) + ']'

    def __repr__(self) -> str:
        return f'SparsityConfig({self})'


def _parse_text(text: str):
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        raise ValueError(f'sparsity {text!r} is neither a number nor a list of numbers, such as '
                         f'0.6 or [[.3,.3],[0,0],[.1,.1,.2,.2,.2,.2],[0,0]]') from None


def _is_ratio(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _num_groups(depth: int, group: int) -> int:
    return -(-depth // group)


def _split_by_stage(sparsity, depths: Depths, group: int) -> Sequence:
    """Return a number or a sequence of numbers for each stage."""
    if sparsity is None:
        sparsity = 0.
    if _is_ratio(sparsity):
        return [sparsity] * len(depths)
    if isinstance(sparsity, np.ndarray):
        sparsity = sparsity.tolist()
    if not isinstance(sparsity, (list, tuple)):
        raise TypeError(f'sparsity must be a number, a list or a SparsityConfig, '
                        f'not {type(sparsity).__name__}')
    if len(sparsity) == len(depths):
        return sparsity
    groups = [_num_groups(depth, group) for depth in depths]
    if all(map(_is_ratio, sparsity)):
        for sizes in (groups, depths):
            if len(sparsity) == sum(sizes):
                ends = np.cumsum(sizes)
                return [sparsity[end - size:end] for end, size in zip(ends, sizes)]
    of_groups = '' if group == 1 else f'{_per_group(group)} ({sum(groups)}) or '
    raise ValueError(
        f'sparsity {sparsity} has {len(sparsity)} entries; depths {depths} take one per stage '
        f'({len(depths)}), {of_groups}per block ({sum(depths)})')


def _per_group(group: int) -> str:
    return 'per pair' if group == 2 else f'per {group} blocks'


def _spread_stage(stage: int, given, depth: int, group: int) -> Sequence[float]:
    """Return one ratio per block of the stage."""
    if _is_ratio(given):
        return [given] * depth
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if not isinstance(given, (list, tuple)):
        raise TypeError(f'sparsity of stage {stage} must be a number or a list of numbers, '
                        f'not {given!r}')
    if len(given) == depth:
        return given
    if len(given) == _num_groups(depth, group):
        return [given[block // group] for block in range(depth)]
    of_groups = '' if group == 1 else f', or {_num_groups(depth, group)} {_per_group(group)}'
    raise ValueError(f'sparsity of stage {stage} is {list(given)}, {len(given)} values; the stage '
                     f'takes one, {depth} per block{of_groups}')


def _check_stage(stage: int, ratios: Sequence[float]) -> Tuple[float, ...]:
    checked = []
    for block, ratio in enumerate(ratios):
        where = f'sparsity of stage {stage}, block {block}'
        if not _is_ratio(ratio):
            raise TypeError(f'{where} is {ratio!r}, not a number')
        given, ratio = ratio, round(float(ratio), _DECIMALS)
        if given < 0 or not ratio < 1:  # also rejects NaN
            raise ValueError(f'{where} is {given}, outside [0, 1)')
        checked.append(ratio)
    return tuple(checked)


@dataclass(frozen=True)
class SparsitySpace:
    """Space of sparsity configurations that search and adaptation choose from.

    A configuration in the space has one gene per group of blocks: the index of its ratio in
    `choices`. The backbone takes other ratios too, see :meth:`config`. The defaults are for Swin:
    a (plain, shifted) pair shares a ratio, and ratios never decrease within a stage, as its blocks
    run prefixes of one ranking (SparseViT, section 3.2).

    Args:
        depths: Number of blocks in each stage.
        choices: Ratios that a group may take, in [0, 1).
        group: Number of consecutive blocks of a stage that share a gene.
        nested: Whether ratios must not decrease within a stage.
        dense: Number of blocks at the start of the backbone that are never pruned. Groups begin
            after them.

    Raises:
        ValueError: If there are no choices, a choice is outside [0, 1), or `group` is less than 1.
    """
    depths: Depths
    choices: Tuple[float, ...] = field(default=tuple(i / 10 for i in range(9)))
    group: int = 2
    nested: bool = True
    dense: int = 0
    knobs = ()  # overridden in PointSpace

    def __post_init__(self):
        choices = tuple(sorted({round(float(c), _DECIMALS) for c in self.choices}))
        if not choices:
            raise ValueError('SparsitySpace needs at least one choice')
        for choice in choices:
            if not 0 <= choice < 1:
                raise ValueError(f'SparsitySpace choice {choice} is outside [0, 1)')
        if self.group < 1:
            raise ValueError(f'groups of {self.group} blocks: at least one is needed')
        object.__setattr__(self, 'depths', tuple(self.depths))
        object.__setattr__(self, 'choices', choices)
        starts = np.cumsum([0, *self.depths])
        skipped = [min(max(self.dense - int(start), 0), depth)
                   for start, depth in zip(starts, self.depths)]
        object.__setattr__(self, '_skipped', tuple(skipped))

    @property
    def prunable(self) -> Tuple[int, ...]:
        """Number of prunable blocks in each stage."""
        return tuple(depth - skip for depth, skip in zip(self.depths, self._skipped))

    @property
    def stage_genes(self) -> Tuple[int, ...]:
        """Number of genes in each stage."""
        return tuple(_num_groups(blocks, self.group) for blocks in self.prunable)

    @property
    def num_genes(self) -> int:
        return sum(self.stage_genes)

    @property
    def gene_sizes(self) -> Tuple[int, ...]:
        """Number of choices of each gene."""
        return (len(self.choices), ) * sum(self.stage_genes)

    def of(self, choices: Sequence[float]) -> 'SparsitySpace':
        """Return a copy of the space with other choices."""
        return replace(self, choices=tuple(choices))

    def config(self, sparsity) -> SparsityConfig:
        """Return a configuration that the backbone takes. Its ratios need not be among the choices.

        Args:
            sparsity: Anything that :class:`SparsityConfig` takes. A single ratio for all blocks or
                for a stage applies to the prunable blocks only.

        Raises:
            ValueError: See SparsityConfig. Also if ratios decrease within a stage, in a nested
                space.
            TypeError: See SparsityConfig.
        """
        if isinstance(sparsity, str):
            sparsity = _parse_text(sparsity)
        if not isinstance(sparsity, SparsityConfig):
            sparsity = [self._spread(stage, given) if _is_ratio(given) else given
                        for stage, given in enumerate(
                            _split_by_stage(sparsity, self.depths, self.group))]
        config = SparsityConfig(sparsity, self.depths, self.group)
        for stage, ratios in enumerate(config.ratios if self.nested else ()):
            for block in range(1, len(ratios)):
                if ratios[block] < ratios[block - 1]:
                    raise ValueError(
                        f'sparsity of stage {stage}, block {block} is {ratios[block]}, less than '
                        f'the {ratios[block - 1]} of block {block - 1}: ratios must not decrease '
                        f'within a stage')
        return config

    def _spread(self, stage: int, ratio: float) -> List[float]:
        return [0.] * self._skipped[stage] + [ratio] * self.prunable[stage]

    def uniform(self) -> List[SparsityConfig]:
        """Return the configurations with one ratio everywhere, in ascending order of the choices.
        """
        return [self.config(choice) for choice in self.choices]

    def count(self) -> int:
        """Return the number of configurations: 120,285 for depths 2-2-6-2 and the default choices.
        """
        n = len(self.choices)
        return math.prod(math.comb(n + size - 1, size) if self.nested else n**size
                         for size in self.stage_genes)

    def by_stage(self, genes: Sequence[int]) -> Iterator[Sequence[int]]:
        """Yield the genes of each stage."""
        start = 0
        for size in self.stage_genes:
            yield genes[start:start + size]
            start += size

    def decode(self, genes: Sequence[int]) -> SparsityConfig:
        """Return the configuration of one gene per group.

        In a nested space, genes are sorted within their stage.

        Raises:
            ValueError: If the number of genes is wrong.
        """
        if len(genes) != sum(self.stage_genes):
            raise ValueError(f'got {len(genes)} genes, depths {self.depths} take '
                             f'{sum(self.stage_genes)}')
        stages = []
        for skip, blocks, stage in zip(self._skipped, self.prunable, self.by_stage(genes)):
            stage = sorted(stage) if self.nested else stage
            stages.append([0.] * skip
                          + [self.choices[stage[block // self.group]] for block in range(blocks)])
        return SparsityConfig(stages, self.depths)

    def encode(self, config: SparsityConfig) -> Genes:
        """Return the genes of a configuration. Inverse of :meth:`decode`.

        Raises:
            ValueError: If the configuration is not in the space.
        """
        genes = []
        for skip, stage in zip(self._skipped, self.config(config).ratios):
            for first in range(skip, len(stage), self.group):
                shared = set(stage[first:first + self.group])
                if len(shared) > 1 or not shared <= set(self.choices):
                    raise ValueError(f'{config} is not in the space with choices {self.choices} '
                                     f'{_per_group(self.group)}')
                genes.append(self.choices.index(stage[first]))
            if any(stage[:skip]):
                raise ValueError(f'{config} prunes one of the first {self.dense} blocks')
        return tuple(genes)

    def __contains__(self, config: SparsityConfig) -> bool:
        try:
            self.encode(config)
        except ValueError:
            return False
        return True

    def sample(self, rng: np.random.Generator) -> SparsityConfig:
        """Draw a choice for each group, sorted within each stage if nested, as published."""
        return self.decode(rng.integers(len(self.choices), size=self.num_genes).tolist())


Sparsity = Optional[Union[float, str, Sequence, SparsityConfig]]
