"""Orders the heads and neurons of a checkpoint by their importance, once, for runs at part of the
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
    """Writes a checkpoint of the same model, whose heads and neurons are in order: weights and meta
    data alone.

    Args:
        cfg: Of the whole model, with a sparse backbone.
        checkpoint: File of the whole model.
        out: The file to write; whole or not at all.
        importance: 'l1', of weights, or 'taylor': of heads what the loss changes by without them,
            to first order, on images of training, and of neurons as 'l1', as
            :class:`~sparsevit_mm.hooks.StructuredSparseTrainingHook` has it.
        num_images: Of 'taylor'.
        device: Name of a torch device.
        seed: Of the choice of images, and of what is random in pipeline and loss: also the
            process's from then on.
        overwrite: Whether `out` may be there already, the checkpoint itself included.
        on_batch: Gets the number of batches done, and that of all.

    Raises:
        FileExistsError: `out` is there.
        FileNotFoundError, ValueError: No such importance; checkpoint or data that are not there or
            do not fit; a checkpoint with masks, which another order would put on other weights; a
            backbone without heads; a loss that can't be computed.
    """
    if importance not in IMPORTANCES:
        raise ValueError(f'importance {importance!r} is none of {", ".join(IMPORTANCES)}')
    if num_images < 1:
        raise ValueError(f'{num_images} images: at least one is needed')
    if out.is_dir():
        raise ValueError(f'{out} is a folder')
    if out.exists() and not overwrite:
        raise FileExistsError(f'{out} is there already: --overwrite, or another -o')
    content = read_checkpoint(checkpoint)
    masked = [record for record in MASKS if record in content]
    if masked:
        raise ValueError(f'checkpoint {checkpoint} is of a training with masks ({masked[0]}), '
                         f'which are of heads and neurons where they are: compact it first, with '
                         f'tools/compact_model.py')
    prepare(cfg, device)
    model, _ = load_model(cfg, checkpoint, device)
    backbone = get_sparse_backbone(model)
    backbone.sparsity = backbone.widths = None
    unit_groups(backbone)  # raises
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
    """Of the heads of all blocks, by their names in the backbone."""
    backbone, batches = get_sparse_backbone(model), images.all()
    backbone.execution = 'eager'  # what is recorded runs no hooks
    model.requires_grad_(True)
    model.training = True  # DINO and its like compute the loss only then
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
    """That watches from the start."""

    def __init__(self, groups):
        super().__init__(groups)
        self.watch()

    def close(self) -> None:
        self.end()
