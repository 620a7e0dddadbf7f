"""Measure the latency of a whole model, with neck, heads and post-processing, on real images."""
from copy import deepcopy
from typing import Any, Callable, Dict, List, Mapping, Sequence, Union

import torch
from mmengine.model import BaseModel

from ..compat import timer
from ..models import get_sparse_backbone
from ..models.checkpoints import unwrapped
from ..models.knobs import KnobSetter
from ..models.precision import half_precision
from ..models.selection.ranking import Selection
from ..operating_point import image_scale
from ..sparsity import SparsityConfig
from .latency import DTYPES, LatencySetting, Meter

IMAGES = 8  # batches that the rounds cycle through, as the cost of heads depends on the image


class ModelMeter(Meter):
    """Measures the latency of configurations of a whole model in one setting, from the preprocessed
    batch to its data samples: with post-processing, without loading and normalizing images.

    The model is copied, so that the original keeps its device, sparsity and knobs. For half
    precision see :func:`~sparsevit_mm.models.precision.half_precision`.

    Args:
        model: Model of a toolkit, with a sparse backbone.
        batches: Batches from the toolkit's data loader, see :func:`spread_batches`. Each round runs
            all configurations on one batch, the next round on the next. If configurations set the
            image scale, a dict from scale to batches, equally many for each.
        setting: See :class:`~.latency.LatencySetting`; its `of` is 'model'.
        rounds: Number of timed runs of each configuration.
        knobs: Names of the knobs that configurations may set.

    Raises:
        ValueError: If `rounds` is below 1 or there are no batches; also see
            :class:`~sparsevit_mm.models.knobs.KnobSetter`.
    """

    def __init__(self, model: BaseModel, batches: Union[Sequence[Any], Mapping[float, Sequence]],
                 setting: LatencySetting, rounds: int = 15, knobs: Sequence[str] = ()):
        super().__init__(setting, rounds)
        if not isinstance(batches, Mapping):
            batches = {1.: batches}
        if not all(batches.values()):
            raise ValueError('no images to measure the whole model on')
        model = unwrapped(model)
        self.model = deepcopy(model).to(setting.device).eval()
        self.backbone = get_sparse_backbone(self.model)
        self.backbone.execution = setting.execution
        self.set_knobs = KnobSetter(self.model, knobs)
        with torch.inference_mode():
            self._batches: Dict[float, List] = {
                scale: [self.model.data_preprocessor(deepcopy(batch), False) for batch in group]
                for scale, group in batches.items()}

    def select(self, selection: Selection) -> None:
        self.backbone.selection = selection

    def next_round(self) -> None:
        for group in self._batches.values():
            group.append(group.pop(0))

    @torch.inference_mode()
    def _run(self, config: SparsityConfig) -> float:
        self.backbone.sparsity = config
        self.set_knobs(config)
        batch, dtype = self._batches[image_scale(config)][0], DTYPES[self.setting.dtype]
        with half_precision(self.model, dtype):
            start = timer()  # waits for the device
            if isinstance(batch, dict):
                self.model(**batch, mode='predict')
            else:
                self.model(*batch, mode='predict')
            return (timer() - start) * 1e3


def spread_batches(dataset: Sequence[Any], collate: Callable[[List], Any], batch_size: int,
                   number: int = IMAGES) -> List[Any]:
    """Collate up to `number` batches from images spread evenly over a data set: as many as it has
    images for, and at least one."""
    count = max(1, min(number, len(dataset) // batch_size))
    places = [int((i + .5) * len(dataset) / (count * batch_size))
              for i in range(count * batch_size)]
    return [collate([dataset[place] for place in places[i::count]]) for i in range(count)]
