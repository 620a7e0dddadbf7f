"""A model of any toolkit with its weights on a device, without a Runner."""
from typing import Dict, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import load_checkpoint

from ..config.reading import find_backbone
from ..models.checkpoints import check_fits


def prepare(cfg: Config, device: str) -> None:
    """Makes sure that the model can run on the device, and sets its toolkit's scope.

    Raises:
        ValueError: As find_backbone; no such device.
    """
    find_backbone(cfg)
    check_device(device)
    init_default_scope(cfg.get('default_scope', 'mmengine'))


def load_model(cfg: Config, checkpoint: Optional[str], device: str) -> Tuple[BaseModel, Dict]:
    """The model in eval mode on the device, with the checkpoint's weights, and its ``meta``; with
    random weights without a checkpoint.

    Raises:
        FileNotFoundError, ValueError: As check_fits.
    """
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    meta: Dict = {}
    if checkpoint is not None:
        check_fits(model, checkpoint)
        meta = load_checkpoint(model, checkpoint, map_location='cpu').get('meta', {})
    return model.to(device).eval(), meta


def check_device(device: str) -> None:
    """Raises ValueError where torch has no such device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'device {device!r} can not be used: '
                         f'{str(error).splitlines()[0]}') from None
