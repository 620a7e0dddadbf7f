"""A search from Python: what tools/search_sparsity.py does, and prints."""
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Union

from mmengine.config import Config
from mmengine.dist import is_main_process

from ..config.data import input_shape
from ..config.reading import load_config, open_config
from ..config.swap import ensure_sparse
from ..cost.latency import LatencySetting
from ..cost.table import LatencyTable
from ..operating_point import Knob
from ..widths import check_widths, parse_widths
from .limits import Latency, Limits, parse_latency
from .pipeline import SearchPipeline
from .request import POINTS, SearchRequest
from .results import SearchResult
from .splits import Evaluations
from .store.urls import sqlite_url
from .study import SparsitySearch

CALIBRATION = dict(num_trials=40, num_samples=200)


class Watch:
    """Progress of a search. Does nothing by default; override the methods you need."""

    def say(self, text: str) -> None:
        """A step that takes a while begins."""

    def prepared(self, pipeline: SearchPipeline) -> None:
        """The dense model is measured and evaluated; candidates come next."""

    def candidate(self, search: SparsitySearch) -> None:
        """A candidate was judged."""

    def waiting(self, worker: str, key: str, seconds: float) -> None:
        """Another worker is waited for, so long by now; `key` says what it works on: a
        configuration, or a step of the search."""

    def ended(self) -> None:
        """The search is over, or failed."""


def search(config: Union[str, Path, Config], checkpoint: str,
           max_latency: Optional[Union[str, float]] = None, *,
           min_latency: Union[str, float] = 0, max_macs: float = math.inf,
           pareto: bool = False, points: Sequence[str] = POINTS, calibrate: bool = False,
           options: Optional[Dict] = None, work_dir: Optional[Union[str, Path]] = None,
           setting: Optional[LatencySetting] = None, latency_of: Optional[str] = None,
           knobs: Sequence[Union[str, Knob]] = (),
           widths: Union[Sequence[str], Mapping[str, Sequence[float]]] = (),
           launcher: Optional[str] = None, watch: Watch = Watch(),
           **request: Any) -> Optional[SearchResult]:
    """Finds the sparsity with the best metric under a latency, and writes its config.

    Args:
        config: Path, ``mmdet::path/in/the/toolkit.py``, or a Config as it was read from a file.
        checkpoint: Checkpoint file of the adapted model.
        max_latency, min_latency: Milliseconds, or text: ``'30ms'``, ``'70%'`` of the dense latency.
        max_macs: Of the backbone.
        pareto: Search the front of metric against latency, with a config for each of `points`.
        points: As `max_latency`.
        calibrate: As `pareto` on a dense checkpoint, whose Swin is swapped on the way: by default
            40 candidates on 200 images.
        options: Dotted settings merged into the config.
        work_dir: Where all files go; as the config says by default.
        setting: How latency is measured; by default one image of the test pipeline's size on the
            CPU, eager, in fp32.
        latency_of: 'backbone' or 'model', the whole of it on images of val. By default the model if
            a latency is in milliseconds or there are knobs, the backbone if all are shares; with a
            latency table what that was measured of.
        knobs: Values of the test config to choose beside the ratios:
            ``'model.test_cfg.rpn.max_per_img=1000,500,300'``; or of the size of the images:
            ``'image_scale=1,.875,.75'`` of the sides, in multiples of 32 pixels.
        widths: Shares of the heads and FFN neurons of each stage to choose beside the ratios:
            ``dict(heads=[1, .75, .5], ffn=[1, .5])``, or ``['heads=1,.75,.5', 'ffn=1,.5']``. The
            checkpoint's units must be in order, see tools/order_units.py.
        launcher: Of a distributed run. All ranks call this; all but the first get None.
        watch: Gets the progress.
        **request: Further fields of :class:`~.request.SearchRequest`: `num_trials`, `num_samples`,
            `metric`, `seed`, `storage`, `study`, `resume`, `out`, `overwrite` ...

    Returns:
        What was found; ``result.winner`` first. The same search again, with ``resume=True``, goes
        on from what is in its storage.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: Name what is wrong, before the first
            candidate.
    """
    pareto |= calibrate
    if max_latency is None and not pareto:
        raise ValueError('max_latency is needed, or pareto, or calibrate')
    path = _path_of(config)
    request = {key: value for key, value in request.items() if value is not None}
    if calibrate:
        request = {**CALIBRATION, **request}
        path = ensure_sparse(path, Path(work_dir or 'work_dirs'))
    limits = Limits.parse(max_latency, min_latency, max_macs)
    cfg = open_config(path, options, work_dir, launcher)
    work_dir = Path(cfg.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    defaults = dict(out=work_dir / 'winner.py',
                    storage=sqlite_url(work_dir / 'search.db'))
    knobs = [knob if isinstance(knob, Knob) else Knob.parse(knob) for knob in knobs]
    widths = check_widths(widths) if isinstance(widths, Mapping) else parse_widths(widths)
    setting = setting or LatencySetting(input_shape(cfg))
    latencies = list(points) if pareto else [max_latency]
    of = latency_of or _latency_of(setting, latencies, knobs, request.get('table'))
    asked = SearchRequest(
        config=path, checkpoint=str(checkpoint), options=options, limits=limits,
        setting=replace(setting, of=of), pareto=pareto, points=list(points), knobs=knobs,
        widths=widths, **{**defaults, **request})
    return _run(cfg, asked, watch)


def _latency_of(setting: LatencySetting, latencies: Sequence[Latency], knobs: Sequence[Knob],
                table: Optional[str]) -> str:
    """What a latency is of, where nobody says: a budget in milliseconds is for what runs."""
    if table is not None:
        return LatencyTable.load(table).setting.get('of', 'backbone')
    in_ms = any(not parse_latency(value, '--points')[1] for value in latencies)
    return 'model' if in_ms or knobs else setting.of


def _run(cfg: Config, request: SearchRequest, watch: Watch) -> Optional[SearchResult]:
    watch.say('building the model, measuring and evaluating it dense')
    evaluations = Evaluations(cfg, request)
    with evaluations.evaluator as evaluator:
        evaluator.serve()  # on all ranks but the first, until that one is through
        if not is_main_process():
            return None
        with SearchPipeline(cfg, request, evaluations) as pipeline:
            pipeline.prepare(lambda label: watch.say(f'evaluating {label}'), watch.waiting)
            watch.prepared(pipeline)
            try:
                return pipeline.run(lambda _: watch.candidate(pipeline.search))
            finally:
                watch.ended()


def _path_of(config: Union[str, Path, Config]) -> str:
    """The winner is a config over a file, so a Config must be what its file holds."""
    if not isinstance(config, Config):
        return str(config)
    if config.filename is None:
        raise ValueError('the Config was read from no file: give the path of one (Config.dump '
                         'writes it)')
    if config.to_dict() != load_config(config.filename).to_dict():
        raise ValueError(f'the Config was changed since it was read from {config.filename}: give '
                         f'the changes as `options`')
    return config.filename
