"""Distillation from the dense model that adaptation starts from."""
import copy
from typing import List, Optional, Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel, is_model_wrapper
from torch import Tensor, nn

LOSS = 'loss_distillation'


class Distillation:
    """Adds a feature distillation loss to the losses of a model.

    The teacher is a frozen copy of the backbone that runs all windows, heads and neurons. The loss
    is the mean squared error between the features of the pruned backbone and of the teacher,
    averaged over outputs; the feature map and the class token of a ViT count as two outputs.

    The teacher runs within the model's forward, without gradients, and the loss is added to the
    model's dict of losses. The wrapped model thus has one forward and one backward pass, as DDP and
    gradient scalers expect.

    Args:
        model: Model, wrapped or not, whose forward returns a dict of losses in training.
        backbone: Its sparse backbone, copied in its current state.
        weight: Weight of the loss.

    Raises:
        TypeError: If the model is not an mmengine BaseModel.
    """

    def __init__(self, model: nn.Module, backbone: nn.Module, weight: float):
        if is_model_wrapper(model):
            model = model.module
        if not isinstance(model, BaseModel):
            raise TypeError(f'distillation needs an mmengine BaseModel, but the model is a '
                            f'{type(model).__name__}')
        self.weight = weight
        self.teacher = copy.deepcopy(backbone).eval().requires_grad_(False)
        self.teacher.sparsity, self.teacher.execution = None, 'eager'
        if not backbone.widths.is_full:
            self.teacher.widths = None
        self.loss: Optional[Tensor] = None
        self.handles = [model.register_forward_pre_hook(self._begin),
                        backbone.register_forward_hook(self._compare),
                        model.register_forward_hook(self._add)]

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _begin(self, model: nn.Module, args: tuple) -> None:
        self.loss = None  # left by a failed pass, or a pass of the backbone alone

    def _compare(self, backbone: nn.Module, args: tuple, outs) -> None:
        dense = backbone.sparsity.is_dense and backbone.widths.is_full
        if not backbone.training or dense or not torch.is_grad_enabled():
            return
        with torch.no_grad():
            targets = self.teacher(args[0])
        losses = [F.mse_loss(out.float(), target.float())
                  for out, target in zip(_parts(outs), _parts(targets))]
        loss = torch.stack(losses).mean()
        self.loss = loss if self.loss is None else self.loss + loss

    def _add(self, model: nn.Module, args: tuple, output) -> None:
        loss, self.loss = self.loss, None
        if loss is not None and isinstance(output, dict):
            output[LOSS] = self.weight * loss


def _parts(outs: Sequence) -> List[Tensor]:
    """Flatten outputs that are lists or tuples, such as a feature map with a class token."""
    return [part for out in outs for part in (out if isinstance(out, (list, tuple)) else [out])]
