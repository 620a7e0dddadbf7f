"""Loading of a model of any toolkit onto a device, without a Runner."""
from typing import Dict, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import load_checkpoint

from ..config.reading import find_backbone
from ..models.checkpoints import check_fits


def prepare(cfg: Config, device: str) -> None:
    """Check the backbone and the device, and set the default scope of the model's toolkit.

    Raises:
        ValueError: See :func:`~sparsevit_mm.config.reading.find_backbone`; also if the device is
            not available.
    """
    find_backbone(cfg)
    check_device(device)
    init_default_scope(cfg.get('default_scope', 'mmengine'))


def load_model(cfg: Config, checkpoint: Optional[str], device: str) -> Tuple[BaseModel, Dict]:
    """Build a model in eval mode on a device and load a checkpoint; None keeps initial weights.

    Returns:
        The model, and the ``meta`` dict of the checkpoint.

    Raises:
        FileNotFoundError, ValueError: See :func:`~sparsevit_mm.models.checkpoints.check_fits`.
    """
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    meta: Dict = {}
    if checkpoint is not None:
        check_fits(model, checkpoint)
        meta = load_checkpoint(model, checkpoint, map_location='cpu').get('meta', {})
    return model.to(device).eval(), meta


def check_device(device: str) -> None:
    """Check that torch can use a device.

    Raises:
        ValueError: If it cannot.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'device {device!r} can not be used: '
                         f'{str(error).splitlines()[0]}') from None
