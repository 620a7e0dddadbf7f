"""The dense model that adaptation starts from, as teacher of the configurations drawn."""
import copy
from typing import List, Optional, Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel, is_model_wrapper
from torch import Tensor, nn

LOSS = 'loss_distillation'


class Distillation:
    """Adds to a model's losses how far the features of its pruned backbone are from those of a
    frozen copy that runs all windows, heads and neurons: the mean squared difference, averaged over
    the outputs, where a ViT's map and its class token count as two.

    The copy runs within the model's own forward, without gradients, and the loss joins the model's
    dict of losses. So there is one forward and one backward pass of the wrapped model, as DDP and a
    gradient scaler expect.

    Args:
        model: Wrapped or not. Its forward gives a dict of losses in training.
        backbone: The sparse backbone in it, which is copied as it is now.
        weight: Of the loss.

    Raises:
        TypeError: The model is none of mmengine's.
    """

    def __init__(self, model: nn.Module, backbone: nn.Module, weight: float):
        if is_model_wrapper(model):
            model = model.module
        if not isinstance(model, BaseModel):
            raise TypeError(f'distillation adds to the losses of an mmengine model, '
                            f'{type(model).__name__} is none')
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
        self.loss = None  # of a pass that failed, or of the backbone by itself

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
    """Maps, and what stands beside them in lists."""
    return [part for out in outs for part in (out if isinstance(out, (list, tuple)) else [out])]
