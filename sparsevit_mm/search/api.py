"""Python interface of the search, also used by tools/search_sparsity.py."""
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
    """Progress callbacks of a search. They do nothing by default; override those you need."""

    def say(self, text: str) -> None:
        """Called before a step that takes a while, with its description."""

    def prepared(self, pipeline: SearchPipeline) -> None:
        """Called once the dense model is measured and evaluated, before the first candidate."""

    def candidate(self, search: SparsitySearch) -> None:
        """Called after each candidate of this worker."""

    def waiting(self, worker: str, key: str, seconds: float) -> None:
        """Called repeatedly while this worker waits for another one.

        Args:
            worker: Id of the other worker.
            key: What that worker has claimed: a configuration or a step of the search.
            seconds: Time waited so far.
        """

    def ended(self) -> None:
        """Called when the search ends or fails after :meth:`prepared`."""


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
    """Find the sparsity with the best metric under a latency limit and write its config.

    Call it again with ``resume=True`` to continue from the storage.

    Args:
        config: Path, ``mmdet::path/in/the/toolkit.py``, or an unmodified Config read from a file.
        checkpoint: Checkpoint file of the adapted model.
        max_latency, min_latency: Limits in milliseconds (``30``, ``'30ms'``) or as a share of the
            dense latency (``'70%'``).
        max_macs: Limit on the MACs of the backbone.
        pareto: Search the Pareto front of metric and latency, and write a config for each of
            `points`.
        points: Latencies in the format of `max_latency`.
        calibrate: Like `pareto`, but for a dense checkpoint: swaps a dense Swin for its sparse
            version and evaluates 40 candidates on 200 images by default.
        options: Settings with dotted keys that are merged into the config.
        work_dir: Directory of all output files. Defaults to the config's, else to
            ``work_dirs/NAME_OF_CONFIG``.
        setting: How to measure latency. Defaults to one image of the test pipeline's size on the
            CPU, eager, in fp32.
        latency_of: What to measure: 'backbone', or 'model' for the whole model on val images.
            Defaults to what the latency table was measured on, if there is one; else to 'model'
            if a latency limit or a point is in milliseconds or there are knobs; else to
            ``setting.of``.
        knobs: Test-time settings to search along with the ratios. Either values of the test
            config, ``'model.test_cfg.rpn.max_per_img=1000,500,300'``, or factors of the image
            sides, ``'image_scale=1,.875,.75'``; sides become multiples of 32 pixels.
        widths: Shares of the heads and FFN neurons of each stage to search along with the ratios:
            ``dict(heads=[1, .75, .5], ffn=[1, .5])`` or ``['heads=1,.75,.5', 'ffn=1,.5']``. The
            checkpoint's units must be sorted by importance, see tools/order_units.py.
        launcher: Launcher of a distributed run. Every rank must call this function.
        watch: Callbacks that receive the progress.
        **request: Further fields of :class:`~.request.SearchRequest`, such as `num_trials`,
            `num_samples`, `metric`, `seed`, `storage`, `study`, `resume`, `out`, `overwrite`.

    Returns:
        The result. Its ``winner`` is the best finalist, in a Pareto search that of the first
        point. None on all ranks but the first.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: If the input is invalid. Raised before the
            first candidate.
    """
    pareto |= calibrate
    if max_latency is None and not pareto:
        raise ValueError('max_latency is required unless pareto or calibrate is set')
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
    of = latency_of or _latency_of(setting, limits, points if pareto else (), knobs,
                                   request.get('table'))
    asked = SearchRequest(
        config=path, checkpoint=str(checkpoint), options=options, limits=limits,
        setting=replace(setting, of=of), pareto=pareto, points=list(points), knobs=knobs,
        widths=widths, **{**defaults, **request})
    return _run(cfg, asked, watch)


def _latency_of(setting: LatencySetting, limits: Limits, points: Sequence[Latency],
                knobs: Sequence[Knob], table: Optional[str]) -> str:
    """Return the default of `latency_of`: milliseconds mean the whole model, as deployed."""
    if table is not None:
        return LatencyTable.load(table).setting.get('of', 'backbone')
    in_ms = limits.in_ms or any(not parse_latency(point, '--points')[1] for point in points)
    return 'model' if in_ms or knobs else setting.of


def _run(cfg: Config, request: SearchRequest, watch: Watch) -> Optional[SearchResult]:
    watch.say('building the model, measuring and evaluating it dense')
    evaluations = Evaluations(cfg, request)
    with evaluations.evaluator as evaluator:
        evaluator.serve()  # blocks on all ranks but the first until that one has finished
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
    """Return the path of the config, which the winning config inherits from.

    Raises:
        ValueError: If a Config has no file or differs from it.
    """
    if not isinstance(config, Config):
        return str(config)
    if config.filename is None:
        raise ValueError('the Config was not read from a file: save it with Config.dump and pass '
                         'the path')
    if config.to_dict() != load_config(config.filename).to_dict():
        raise ValueError(f'the Config was modified after it was read from {config.filename}: pass '
                         f'the changes as `options`')
    return config.filename
