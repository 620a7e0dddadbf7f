"""The model of a search, and the data it is evaluated on: val or some of it, fewer images for the
first look, all of val for the end, smaller images for comparison."""
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

SCALES = .875, .75, .625  # of the image sides, for comparison


class Evaluations:
    """Everything that evaluates. In a distributed run each rank makes one, and all but rank 0 call
    ``evaluator.serve()``.

    Args:
        cfg: The config.
        request: What the user asks for.

    Attributes:
        evaluator: On val, or ``request.num_samples`` images of it.
        look: On ``request.first_look`` images of it; None without.
        check: On the images that scores are compared on, if ``request.importance`` is 'auto': the
            evaluator's, or 100 where it has all of val.
        full: On all of val; None if the evaluator has all.
        smaller: (H, W) in pixels -> the same images as the evaluator's, scaled; empty unless
            ``request.references``.
        sizes: Image scale -> (H, W) in pixels, for those that ``request.knobs`` may set.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: Name what is wrong with the data, the
            checkpoint, or the place of the winner.
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
                print_log(f'no comparison with smaller images: {error}', 'current', 30)
                break
            self.smaller.setdefault(size, self.evaluator.on(scaled))

    def _images(self, number: Optional[int], seed: int) -> Config:
        """The config with so many images of val, or all."""
        cfg = deepcopy(self._cfg)
        if number is not None:
            restrict_to_subset(cfg, 'val', number, seed, cfg.work_dir)
        return cfg


def _sizes(cfg: Config, knobs: Sequence[Knob]) -> Dict[float, Tuple[int, int]]:
    """(H, W) of the images at each scale to choose from, none without such a knob.

    Raises:
        ValueError: The pipelines can't be scaled, or two scales make the same size.
    """
    scales = sorted(float(v) for knob in knobs if knob.name == IMAGE_SCALE for v in knob.values)
    splits = [split for split in ('val', 'test') if cfg.get(f'{split}_dataloader')]
    sizes = {scale: at_scale(cfg, scale, splits)[1] for scale in scales}
    if len({*sizes.values()}) < len(sizes):
        raise ValueError(f'--knob {IMAGE_SCALE}: sides become multiples of 32 pixels, and two of '
                         f'the scales make the same size: {sizes}')
    return sizes
