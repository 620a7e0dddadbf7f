"""Evaluations of a search: val or a subset of it, fewer images for the first look, all of val for
the finalists, and smaller images for comparison."""
from copy import deepcopy
from typing import Dict, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.logging import print_log

from ..config.data import check_data
from ..config.export import check_exportable
from ..config.labels import check_labels
from ..config.reading import without_adaptation
from ..config.resolution import at_scale
from ..cost.latency import DTYPES
from ..evaluation.evaluator import Evaluation, Evaluator
from ..evaluation.scores.compare import check_importance, take_samples
from ..evaluation.subset import restrict_to_subset
from ..operating_point import IMAGE_SCALE, Knob
from .request import AUTO, SearchRequest

SCALES = .875, .75, .625  # factors of the image sides, for comparison


class Evaluations:
    """Model of a search and its evaluations on several data sets.

    In a distributed run each rank creates one, and all but rank 0 call ``evaluator.serve()``.

    Args:
        cfg: Config of the whole model.
        request: Settings of the search.

    Attributes:
        evaluator: Evaluator on val, or on ``request.num_samples`` images of it.
        look: Evaluation on ``request.first_look`` images of val; None if that is None.
        check: Evaluation for comparing scores. It uses the images of the evaluator, but at most
            100 if ``request.importance`` is 'auto' and the evaluator uses all of val.
        full: Evaluation on all of val; None if the evaluator uses all of val.
        smaller: Mapping of (H, W) in pixels to the evaluation on the images of the evaluator,
            resized; empty unless ``request.references`` is set.
        sizes: Mapping of image scale to (H, W) in pixels, for the scales in ``request.knobs``.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: If the data, the checkpoint or the path of
            the winning config is invalid.
    """

    def __init__(self, cfg: Config, request: SearchRequest):
        for path in request.winners().values():
            check_exportable(request.config, path, request.overwrite)
        check_data(cfg, 'val')
        check_labels(cfg, 'val')
        self._cfg = deepcopy(cfg)
        self._cfg.custom_hooks = without_adaptation(cfg.get('custom_hooks'))
        self.sizes = _sizes(cfg, request.knobs)
        main = self._images(request.num_samples, request.seed)
        self.evaluator = Evaluator(main, request.checkpoint,
                                   knobs=[knob.name for knob in request.knobs],
                                   dtype=DTYPES[request.evaluated_in])
        own = self.evaluator.selection.importance
        check_importance(own if request.importance in (None, AUTO) else request.importance,
                         main, request.checkpoint, self.evaluator.backbone)
        self.check: Evaluation = self.evaluator.main
        if request.importance == AUTO and request.num_samples is None:
            fewer = deepcopy(self._cfg)
            take_samples(fewer, None, request.seed)
            self.check = self.evaluator.on(fewer)
        self.look: Optional[Evaluation] = None
        if request.first_look is not None:
            self.look = self.evaluator.on(self._images(request.first_look, request.seed))
        self.full: Optional[Evaluation] = None
        if request.num_samples is not None:
            self.full = self.evaluator.on(self._images(None, request.seed))
        self.smaller: Dict[Tuple[int, int], Evaluation] = {}
        for scale in SCALES if request.references else ():
            try:
                scaled, size = at_scale(main, scale)
            except ValueError as error:
                print_log(f'skipping the comparison with smaller images: {error}', 'current', 30)
                break
            self.smaller.setdefault(size, self.evaluator.on(scaled))

    def _images(self, number: Optional[int], seed: int) -> Config:
        """Return the config with val restricted to `number` images; None keeps all."""
        cfg = deepcopy(self._cfg)
        if number is not None:
            restrict_to_subset(cfg, 'val', number, seed, cfg.work_dir)
        return cfg


def _sizes(cfg: Config, knobs: Sequence[Knob]) -> Dict[float, Tuple[int, int]]:
    """Return (H, W) of the images at each scale of the image scale knob, empty without one.

    Raises:
        ValueError: If the pipelines cannot be scaled, or two scales give the same size.
    """
    scales = sorted(float(v) for knob in knobs if knob.name == IMAGE_SCALE for v in knob.values)
    splits = [split for split in ('val', 'test') if cfg.get(f'{split}_dataloader')]
    sizes = {scale: at_scale(cfg, scale, splits)[1] for scale in scales}
    if len({*sizes.values()}) < len(sizes):
        raise ValueError(f'--knob {IMAGE_SCALE}: two scales give the same size, since sides are '
                         f'rounded to multiples of 32 pixels: {sizes}')
    return sizes
