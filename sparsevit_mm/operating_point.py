"""Operating points: the sparsity ratios and the other values of a model that a search chooses.

This module does not need torch.
"""
import ast
import math
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple, Union

import numpy as np

from .sparsity import Depths, Genes, SparsityConfig, SparsitySpace
from .widths import KINDS, check_share, is_width, unit_count, width_name, widths_label

Value = Union[int, float, str, bool]
PREFIX = 'model.test_cfg.'
IMAGE_SCALE = 'image_scale'  # factor of the sides of test images


@dataclass(frozen=True)
class Knob:
    """Value that a search may set: an entry of the model's test config, the size of its images, or
    the width of a stage.

    Attributes:
        name: Place in the config, such as ``model.test_cfg.rpn.max_per_img``; or
            :data:`IMAGE_SCALE`, whose values are factors of the sides that the test pipeline
            resizes to; or the name of a width, see :func:`~.widths.width_name`, whose values are
            shares of heads or neurons.
        values: Values to choose from. A search starts from the first.

    Raises:
        ValueError: If the name is not one of these, a scale is not a positive number, a width is
            not a share in (0, 1], there are no values, or two are the same.
    """
    name: str
    values: Tuple[Value, ...]

    def __post_init__(self):
        if self.name == IMAGE_SCALE:
            if not all(type(v) in (int, float) and v > 0 for v in self.values):
                raise ValueError(f'knob {self.name}: {list(self.values)} are not all positive '
                                 f'factors of the image sides')
        elif is_width(self.name):
            shares = tuple(check_share(f'knob {self.name}', value) for value in self.values)
            object.__setattr__(self, 'values', shares)
        elif not self.name.startswith(PREFIX) or self.name.endswith('.'):
            raise ValueError(f'knob {self.name!r} is neither {IMAGE_SCALE} nor a value below '
                             f'{PREFIX[:-1]}: only settings that a built model reads at test '
                             f'time can be set')
        if len({*map(_identity, self.values)}) < max(len(self.values), 1):
            raise ValueError(f'knob {self.name}: values {list(self.values)} are empty or '
                             f'contain duplicates')

    @property
    def is_width(self) -> bool:
        return is_width(self.name)

    @classmethod
    def parse(cls, text: str) -> 'Knob':
        """Create a knob from ``NAME=VALUE,VALUE,...``.

        A value that is not a Python literal is a string.

        Raises:
            ValueError: If the text has another form, or a value is a literal other than a finite
                number, True or False.
        """
        name, equals, values = text.partition('=')
        if not equals or not values:
            raise ValueError(f'--knob {text!r} is not NAME=VALUE,VALUE,...')
        return cls(name.strip(), tuple(_value(v) for v in values.split(',')))


def _identity(value: Value) -> str:
    """Return a key that is the same for 1 and 1.0, but not for 1 and True."""
    return repr(float(value) if type(value) is int else value)


def _value(text: str) -> Value:
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text.strip()
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f'{text.strip()!r} is not a valid knob value')
    return value


@dataclass(frozen=True, init=False, repr=False)
class OperatingPoint(SparsityConfig):
    """SparsityConfig with knob values. It is frozen and hashable too.

    Args:
        sparsity: Ratios of the blocks.
        knobs: Values of the knobs by name.
    """
    knobs: Tuple[Tuple[str, Value], ...] = ()

    def __init__(self, sparsity: SparsityConfig, knobs: Mapping[str, Value]):
        super().__init__(sparsity, sparsity.depths)
        object.__setattr__(self, 'knobs', tuple(sorted(knobs.items())))

    @property
    def label(self) -> str:
        others = [(name, value) for name, value in self.knobs if not is_width(name)]
        names = short_names([name for name, _ in others])
        parts = [super().label, *(f'{names[name]} {value}' for name, value in others),
                 widths_label(self)]
        return ', '.join(filter(None, parts))

    def __str__(self) -> str:
        return ' '.join([super().__str__(), *(f'{name}={value}' for name, value in self.knobs)])


def operating_point(sparsity: SparsityConfig,
                    knobs: Union[Mapping[str, Value], Iterable[Tuple[str, Value]]] = ()
                    ) -> SparsityConfig:
    """Combine ratios and knobs into an OperatingPoint, or a SparsityConfig if there are no knobs.

    Knobs of `sparsity` itself are dropped.
    """
    knobs = dict(knobs)
    sparsity = SparsityConfig(sparsity, sparsity.depths)
    return OperatingPoint(sparsity, knobs) if knobs else sparsity


def short_names(names: Sequence[str]) -> Dict[str, str]:
    """Map each dotted name to its shortest suffix that no other name ends with."""
    short = {}
    for name in names:
        parts = name.split('.')
        ends = ['.'.join(parts[-count:]) for count in range(1, len(parts) + 1)]
        short[name] = next((end for end in ends if not any(
            other != name and f'.{other}'.endswith(f'.{end}') for other in names)), name)
    return short


