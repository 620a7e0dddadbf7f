"""What a candidate must meet, and whether anything can."""
import math
from dataclasses import asdict, dataclass
from typing import Dict, Optional, Tuple, Union


Latency = Union[str, float]


def parse_latency(value: Latency, option: str) -> Tuple[float, bool]:
    """30, '30' and '30ms' are milliseconds, '70%' is a share of the dense latency: (30., False),
    (0.7, True).

    Raises:
        ValueError: Neither, negative, or not a finite number; names the option.
    """
    text = str(value).strip()
    unit = next((u for u in ('ms', '%') if text.endswith(u)), '')
    try:
        number = float(text[:len(text) - len(unit)])
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f'{option} {value!r} is neither milliseconds (30ms) nor a share of the '
                         f'dense latency (70%)')
    return (number / 100, True) if unit == '%' else (number, False)


@dataclass(frozen=True)
class Limits:
    """What a candidate must meet. Raises ValueError if min_latency is above max_latency.

    Attributes:
        max_latency, min_latency: Milliseconds, or shares of the dense latency.
        max_macs: Multiply-accumulates.
        of_dense: Whether the latencies are shares.
    """
    max_latency: float = math.inf
    min_latency: float = 0.
    max_macs: float = math.inf
    of_dense: bool = False

    @classmethod
    def parse(cls, max_latency: Optional[Latency], min_latency: Latency = 0,
              max_macs: float = math.inf) -> 'Limits':
        """From what a user gives, see :func:`parse_latency`; None is no limit.

        Raises:
            ValueError: Not latencies, or one in ms and one in %.
        """
        low, low_of_dense = parse_latency(min_latency, '--min-latency')
        high, of_dense = math.inf, low_of_dense
        if max_latency is not None:
            high, of_dense = parse_latency(max_latency, '--max-latency')
        if low and of_dense != low_of_dense:
            raise ValueError(f'--min-latency {min_latency} and --max-latency {max_latency}: give '
                             f'both in ms or both in %')
        return cls(high, low, max_macs, of_dense)

    def resolve(self, dense_latency: float) -> 'Limits':
        """The same limits in milliseconds."""
        if not self.of_dense:
            return self
        return Limits(self.max_latency * dense_latency, self.min_latency * dense_latency,
                      self.max_macs)

    def __post_init__(self):
        if self.min_latency > self.max_latency:
            raise ValueError(f'--min-latency {self.min_latency:g} is above --max-latency '
                             f'{self.max_latency:g}')

    def admit(self, latency: float) -> bool:
        """Whether a latency in milliseconds is inside."""
        return self.min_latency <= latency <= self.max_latency

    def check_reachable(self, sparsest: float, dense: float, fewest_macs: int,
                        option: str = '--max-latency') -> None:
        """Raises ValueError if no configuration can fit: names the reachable range, and the nearest
        limit that fits.

        Args:
            sparsest, dense: Milliseconds of these two configurations. Of a tiny model, whose
                selection costs more than it saves, the dense one is the faster.
            fewest_macs: Of the sparsest.
            option: What to call the upper limit.
        """
        fastest, slowest = sorted((sparsest, dense))
        reach = f'reachable here: {sparsest:.1f} ms (sparsest) to {dense:.1f} ms (dense)'
        if sparsest > dense:
            reach = (f'the dense model takes {dense:.1f} ms and the sparsest {sparsest:.1f} ms: '
                     f'pruning saves nothing here')
        if self.max_latency < fastest:
            raise ValueError(f'{option} {self.max_latency:g} ms: nothing is so fast; {reach}. '
                             f'{math.ceil(fastest * 10.5) / 10:g} ms would fit; a smaller input or '
                             f'another --dtype or --execution is faster')
        if self.min_latency > slowest:
            raise ValueError(f'--min-latency {self.min_latency:g} ms: nothing is so slow; {reach}. '
                             f'{math.floor(slowest * 9.5) / 10:g} ms would fit')
        if self.max_macs < fewest_macs:
            raise ValueError(f'--max-macs {self.max_macs / 1e9:g} G: the sparsest configuration '
                             f'takes {fewest_macs / 1e9:.3g} G')

    def identity(self) -> Dict[str, float]:
        """As they stand in a study's identity; no limit is None, since JSON has no infinity."""
        return {k: v if math.isfinite(v) else None for k, v in asdict(self).items()}
