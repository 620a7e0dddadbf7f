"""Which ratio each block of a backbone prunes (SparseViT, section 3). No torch here."""
import ast
import math
from dataclasses import dataclass, field
from numbers import Real
from typing import Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

Depths = Tuple[int, ...]
Ratios = Tuple[Tuple[float, ...], ...]
Genes = Tuple[int, ...]

# Ratios are compared, hashed and printed: 0.1 + 0.2 and 0.3 must be one configuration.
_DECIMALS = 6


def num_pairs(depth: int) -> int:
    """(plain, shifted) pairs in a stage of `depth` blocks; an odd last block is a pair alone."""
    return (depth + 1) // 2


def kept_windows(num_windows: int, ratio: float) -> int:
    """How many of `num_windows` windows a block runs at a ratio: floor(nW * (1 - r)), at least 1.

    The product is rounded before the floor, so that 10 windows at 0.9 give 1 and not the 0 that
    binary fractions would make of it (SparseViT, section 3.1; see docs/method.md).
    """
    return max(1, math.floor(round(num_windows * (1 - ratio), _DECIMALS)))


@dataclass(frozen=True, init=False, repr=False)
class SparsityConfig:
    """The sparsity ratio of every block: a frozen, hashable value.

    Args:
        sparsity: ``None`` or ``0`` (dense); one ratio for all blocks; one per stage; one per
            (plain, shifted) pair or one per block, flat or grouped by stage; the text of any of
            these; or another SparsityConfig. Per stage a group may differ in kind:
            ``[.6, [0], [.2, .4, .5], 0]`` is valid for depths (2, 2, 6, 2).
        depths: Blocks in each stage.

    Attributes:
        ratios: One tuple of floats per stage, one float per block.

    Raises:
        ValueError: Wrong length, a ratio outside [0, 1), or ratios that fall within a stage
            (later blocks of a stage run a prefix of one ranking). Names stage, block and value.
        TypeError: Something that holds no ratios.
    """
    ratios: Ratios

    def __init__(self, sparsity, depths: Sequence[int]):
        depths = tuple(depths)
        if isinstance(sparsity, str):
            sparsity = _parse_text(sparsity)
        if isinstance(sparsity, SparsityConfig):
            sparsity = sparsity.ratios
        ratios = tuple(
            _check_stage(i, _spread_stage(i, group, depth))
            for i, (group, depth) in enumerate(zip(_group_by_stage(sparsity, depths), depths)))
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
        """Short text for tables: 'dense', 'uniform 0.6', or the ratios of each pair."""
        if self.is_dense:
            return 'dense'
        flat = {r for stage in self.ratios for r in stage}
        if len(flat) == 1:
            return f'uniform {flat.pop():g}'
        stages = [stage[::2] if stage[:-1:2] == stage[1::2] else stage
                  for stage in self.ratios]
        return ' | '.join(' '.join(f'{r:g}' for r in stage) for stage in stages)

    def to_list(self) -> List[List[float]]:
        """Nested lists, one per stage: what a config file or JSON holds."""
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


def _group_by_stage(sparsity, depths: Depths) -> Sequence:
    """One group per stage: a number or a sequence of numbers."""
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
    if all(map(_is_ratio, sparsity)):
        for sizes in (tuple(map(num_pairs, depths)), depths):
            if len(sparsity) == sum(sizes):
                ends = np.cumsum(sizes)
                return [sparsity[end - size:end] for end, size in zip(ends, sizes)]
    raise ValueError(
        f'sparsity {sparsity} has {len(sparsity)} entries; depths {depths} take one per stage '
        f'({len(depths)}), per pair ({sum(map(num_pairs, depths))}) or per block ({sum(depths)})')


