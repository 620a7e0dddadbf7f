"""Which share of the heads and FFN neurons of each stage runs. No torch here."""
from dataclasses import dataclass
from numbers import Real
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

KINDS = 'heads', 'ffn'
Shares = Tuple[float, ...]


def unit_count(number: int, share: float) -> int:
    """How many of so many heads or neurons a share is: the whole part of share * number, as in the
    code of SViTE, but at least one."""
    return max(1, int(share * number + 1e-6))  # .29 * 100 is below 29


@dataclass(frozen=True)
class StageWidths:
    """Shares of the heads and of the FFN neurons that run, one per stage: the first of each block,
    so that units have to be ordered by importance. Frozen and hashable.

    Attributes:
        heads, ffn: In (0, 1].
    """
    heads: Shares
    ffn: Shares

    @classmethod
    def of(cls, value: Any, num_stages: int) -> 'StageWidths':
        """From None (all units), ``dict(heads=..., ffn=...)`` with one share for all stages or one
        for each, either of which may be left out, or other widths.

        Raises:
            ValueError: Another key, another number of shares, or one outside (0, 1].
            TypeError: None of these.
        """
        if isinstance(value, cls):
            value = value.to_dict()
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f'widths {value!r} are no dict of {" and ".join(KINDS)}')
        given = dict(value or {})
        unknown = sorted(set(given) - {*KINDS})
        if unknown:
            raise ValueError(f'widths of {", ".join(map(str, unknown))}: there are those of '
                             f'{" and ".join(KINDS)}')
        return cls(*(_spread(kind, given.get(kind), num_stages) for kind in KINDS))

    @property
    def is_full(self) -> bool:
        """Whether all heads and neurons run."""
        return min(self.heads + self.ffn, default=1.) == 1.

    def to_dict(self) -> Dict[str, List[float]]:
        """What a config holds."""
        return {kind: list(getattr(self, kind)) for kind in KINDS}

    def at(self, point: Any) -> 'StageWidths':
        """The widths at a point: its own, and these where it names none.

        Args:
            point: A SparsityConfig, or an OperatingPoint with widths among its knobs.

        Raises:
            ValueError: It names a stage that is not there.
        """
        if not point.knobs:
            return self
        shares = {name: share for name, share in point.knobs if is_width(name)}
        own = {kind: [shares.pop(width_name(kind, stage), share)
                      for stage, share in enumerate(getattr(self, kind))] for kind in KINDS}
        if shares:
            raise ValueError(f'{", ".join(shares)}: there are {len(self.heads)} stages')
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
    """The share as a float; ValueError that begins with `what` unless it is one in (0, 1]."""
    if isinstance(share, bool) or not isinstance(share, Real) or not 0 < share <= 1:
        raise ValueError(f'{what} is {share!r}, no share in (0, 1]')
    return float(share)


def width_name(kind: str, stage: int) -> str:
    """Of the width as a value beside the ratios."""
    return f'{kind}_stage{stage}'


def is_width(name: str) -> bool:
    kind, _, stage = name.partition('_stage')
    return kind in KINDS and stage.isdigit()


def widths_label(point: Any) -> str:
    """Short text of the widths at a point, of each kind that it names: 'heads 1 0.5 1 1, ffn 0.5';
    '' if it names none."""
    widths = StageWidths.of(None, len(point.depths)).at(point).to_dict()
    kinds = {name.partition('_stage')[0] for name, _ in point.knobs if is_width(name)}
    return ', '.join(f'{kind} ' + ' '.join(f'{share:g}' for share in (
        shares[:1] if len({*shares}) == 1 else shares))
        for kind, shares in widths.items() if kind in kinds)


def parse_widths(texts: Sequence[str]) -> Dict[str, Shares]:
    """From ``KIND=SHARE,SHARE,...``, the choices of each kind by its name.

    Raises:
        ValueError: Another form, a kind twice, or as :func:`check_widths`.
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
            raise ValueError(f'--widths: {kind} is there twice')
        found[kind] = values
    return check_widths(found)


def check_widths(choices: Optional[Mapping[str, Sequence[float]]]) -> Dict[str, Shares]:
    """The shares to choose from for each kind, from the largest on.

    Raises:
        ValueError: A kind that is none, no share, two alike, or one outside (0, 1].
    """
    checked = {}
    for kind, shares in (choices or {}).items():
        if kind not in KINDS:
            raise ValueError(f'widths of {kind!r}: there are those of {" and ".join(KINDS)}')
        if isinstance(shares, (str, Real)) or not shares:
            raise ValueError(f'widths of {kind} {shares!r} are no list of shares')
        values = tuple(sorted((check_share(f'width of {kind}', s) for s in shares), reverse=True))
        if len({*values}) < len(values):
            raise ValueError(f'widths of {kind} {list(shares)}: two of them are the same')
        checked[kind] = values
    return checked
