"""Sorting of the heads and neurons of a checkpoint by importance, so that it can run at reduced
width."""
from contextlib import closing
from pathlib import Path
from typing import Callable, Dict

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import set_random_seed
from torch import Tensor

from ..config.data import check_data
from ..config.labels import check_labels
from ..files import replacing
from ..hooks.head_watch import HeadWatch
from ..models import get_sparse_backbone
from ..models.checkpoints import read_checkpoint
from ..weights.blocks import unit_groups
from ..weights.ordering import order_units
from .loading import load_model, prepare
from .scores.fit import run_loss
from .scores.images import Images

L1, TAYLOR = IMPORTANCES = ('l1', 'taylor')
MASKS = 'structured_sparse_training', 'sparse_training'


def order_checkpoint(cfg: Config, checkpoint: str, out: Path, importance: str = L1,
                     num_images: int = 64, device: str = 'cpu', seed: int = 0,
                     overwrite: bool = False,
                     on_batch: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Write a checkpoint with the heads and neurons of each block sorted by importance.

    The new checkpoint holds only the weights and the ``meta`` dict.

    Args:
        cfg: Config of the whole model. Its backbone must be sparse.
        checkpoint: Checkpoint file of the whole model.
        out: Path of the checkpoint to write. The write is atomic.
        importance: How to rank units. 'l1' uses the L1 norm of the weights. 'taylor' ranks heads by
            the change in loss on training images when a head is removed (first-order Taylor
            expansion) and neurons by 'l1', like
            :class:`~sparsevit_mm.hooks.StructuredSparseTrainingHook`.
        num_images: Number of training images for 'taylor'.
        device: Name of a torch device.
        seed: Seed of the choice of images. With 'taylor', also the process's global seed from then
            on, for randomness in the pipeline and the loss.
        overwrite: Whether `out` may exist. It may then also be the checkpoint itself.
        on_batch: Callback that receives the number of finished batches and the total.

    Raises:
        FileExistsError: If `out` exists and `overwrite` is off.
        FileNotFoundError: If the checkpoint or the data do not exist.
        ValueError: If an argument is invalid, the checkpoint or the data do not fit the config, the
            backbone has no heads, the loss cannot be computed, or the checkpoint has masks of heads
            and neurons, which sorting would apply to the wrong weights.
    """
    if importance not in IMPORTANCES:
        raise ValueError(f'importance {importance!r} is not one of {", ".join(IMPORTANCES)}')
    if num_images < 1:
        raise ValueError(f'{num_images} images: at least one is needed')
    if out.is_dir():
        raise ValueError(f'{out} is a folder')
    if out.exists() and not overwrite:
        raise FileExistsError(f'{out} already exists: use --overwrite or another -o')
    content = read_checkpoint(checkpoint)
    masked = [record for record in MASKS if record in content]
    if masked:
        raise ValueError(f'checkpoint {checkpoint} contains masks ({masked[0]}) for the current '
                         f'order of heads and neurons: compact it first with '
                         f'tools/compact_model.py')
    prepare(cfg, device)
    model, _ = load_model(cfg, checkpoint, device)
    backbone = get_sparse_backbone(model)
    backbone.sparsity = backbone.widths = None
    unit_groups(backbone)  # raises ValueError if the backbone has no heads
    measured: Dict[str, Tensor] = {}
    if importance == TAYLOR:
        check_data(cfg, 'train')
        check_labels(cfg, 'train')
        images = Images(cfg, 'train', num_images, seed)
        set_random_seed(seed)
        measured = _head_importance(model, images, on_batch)
    order_units(backbone, measured)
    meta = content.get('meta', {}) if 'state_dict' in content else {}
    state = {key: value.cpu() for key, value in model.state_dict().items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        torch.save(dict(meta=meta, state_dict=state), partial)


def _head_importance(model: BaseModel, images: Images,
                     on_batch: Callable[[int, int], None]) -> Dict[str, Tensor]:
    """Return the importance of each block's heads, keyed by group name."""
    backbone, batches = get_sparse_backbone(model), images.all()
    backbone.execution = 'eager'  # compiled or captured forwards run no hooks
    model.requires_grad_(True)
    model.training = True  # models such as DINO compute the loss only in training mode
    total = len(batches)
    try:
        with closing(_Watch(unit_groups(backbone))) as watch:
            for done, batch in enumerate(batches, 1):
                run_loss(model, backbone, model.data_preprocessor(batch, True))
                model.zero_grad()
                on_batch(done, total)
            found = watch.importance()
    finally:
        model.training = False
    unmet = [name for name in watch.groups if name not in found]
    if unmet:
        raise ValueError(f'{unmet[0]}: the loss of {type(model).__name__} does not depend on it')
    return found


class _Watch(HeadWatch):
    """HeadWatch that starts on creation and can be used with `closing`."""

    def __init__(self, groups):
        super().__init__(groups)
        self.watch()

    def close(self) -> None:
        self.end()