def width_knobs(choices: Mapping[str, Sequence[float]],
                units: Sequence[Sequence[Tuple[int, int]]]) -> List[Knob]:
    """Create a width knob for each kind and stage, unless full width is the only choice.

    Of shares that run the same number of units in each block, only the largest is kept: half of
    one head is one head.

    Args:
        choices: Shares of each kind in descending order, see :func:`~.widths.check_widths`.
        units: For each stage and block, its numbers of heads and neurons.
    """
    knobs = []
    for kind, shares in choices.items():
        for stage, blocks in enumerate(units):
            by_count: Dict[Tuple[int, ...], float] = {}
            for share in shares:
                counts = tuple(unit_count(block[KINDS.index(kind)], share) for block in blocks)
                by_count.setdefault(counts, share)
            if [*by_count.values()] != [1.]:
                knobs.append(Knob(width_name(kind, stage), tuple(by_count.values())))
    return knobs


def image_scale(point: SparsityConfig) -> float:
    """Return the factor of the image sides at a point, or 1 if it sets none."""
    return float(dict(point.knobs).get(IMAGE_SCALE, 1))


def point_of(space: SparsitySpace, sparsity: Any) -> SparsityConfig:
    """Return the configuration of a space for `sparsity`, with its knobs if it has any.

    Args:
        space: Space of the backbone.
        sparsity: Anything that :meth:`~.sparsity.SparsitySpace.config` takes, or an
            OperatingPoint.
    """
    return operating_point(space.config(sparsity), getattr(sparsity, 'knobs', ()))


@dataclass(frozen=True)
class PointSpace(SparsitySpace):
    """SparsitySpace whose configurations also have knobs. The genes of the knobs, one each, follow
    those of the ratios.

    Args:
        knobs: Knobs that may be set.
    """
    knobs: Tuple[Knob, ...] = ()

    @classmethod
    def beside(cls, space: SparsitySpace, knobs: Sequence[Knob]) -> SparsitySpace:
        """Add knobs to a space. Return the space itself if there are none."""
        if not knobs:
            return space
        return cls(space.depths, space.choices, space.group, space.nested, space.dense,
                   tuple(knobs))

    @property
    def num_genes(self) -> int:
        return super().num_genes + len(self.knobs)

    @property
    def gene_sizes(self) -> Tuple[int, ...]:
        return super().gene_sizes + tuple(len(knob.values) for knob in self.knobs)

    def config(self, sparsity: Any) -> SparsityConfig:
        """See SparsitySpace. Knobs that are not given take their first value."""
        given = dict(getattr(sparsity, 'knobs', ()))
        return operating_point(super().config(sparsity),
                               {**{knob.name: knob.values[0] for knob in self.knobs}, **given})

    def uniform(self) -> List[SparsityConfig]:
        """Return points at the choices, and at the values of the knobs.

        First, each ratio everywhere with each knob at its first value; then, at the lowest ratio,
        the other values of each knob alone, where widths of a kind change together; then, if there
        are widths, points where all widths change together with the ratio.
        """
        points = super().uniform()
        widths = [knob for knob in self.knobs if knob.is_width]
        kinds = [[knob for knob in widths if knob.name.startswith(f'{kind}_')] for kind in KINDS]
        alone = [[knob] for knob in self.knobs if not knob.is_width]
        for together in [*alone, *filter(None, kinds)]:
            last = max(len(knob.values) for knob in together) - 1
            points += [self._with(points[0], together, i / last) for i in range(1, last + 1)]
        if widths:
            last = len(self.choices) - 1
            points += [self._with(points[i], widths, i / last) for i in range(1, last + 1)]
        return list(dict.fromkeys(points))

    def _with(self, point: SparsityConfig, knobs: Sequence[Knob], place: float) -> SparsityConfig:
        """Set knobs to the value at a relative position, from 0 for the first to 1 for the last."""
        values = {knob.name: knob.values[round(place * (len(knob.values) - 1))] for knob in knobs}
        return operating_point(point, {**dict(point.knobs), **values})

    def count(self) -> int:
        return super().count() * math.prod(len(knob.values) for knob in self.knobs)

    def decode(self, genes: Sequence[int]) -> SparsityConfig:
        count = len(self.knobs)
        return operating_point(
            super().decode(genes[:len(genes) - count]),
            {knob.name: knob.values[gene]
             for knob, gene in zip(self.knobs, genes[len(genes) - count:])})

    def encode(self, config: SparsityConfig) -> Genes:
        knobs = dict(config.knobs)
        try:
            own = tuple(knob.values.index(knobs[knob.name]) for knob in self.knobs)
        except (KeyError, ValueError):
            raise ValueError(f'{config} does not give each of {self.knobs} one of its '
                             f'values') from None
        return super().encode(config) + own

    def sample(self, rng: np.random.Generator) -> SparsityConfig:
        return self.decode([int(rng.integers(size)) for size in self.gene_sizes])


def point_to_json(point: SparsityConfig) -> Dict:
    """Convert a point to a dict with ``sparsity``, one ratio per block, grouped by stage, and
    ``knobs`` if it has any.
    """
    record: Dict = dict(sparsity=point.to_list())
    if point.knobs:
        record['knobs'] = dict(point.knobs)
    return record


def point_from_json(record: Mapping, depths: Depths) -> SparsityConfig:
    """Convert such a dict to a point. Inverse of :func:`point_to_json`."""
    return operating_point(SparsityConfig(record['sparsity'], depths), record.get('knobs') or {})
