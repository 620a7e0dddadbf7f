"""Shares of the heads and FFN neurons of each stage that run. This module does not need torch."""
from dataclasses import dataclass
from numbers import Real
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

KINDS = 'heads', 'ffn'
Shares = Tuple[float, ...]


def unit_count(number: int, share: float) -> int:
    """Return how many of `number` heads or neurons run at a share: floor(share * number), as in the
    code of SViTE, but at least 1.
    """
    return max(1, int(share * number + 1e-6))  # .29 * 100 is below 29 in floating point


@dataclass(frozen=True)
class StageWidths:
    """Shares of the heads and of the FFN neurons that run, one per stage.

    Each block runs its first units, so units must be ordered by importance. Frozen and hashable.

    Attributes:
        heads, ffn: Shares in (0, 1], one per stage.
    """
    heads: Shares
    ffn: Shares

    @classmethod
    def of(cls, value: Any, num_stages: int) -> 'StageWidths':
        """Create widths from None (all units), ``dict(heads=..., ffn=...)`` or other widths.

        Each entry of the dict is one share for all stages or one per stage, and may be left out.

        Raises:
            ValueError: If a key is unknown, the number of shares is wrong, or a share is outside
                (0, 1].
            TypeError: If `value` is none of these types.
        """
        if isinstance(value, cls):
            value = value.to_dict()
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f'widths {value!r} are not a dict of {" and ".join(KINDS)}')
        given = dict(value or {})
        unknown = sorted(set(given) - {*KINDS})
        if unknown:
            raise ValueError(f'widths of {", ".join(map(str, unknown))} do not exist, only those '
                             f'of {" and ".join(KINDS)}')
        return cls(*(_spread(kind, given.get(kind), num_stages) for kind in KINDS))

    @property
    def is_full(self) -> bool:
        """Whether all heads and neurons run."""
        return min(self.heads + self.ffn, default=1.) == 1.

    def to_dict(self) -> Dict[str, List[float]]:
        """Return the shares as a config holds them."""
        return {kind: list(getattr(self, kind)) for kind in KINDS}

    def at(self, point: Any) -> 'StageWidths':
        """Return the widths at a point. Shares that the point does not set stay unchanged.

        Args:
            point: A SparsityConfig, or an OperatingPoint that may have widths among its knobs.

        Raises:
            ValueError: If the point names a stage that does not exist.
        """
        if not point.knobs:
            return self
        shares = {name: share for name, share in point.knobs if is_width(name)}
        own = {kind: [shares.pop(width_name(kind, stage), share)
                      for stage, share in enumerate(getattr(self, kind))] for kind in KINDS}
        if shares:
            raise ValueError(f'{", ".join(shares)}: the backbone has only {len(self.heads)} stages')
        return StageWidths.of(own, len(self.heads))


def _spread(kind: str, given: Any, num_stages: int) -> Shares:
    if given is None:
        given = 1.
    shares = [given] * num_stages if isinstance(given, Real) else given
    if isinstance(shares, str) or not isinstance(shares, Sequence) or len(shares) != num_stages:
        raise ValueError(f'widths of {kind} {given!r} are neither one share nor one for each of '
                         f'{num_stages} stages')
    return tuple(check_share(f'width of {kind} of stage {stage}', share)
                 for stage, share in enumerate(shares))


def check_share(what: str, share: Any) -> float:
    """Return the share as a float.

    Raises:
        ValueError: If it is not a number in (0, 1]. The message begins with `what`.
    """
    if isinstance(share, bool) or not isinstance(share, Real) or not 0 < share <= 1:
        raise ValueError(f'{what} is {share!r}, not a share in (0, 1]')
    return float(share)


def width_name(kind: str, stage: int) -> str:
    """Return the name of the knob of a width, such as 'heads_stage0'."""
    return f'{kind}_stage{stage}'


def is_width(name: str) -> bool:
    kind, _, stage = name.partition('_stage')
    return kind in KINDS and stage.isdigit()


def widths_label(point: Any) -> str:
    """Return a short text of the widths of each kind that a point sets, such as
    'heads 1 0.5 1 1, ffn 0.5', or '' if it sets none.
    """
    widths = StageWidths.of(None, len(point.depths)).at(point).to_dict()
    kinds = {name.partition('_stage')[0] for name, _ in point.knobs if is_width(name)}
    return ', '.join(f'{kind} ' + ' '.join(f'{share:g}' for share in (
        shares[:1] if len({*shares}) == 1 else shares))
        for kind, shares in widths.items() if kind in kinds)


def parse_widths(texts: Sequence[str]) -> Dict[str, Shares]:
    """Parse texts of the form ``KIND=SHARE,SHARE,...`` to the choices of each kind.

    Raises:
        ValueError: If a text has another form or a kind occurs twice; see also
            :func:`check_widths`.
    """
    found: Dict[str, Any] = {}
    for text in texts:
        kind, equals, shares = text.partition('=')
        try:
            values = [float(share) for share in shares.split(',')]
        except ValueError:
            values = []
        if not equals or not values:
            raise ValueError(f'--widths {text!r} is not {"|".join(KINDS)}=SHARE,SHARE,...')
        if kind in found:
            raise ValueError(f'--widths: {kind} is given twice')
        found[kind] = values
    return check_widths(found)


def check_widths(choices: Optional[Mapping[str, Sequence[float]]]) -> Dict[str, Shares]:
    """Return the shares to choose from for each kind, in descending order.

    Raises:
        ValueError: If a kind is unknown or has no list of shares, a share is outside (0, 1], or
            two are the same.
    """
    checked = {}
    for kind, shares in (choices or {}).items():
        if kind not in KINDS:
            raise ValueError(f'widths of {kind!r} do not exist, only those of '
                             f'{" and ".join(KINDS)}')
        if isinstance(shares, (str, Real)) or not shares:
            raise ValueError(f'widths of {kind} {shares!r} are not a list of shares')
        values = tuple(sorted((check_share(f'width of {kind}', s) for s in shares), reverse=True))
        if len({*values}) < len(values):
            raise ValueError(f'widths of {kind} {list(shares)} contain duplicates')
        checked[kind] = values
    return checked
