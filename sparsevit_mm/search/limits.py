"""Limits on latency and MACs, and whether any configuration can meet them."""
import math
from dataclasses import asdict, dataclass
from typing import Dict, Optional, Tuple, Union


Latency = Union[str, float]


def parse_latency(value: Latency, option: str) -> Tuple[float, bool]:
    """Parse a latency, which is given in milliseconds or as a share of the dense latency.

    Args:
        value: ``30``, ``'30'``, ``'30ms'`` or ``'70%'``.
        option: Name of the option, for the error message.

    Returns:
        The number, and whether it is a share: ``(30., False)`` or ``(0.7, True)``.

    Raises:
        ValueError: If the value has another format, is negative or not finite.
    """
    text = str(value).strip()
    unit = next((u for u in ('ms', '%') if text.endswith(u)), '')
    try:
        number = float(text[:len(text) - len(unit)])
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f'{option} {value!r} is neither in milliseconds (30ms) nor a share '
                         f'of the dense latency (70%)')
    return (number / 100, True) if unit == '%' else (number, False)


@dataclass(frozen=True)
class Limits:
    """Limits that a candidate must meet to be evaluated.

    Attributes:
        max_latency, min_latency: Milliseconds, or shares of the dense latency.
        max_macs: Multiply-accumulate operations.
        of_dense: Whether the latencies are shares.

    Raises:
        ValueError: If `min_latency` is above `max_latency`.
    """
    max_latency: float = math.inf
    min_latency: float = 0.
    max_macs: float = math.inf
    of_dense: bool = False

    @classmethod
    def parse(cls, max_latency: Optional[Latency], min_latency: Latency = 0,
              max_macs: float = math.inf) -> 'Limits':
        """Create limits from user input, see :func:`parse_latency`; None means no limit.

        Raises:
            ValueError: If a latency is invalid, or one is in ms and the other in %.
        """
        low, low_of_dense = parse_latency(min_latency, '--min-latency')
        high, of_dense = math.inf, low_of_dense
        if max_latency is not None:
            high, of_dense = parse_latency(max_latency, '--max-latency')
        if low and of_dense != low_of_dense:
            raise ValueError(f'--min-latency {min_latency} and --max-latency {max_latency} must '
                             f'both be in ms or both in %')
        return cls(high, low, max_macs, of_dense)

    @property
    def in_ms(self) -> bool:
        """Whether a latency limit is given in milliseconds."""
        return not self.of_dense and (self.max_latency < math.inf or self.min_latency > 0)

    def resolve(self, dense_latency: float) -> 'Limits':
        """Return the same limits in milliseconds."""
        if not self.of_dense:
            return self
        return Limits(self.max_latency * dense_latency, self.min_latency * dense_latency,
                      self.max_macs)

    def __post_init__(self):
        if self.min_latency > self.max_latency:
            raise ValueError(f'--min-latency {self.min_latency:g} is above --max-latency '
                             f'{self.max_latency:g}')

    def admit(self, latency: float) -> bool:
        """Whether a latency in milliseconds is within the limits."""
        return self.min_latency <= latency <= self.max_latency

    def check_reachable(self, sparsest: float, dense: float, fewest_macs: int,
                        option: str = '--max-latency') -> None:
        """Check that some configuration can meet the limits.

        Args:
            sparsest, dense: Milliseconds of these two configurations. The dense one may be faster
                in a tiny model, where selection costs more than it saves.
            fewest_macs: MACs of the sparsest configuration.
            option: Name of the upper latency limit, for the error message.

        Raises:
            ValueError: If none can. The message gives the reachable range and a limit that fits.
        """
        fastest, slowest = sorted((sparsest, dense))
        reach = f'reachable here: {sparsest:.1f} ms (sparsest) to {dense:.1f} ms (dense)'
        if sparsest > dense:
            reach = (f'the dense model takes {dense:.1f} ms and the sparsest {sparsest:.1f} ms: '
                     f'pruning saves nothing here')
        if self.max_latency < fastest:
            raise ValueError(f'{option} {self.max_latency:g} ms: no configuration is that fast; '
                             f'{reach}. {math.ceil(fastest * 10.5) / 10:g} ms would fit; a smaller '
                             f'input or another --dtype or --execution may be faster')
        if self.min_latency > slowest:
            raise ValueError(f'--min-latency {self.min_latency:g} ms: no configuration is that '
                             f'slow; {reach}. {math.floor(slowest * 9.5) / 10:g} ms would fit')
        if self.max_macs < fewest_macs:
            raise ValueError(f'--max-macs {self.max_macs / 1e9:g} G: the sparsest configuration '
                             f'needs {fewest_macs / 1e9:.3g} G')

    def identity(self) -> Dict[str, float]:
        """Return the limits for a study's identity, infinity as None because JSON has none."""
        return {k: v if math.isfinite(v) else None for k, v in asdict(self).items()}
