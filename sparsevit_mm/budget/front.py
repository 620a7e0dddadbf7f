"""Pareto front of the configurations of an adapted checkpoint, and its file format."""
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Union

from ..files import replacing
from ..operating_point import point_from_json, point_to_json
from ..sparsity import Depths, SparsityConfig


@dataclass(frozen=True)
class FrontPoint:
    """Configuration with its latency and metric.

    Attributes:
        config: Configuration; an OperatingPoint if the search set knobs.
        latency: Latency in milliseconds of the backbone or of the whole model, as `of` in the
            front's setting says.
        metric: Value of the metric; higher is better.

    Raises:
        ValueError: If the latency is not positive and finite, or the metric is not finite.
    """
    config: SparsityConfig
    latency: float
    metric: float

    def __post_init__(self):
        if not 0 < self.latency < math.inf:
            raise ValueError(f'latency of {self.config} is {self.latency} ms: must be positive and '
                             f'finite')
        if not math.isfinite(self.metric):
            raise ValueError(f'metric of {self.config} is {self.metric}: must be finite')


@dataclass(frozen=True)
class Front:
    """Pareto front of latency and metric: each slower configuration has a higher metric.

    Attributes:
        points: From the fastest to the slowest, which has the best metric. They may be given in any
            order; dominated points (another is no slower and no worse) are dropped.
        metric: Key of the metric, such as ``coco/bbox_mAP``.
        setting: How latency was measured, see ``LatencySetting.identity()``.
        checkpoint: The searched checkpoint, as
            :func:`~sparsevit_mm.search.identity.file_identity` describes it; None in fronts written
            by version 0.1.
        weights: Fingerprint of the backbone's weights, see
            :func:`~sparsevit_mm.models.checkpoints.fingerprint`; None in the same fronts.

    Raises:
        ValueError: If there are no points, or points of different depths.
    """
    points: Sequence[FrontPoint]
    metric: str
    setting: Dict
    checkpoint: Optional[str] = None
    weights: Optional[Sequence[float]] = None

    def __post_init__(self):
        depths = {p.config.depths for p in self.points}
        if len(depths) != 1:
            raise ValueError(f'the points of a front have different depths: {sorted(depths)}'
                             if depths else 'a front needs at least one point')
        unbeaten: List[FrontPoint] = []
        for point in sorted(self.points, key=lambda p: (p.latency, -p.metric)):
            if not unbeaten or point.metric > unbeaten[-1].metric:
                unbeaten.append(point)
        object.__setattr__(self, 'points', tuple(unbeaten))

    @property
    def depths(self) -> Depths:
        """Blocks in each stage of the backbone."""
        return self.points[0].config.depths

    def within(self, ms: float,
               latency: Optional[Callable[[SparsityConfig], float]] = None) -> FrontPoint:
        """Return the point with the best metric among those with a latency of at most `ms`.

        Args:
            ms: Milliseconds.
            latency: Maps a configuration to milliseconds. It replaces the latencies of the front,
                also in the returned point.

        Raises:
            ValueError: If `ms` is not positive, or no point is fast enough. The message then names
                the fastest.
        """
        if not ms > 0:  # NaN fails too
            raise ValueError(f'a latency budget must be positive, not {ms} ms')
        points = self.points
        if latency is not None:
            points = tuple(replace(p, latency=latency(p.config)) for p in points)
        fitting = [p for p in points if p.latency <= ms]
        if not fitting:
            fastest = min(points, key=lambda p: p.latency)
            raise ValueError(f'no configuration of the front takes {ms:g} ms or less; the fastest, '
                             f'{fastest.config}, takes {fastest.latency:.3f} ms')
        return max(fitting, key=lambda p: p.metric)

    def save(self, path: Union[str, Path]) -> None:
        """Write the front as JSON: its attributes, with ``points`` as a list of ``sparsity`` (one
        ratio per block, grouped by stage), ``knobs`` (if any), ``latency`` and ``metric``. The
        write is atomic."""
        record = dict(metric=self.metric, setting=self.setting, checkpoint=self.checkpoint,
                      weights=self.weights and list(self.weights),
                      points=[dict(point_to_json(p.config), latency=float(p.latency),
                                   metric=float(p.metric)) for p in self.points])
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')

    @classmethod
    def load(cls, path: Union[str, Path]) -> 'Front':
        """Read a front that :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not a front. The message names the file and the fault.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f'front {path} does not exist')
        try:
            record = json.loads(Path(path).read_text(encoding='utf-8'))
            points = [_point(p) for p in _get(record, 'points', list)]
            optional = {key: _get(record, key, kind)
                        for key, kind in (('checkpoint', str), ('weights', list))
                        if record.get(key) is not None}
            return cls(points, _get(record, 'metric', str), _get(record, 'setting', dict),
                       **optional)
        except (ValueError, TypeError, OverflowError) as error:  # also from JSON and UTF-8 decoding
            raise ValueError(f'front {path}: {error}') from error


def _point(record: Dict) -> FrontPoint:
    stages = _get(record, 'sparsity', list)
    if not stages or not all(isinstance(stage, list) and stage for stage in stages):
        raise ValueError(f'sparsity {stages} is not a list of stages with a ratio for every block')
    if record.get('knobs') is not None:
        _get(record, 'knobs', dict)
    return FrontPoint(point_from_json(record, [len(stage) for stage in stages]),
                      _get(record, 'latency', float), _get(record, 'metric', float))


def _get(record: Dict, key: str, kind: type):
    """Return the value of a key of a JSON object, and check its type; ints pass as floats.

    Raises:
        ValueError: If the key is missing, or the value has another type.
    """
    if not isinstance(record, dict) or key not in record:
        raise ValueError(f'{key!r} is missing in {record!r:.80}')
    value = record[key]
    if kind is float and type(value) is int:
        value = float(value)
    if not isinstance(value, kind):
        raise ValueError(f'{key!r} is {value!r:.80}, not a {kind.__name__}')
    return value