def _spread_stage(stage: int, group, depth: int) -> Sequence[float]:
    """One ratio per block of the stage."""
    if _is_ratio(group):
        return [group] * depth
    if isinstance(group, np.ndarray):
        group = group.tolist()
    if not isinstance(group, (list, tuple)):
        raise TypeError(f'sparsity of stage {stage} must be a number or a list of numbers, '
                        f'not {group!r}')
    if len(group) == depth:
        return group
    if len(group) == num_pairs(depth):
        return [group[block // 2] for block in range(depth)]
    raise ValueError(f'sparsity of stage {stage} is {list(group)}, {len(group)} values; the stage '
                     f'has {depth} blocks, {num_pairs(depth)} pairs')


def _check_stage(stage: int, ratios: Sequence[float]) -> Tuple[float, ...]:
    checked = []
    for block, ratio in enumerate(ratios):
        where = f'sparsity of stage {stage}, block {block}'
        if not _is_ratio(ratio):
            raise TypeError(f'{where} is {ratio!r}, not a number')
        given, ratio = ratio, round(float(ratio), _DECIMALS)
        if given < 0 or not ratio < 1:  # NaN fails too
            raise ValueError(f'{where} is {given}, outside [0, 1)')
        if checked and ratio < checked[-1]:
            raise ValueError(f'{where} is {ratio}, less than the {checked[-1]} of block '
                             f'{block - 1}: ratios must not fall within a stage')
        checked.append(ratio)
    return tuple(checked)


@dataclass(frozen=True)
class SparsitySpace:
    """Every SparsityConfig that the search may pick and the adaptation may draw.

    The blocks of a (plain, shifted) pair share a ratio, and ratios never fall within a stage
    (SparseViT, section 3.2). A configuration is encoded as one gene per pair: the index of its
    ratio in `choices`.

    Args:
        depths: Blocks in each stage.
        choices: Ratios a pair may take, in [0, 1).

    Raises:
        ValueError: No choices, or one outside [0, 1).
    """
    depths: Depths
    choices: Tuple[float, ...] = field(default=tuple(i / 10 for i in range(9)))

    def __post_init__(self):
        choices = tuple(sorted({round(float(c), _DECIMALS) for c in self.choices}))
        if not choices:
            raise ValueError('SparsitySpace needs at least one choice')
        for choice in choices:
            if not 0 <= choice < 1:
                raise ValueError(f'SparsitySpace choice {choice} is outside [0, 1)')
        object.__setattr__(self, 'depths', tuple(self.depths))
        object.__setattr__(self, 'choices', choices)

    @property
    def pairs(self) -> Tuple[int, ...]:
        """Genes in each stage."""
        return tuple(map(num_pairs, self.depths))

    @property
    def num_genes(self) -> int:
        return sum(self.pairs)

    def count(self) -> int:
        """Number of configurations; 120,285 for depths 2-2-6-2 and the nine default choices."""
        n = len(self.choices)
        return math.prod(math.comb(n + size - 1, size) for size in self.pairs)

    def by_stage(self, genes: Sequence[int]) -> Iterator[Sequence[int]]:
        """The genes of each stage."""
        start = 0
        for size in self.pairs:
            yield genes[start:start + size]
            start += size

    def decode(self, genes: Sequence[int]) -> SparsityConfig:
        """The configuration of one gene per pair; genes are sorted within their stage.

        Raises:
            ValueError: Wrong number of genes.
        """
        if len(genes) != self.num_genes:
            raise ValueError(f'{len(genes)} genes, depths {self.depths} take {self.num_genes}')
        return SparsityConfig([[self.choices[g] for g in sorted(stage)]
                               for stage in self.by_stage(genes)], self.depths)

    def encode(self, config: SparsityConfig) -> Genes:
        """The genes of a configuration, the inverse of :meth:`decode`.

        Raises:
            ValueError: The configuration is not in the space.
        """
        genes = []
        for stage in SparsityConfig(config, self.depths).ratios:
            for first in range(0, len(stage), 2):
                pair = set(stage[first:first + 2])
                if len(pair) > 1 or not pair <= set(self.choices):
                    raise ValueError(f'{config} is not in the space of {self.choices} per pair')
                genes.append(self.choices.index(stage[first]))
        return tuple(genes)

    def __contains__(self, config: SparsityConfig) -> bool:
        try:
            self.encode(config)
        except ValueError:
            return False
        return True

    def sample(self, rng: np.random.Generator) -> SparsityConfig:
        """One draw per pair, sorted within the stage, as published."""
        return self.decode(rng.integers(len(self.choices), size=self.num_genes).tolist())

    def uniform(self) -> List[SparsityConfig]:
        """The configurations with one ratio everywhere, from the lowest choice to the highest."""
        return [SparsityConfig(c, self.depths) for c in self.choices]


Sparsity = Optional[Union[float, str, Sequence, SparsityConfig]]
