"""What a search chooses: ratios, and named values of the model beside them. No torch here."""
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
    """A value of the model's test config that a search may set, the size of its images, or the
    width of a stage.

    Attributes:
        name: Its place in the config: ``model.test_cfg.rpn.max_per_img``. Or :data:`IMAGE_SCALE`,
            whose values are factors of the sides that the test pipeline resizes to. Or that of a
            width, see :func:`~.widths.width_name`, whose values are shares of heads or neurons.
        values: To choose from; a search starts from the first.

    Raises:
        ValueError: Neither below ``model.test_cfg`` nor the image scale; a scale that is no
            positive number, a width that is no share; no values, or two alike.
    """
    name: str
    values: Tuple[Value, ...]

    def __post_init__(self):
        if self.name == IMAGE_SCALE:
            if not all(type(v) in (int, float) and v > 0 for v in self.values):
                raise ValueError(f'knob {self.name}: {list(self.values)} are not all positive '
                                 f'factors of the sides of images')
        elif is_width(self.name):
            shares = tuple(check_share(f'knob {self.name}', value) for value in self.values)
            object.__setattr__(self, 'values', shares)
        elif not self.name.startswith(PREFIX) or self.name.endswith('.'):
            raise ValueError(f'knob {self.name!r} is neither {IMAGE_SCALE} nor a value below '
                             f'{PREFIX[:-1]}: only what a built model reads at test time can be '
                             f'set')
        if len({*map(_identity, self.values)}) < max(len(self.values), 1):
            raise ValueError(f'knob {self.name}: values {list(self.values)} are none, or two of '
                             f'them are the same')

    @property
    def is_width(self) -> bool:
        return is_width(self.name)

    @classmethod
    def parse(cls, text: str) -> 'Knob':
        """From ``NAME=VALUE,VALUE,...``; what is no number, True or False is a text."""
        name, equals, values = text.partition('=')
        if not equals or not values:
            raise ValueError(f'--knob {text!r} is not NAME=VALUE,VALUE,...')
        return cls(name.strip(), tuple(_value(v) for v in values.split(',')))


def _identity(value: Value) -> str:
    """1 and 1.0 are the same, 1 and True are not."""
    return repr(float(value) if type(value) is int else value)


def _value(text: str) -> Value:
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text.strip()
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f'{text.strip()!r} is no value of a knob')
    return value


@dataclass(frozen=True, init=False, repr=False)
class OperatingPoint(SparsityConfig):
    """A SparsityConfig with knobs set beside it: frozen and hashable as that is.

    Args:
        sparsity: The configuration.
        knobs: Name -> value.
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
    """The point of ratios and knobs; without knobs it is the SparsityConfig itself."""
    knobs = dict(knobs)
    sparsity = SparsityConfig(sparsity, sparsity.depths)
    return OperatingPoint(sparsity, knobs) if knobs else sparsity


def short_names(names: Sequence[str]) -> Dict[str, str]:
    """The ends of dotted names, as long as it takes to tell them apart."""
    short = {}
    for name in names:
        parts = name.split('.')
        ends = ['.'.join(parts[-count:]) for count in range(1, len(parts) + 1)]
        short[name] = next((end for end in ends if not any(
            other != name and f'.{other}'.endswith(f'.{end}') for other in names)), name)
    return short


def width_knobs(choices: Mapping[str, Sequence[float]],
                units: Sequence[Sequence[Tuple[int, int]]]) -> List[Knob]:
    """A knob for each kind of unit and stage where there is something to choose. Of shares that run
    the same numbers of units the largest stands for all: one head has no half.

    Args:
        choices: Kind -> shares, see :func:`~.widths.check_widths`.
        units: For each stage and block, its heads and neurons.
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
    """The factor of the sides of images at a point; 1 where it sets none."""
    return float(dict(point.knobs).get(IMAGE_SCALE, 1))


def point_of(space: SparsitySpace, sparsity: Any) -> SparsityConfig:
    """What a backbone of the space takes, with the knobs that were given beside it, if any.

    Args:
        space: Of the backbone.
        sparsity: As :meth:`~.sparsity.SparsitySpace.config` takes it, or an OperatingPoint.
    """
    return operating_point(space.config(sparsity), getattr(sparsity, 'knobs', ()))


@dataclass(frozen=True)
class PointSpace(SparsitySpace):
    """A SparsitySpace whose configurations have knobs beside them: one gene each, after those of
    the ratios.

    Args:
        knobs: What may be set.
    """
    knobs: Tuple[Knob, ...] = ()

    @classmethod
    def beside(cls, space: SparsitySpace, knobs: Sequence[Knob]) -> SparsitySpace:
        """The space with knobs; without any, the space itself."""
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
        """See SparsitySpace; knobs that are not given stand at their first value."""
        given = dict(getattr(sparsity, 'knobs', ()))
        return operating_point(super().config(sparsity),
                               {**{knob.name: knob.values[0] for knob in self.knobs}, **given})

    def uniform(self) -> List[SparsityConfig]:
        """One ratio everywhere with each knob at its first value, then dense with each knob at each
        other value alone; widths of a kind go together, and all together with each ratio."""
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
        """With values at a place from 0, the first, to 1, the last."""
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
            raise ValueError(f'{config} sets no knobs of {self.knobs}') from None
        return super().encode(config) + own

    def sample(self, rng: np.random.Generator) -> SparsityConfig:
        return self.decode([int(rng.integers(size)) for size in self.gene_sizes])


def point_to_json(point: SparsityConfig) -> Dict:
    """``sparsity``, one ratio per block, grouped by stage; ``knobs`` if there are any."""
    record: Dict = dict(sparsity=point.to_list())
    if point.knobs:
        record['knobs'] = dict(point.knobs)
    return record


def point_from_json(record: Mapping, depths: Depths) -> SparsityConfig:
    """The inverse of :func:`point_to_json`."""
    return operating_point(SparsityConfig(record['sparsity'], depths), record.get('knobs') or {})
