"""Hook that draws kept windows, prediction and ground truth in every validation and test."""
from contextlib import ExitStack
from pathlib import Path
from typing import Optional, Sequence

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.registry import HOOKS
from mmengine.structures import BaseDataElement

from ..models import get_sparse_backbone
from ..models.checkpoints import unwrapped
from .ground_truth import ground_truths_in, loading_steps
from .inference import read_image
from .panel import PanelPainter
from .windows import Placement, count_blocks


@HOOKS.register_module()
class KeptWindowsHook(Hook):
    """Hook that draws which windows ran for the first images of each validation and test.

    The panels go to ``runner.visualizer`` as ``val_kept_windows_0``, ``test_kept_windows_0`` and
    so on, with the training iteration as step: to TensorBoard with ``TensorboardVisBackend``, to
    ``vis_data/vis_image`` with ``LocalVisBackend``. The visualizer named in the config draws the
    prediction, and the ground truth if the dataset's pipeline loads it.

    Only the main process draws. It records windows only until the images are drawn; the backbone
    runs these batches eagerly, whatever its `execution`. Images are read from the ``img_path`` of
    their data samples. If a sample has no single ``img_path`` (several cameras), its image cannot
    be read, or the backbone does not run exactly once per image, the hook logs a warning and draws
    nothing more in this pass.

    Args:
        num_images: Number of images to draw.

    Raises:
        ValueError: If `num_images` is not positive, or, when the runner starts, if the model does
            not have exactly one sparse backbone.
    """
    # In after_val_epoch this runs before SparsityAdaptationHook, whose extra passes are not drawn.
    priority = 'HIGH'

    def __init__(self, num_images: int = 4):
        if num_images < 1:
            raise ValueError(f'num_images is {num_images}, not positive')
        self.num_images = num_images
        self.missing = 0  # images left to draw in this pass
        self.recording = ExitStack()

    def before_run(self, runner) -> None:
        self.backbone = get_sparse_backbone(runner.model)

    # mmengine calls these four methods for training, validation and test; `mode` tells which.
    def _before_epoch(self, runner, mode: str = 'train') -> None:
        self.recording.close()  # an interrupted pass leaves it open
        self.missing = 0
        if mode != 'train' and is_main_process():
            self.missing = self.num_images
            loop = runner.val_loop if mode == 'val' else runner.test_loop
            self.dataset = loop.dataloader.dataset
            self.painter = PanelPainter(
                runner.cfg.get('visualizer'), getattr(self.dataset, 'metainfo', None))

    def _before_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None,
                     mode: str = 'train') -> None:
        if self.missing:
            self.maps = self.recording.enter_context(self.backbone.recording())

    def _after_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None,
                    outputs: Optional[Sequence[BaseDataElement]] = None,
                    mode: str = 'train') -> None:
        self.recording.close()
        if not self.missing:
            return
        for index, sample in enumerate(outputs[:self.missing]):
            name = f'{mode}_kept_windows_{self.num_images - self.missing}'
            try:
                panel = self._draw(runner, sample, index)
            except _Undrawable as error:
                runner.logger.warning(f'KeptWindowsHook draws nothing: {error}')
                self.missing = 0
                return
            runner.visualizer.add_image(name, panel, runner.iter)
            self.missing -= 1

    def _after_epoch(self, runner, mode: str = 'train') -> None:
        self.missing = 0

    def _draw(self, runner, sample: BaseDataElement, index: int):
        metainfo = getattr(sample, 'metainfo', {})
        path = metainfo.get('img_path')
        if not isinstance(path, (str, Path)) or 'img_shape' not in metainfo:
            raise _Undrawable('the data samples do not hold img_path and img_shape of one image')
        try:
            image = read_image(path)
            stages = count_blocks(self.backbone, self.maps, image.shape[:2],
                                  Placement.from_metainfo(metainfo), index)
        except (OSError, ValueError) as error:
            raise _Undrawable(error) from None
        title = f'{Path(path).name}, sparsity {self.backbone.sparsity.label}'
        return self.painter.panel(image, stages, title, sample, self._ground_truth(runner, path))

    def _ground_truth(self, runner, path: str) -> Optional[BaseDataElement]:
        """Load the ground truth again: the data sample may hold it at the resized scale."""
        steps = loading_steps(getattr(getattr(self.dataset, 'pipeline', None), 'transforms', ()))
        if not steps:
            return None
        model = unwrapped(runner.model)
        return ground_truths_in(self.dataset, [path], steps, model).get(path)


class _Undrawable(Exception):
    """Reason why an image cannot be drawn. It must not stop training."""
