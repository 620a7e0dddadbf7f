"""How far chance alone could have moved a figure: BCa bootstrap intervals.

A figure is held with its values on resamples of the images, :class:`Resampled`. Two figures are
compared on the same resamples: what is hard or easy about an image then drops out of their
difference.
"""
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Dict, Mapping, Optional, Sequence, Union

import numpy as np
from scipy.special import ndtr, ndtri

LEVEL = .95
FEWEST_UNITS = 10  # that are drawn, for an interval
_DIGITS = 6  # of what is stored


@dataclass(frozen=True)
class Interval:
    """A figure, or a difference of two, with its 95% interval.

    Attributes:
        estimate: As observed on all images.
        low, high: Its ends; None where too few units were there to draw.
        unit: What was drawn: '5000 images', '150 scenes', '16 blocks of 5 consecutive frames'.
    """
    estimate: float
    low: Optional[float]
    high: Optional[float]
    unit: str

    @property
    def known(self) -> bool:
        """Whether it has ends."""
        return self.low is not None

    @property
    def above_zero(self) -> bool:
        """Whether all of it is; False where it has no ends."""
        return self.known and self.low > 0

    def includes(self, value: float) -> bool:
        """Whether `value` may be the true figure; True where the interval has no ends."""
        return not self.known or self.low <= value <= self.high

    def ends(self, form: str) -> str:
        """'0.41 to 0.45', or 'none: 2 scenes'.

        Args:
            form: Of a figure, '.2f'; '+.2f' for differences.
        """
        if not self.known:
            return f'none: {self.unit}'
        return f'{self.low:{form}} to {self.high:{form}}'

    def text(self, form: str) -> str:
        """'0.43 (0.41 to 0.45)'; see :meth:`ends`."""
        return f'{self.estimate:{form}} ({self.ends(form)})'

    def to_json(self) -> Dict:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Resampled:
    """A figure on all images and on selections of them. Those of two models on the same images are
    subtracted and averaged with ``-`` and :meth:`mean`.

    Attributes:
        estimate: On all images.
        bootstrap: (R,) float64, on resamples of the units.
        jackknife: (G,) float64, on all units but one group of them, for each group; empty where
            it is not known, then the skewness of the figure counts as none.
        unit: What is drawn, see :class:`Interval`; empty for a figure that no resample moves, like
            that of a model that detects nothing.
        num_units: How many there are.
    """
    estimate: float
    bootstrap: np.ndarray
    jackknife: np.ndarray
    unit: str
    num_units: int

    def interval(self) -> Interval:
        """95% interval of the figure on other images, as many as these; without ends below ten
        units.

        The resamples are moved so that their mean is the estimate, then bias-corrected and
        accelerated (Efron 1987, equations 2.3 and 6.6), the acceleration by the jackknife over
        groups of units. A resample holds images twice, which raises AP and NDS by up to their
        standard error; other images would not. Without the move the correction takes this for
        skewness, and the interval may lie below the estimate: a nominal 95% held the expected AP
        of 40 simulated images in 83% of cases, with it in 95%.
        """
        if self.num_units < FEWEST_UNITS and self.unit:
            return Interval(self.estimate, None, None, self.unit)
        low, high = bca(self.estimate, self.bootstrap - self.bootstrap.mean() + self.estimate,
                        self.jackknife)
        return Interval(self.estimate, low, high, self.unit)

    def __sub__(self, other: 'Resampled') -> 'Resampled':
        return self + other * -1.

    def __add__(self, other: 'Resampled') -> 'Resampled':
        """On the resamples that both have: those of one seed begin alike.

        Raises:
            ValueError: They are not of the same units.
        """
        one, other = self._beside(other), other._beside(self)
        count = min(len(one.bootstrap), len(other.bootstrap))
        if one.unit != other.unit or len(one.jackknife) != len(other.jackknife):
            raise ValueError(f'resamples of {one.unit} and {other.unit} can not be paired')
        return Resampled(one.estimate + other.estimate,
                         one.bootstrap[:count] + other.bootstrap[:count],
                         one.jackknife + other.jackknife, one.unit, one.num_units)

    def __mul__(self, factor: float) -> 'Resampled':
        return Resampled(factor * self.estimate, factor * self.bootstrap,
                         factor * self.jackknife, self.unit, self.num_units)

    def _beside(self, other: 'Resampled') -> 'Resampled':
        """Itself; drawn like the other if no resample moves it."""
        if self.unit:
            return self
        return Resampled(self.estimate, self.bootstrap,
                         np.full(len(other.jackknife), self.estimate), other.unit, other.num_units)

    @staticmethod
    def mean(figures: Sequence['Resampled']) -> 'Resampled':
        """Of figures on the same images, of several seeds say."""
        return reduce(add, figures) * (1 / len(figures))

    @staticmethod
    def constant(value: float, resamples: int) -> 'Resampled':
        """A figure that is the same on any images."""
        return Resampled(value, np.full(resamples, value), np.zeros(0), '', 0)

    def to_json(self) -> Dict:
        """With six digits; :meth:`from_json` reads it."""
        return dict(estimate=round(float(self.estimate), _DIGITS),
                    bootstrap=self.bootstrap.round(_DIGITS).tolist(),
                    jackknife=self.jackknife.round(_DIGITS + 2).tolist(),
                    unit=self.unit, num_units=self.num_units)

    @classmethod
    def from_json(cls, content: Mapping) -> 'Resampled':
        """
        Raises:
            ValueError: It holds resamples alone, as earlier versions stored them.
        """
        if not isinstance(content, Mapping):
            raise ValueError('resamples of an earlier version, without the figure on all images: '
                             'evaluate again')
        return cls(content['estimate'], np.asarray(content['bootstrap'], float),
                   np.asarray(content['jackknife'], float), content['unit'],
                   content['num_units'])


Figure = Union[Resampled, Mapping]


def interval(figure: Figure) -> Interval:
    """95% interval of a figure, :class:`Resampled` or its JSON."""
    return _read(figure).interval()


def difference(one: Figure, other: Figure) -> Interval:
    """The observed difference of two figures on the resamples that both have, and its 95% interval.

    Raises:
        ValueError: They are not of the same units.
    """
    return (_read(one) - _read(other)).interval()


def _read(figure: Figure) -> Resampled:
    return figure if isinstance(figure, Resampled) else Resampled.from_json(figure)


def bca(estimate: float, bootstrap: np.ndarray, jackknife: np.ndarray):
    """Low and high end of the 95% BCa interval; see :meth:`Resampled.interval`.

    scipy.stats.bootstrap has the same formulas, but takes its jackknife itself, one evaluation per
    unit, and gives NaN where all resamples lie on one side of the estimate. These ends are then
    the outermost resamples.
    """
    bootstrap = np.sort(bootstrap)
    if bootstrap[0] == bootstrap[-1]:
        return float(bootstrap[0]), float(bootstrap[-1])
    # Half of the ties count as below, and at least half a resample lies on each side.
    below = .5 * (np.mean(bootstrap < estimate) + np.mean(bootstrap <= estimate))
    bias = ndtri(np.clip(below, .5 / len(bootstrap), 1 - .5 / len(bootstrap)))
    influence = jackknife.mean() - jackknife if len(jackknife) else np.zeros(1)
    spread = (influence**2).sum()
    acceleration = (influence**3).sum() / (6 * spread**1.5) if spread > 0 else 0.
    ends = bias + ndtri([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    shares = ndtr(bias + ends / np.maximum(1 - acceleration * ends, 1e-9))
    low, high = np.quantile(bootstrap, shares)
    return float(low), float(high)
