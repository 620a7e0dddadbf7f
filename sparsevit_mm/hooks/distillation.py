"""The dense configuration as teacher of the one that was drawn."""
import copy
from typing import List, Optional

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel, is_model_wrapper
from torch import Tensor, nn

LOSS = 'loss_distillation'


class Distillation:
    """Adds to a model's losses how far the features of its pruned backbone are from the dense ones:
    the mean squared difference of the outputs, averaged over the stages.

    The backbone runs a second time within the model's own forward, dense and without gradients, and
    the loss joins the model's dict of losses. So there is one forward and one backward pass of the
    wrapped model, as DDP and a gradient scaler expect.

    Args:
        model: Wrapped or not. Its forward gives a dict of losses in training.
        backbone: The sparse backbone in it.
        frozen: Whether the teacher is a copy of the backbone as it is now; else its present
            weights, with all windows run.
        weight: Of the loss.
    """

    def __init__(self, model: nn.Module, backbone: nn.Module, frozen: bool, weight: float):
        if is_model_wrapper(model):
            model = model.module
        if not isinstance(model, BaseModel):
            raise TypeError(f'distillation adds to the losses of an mmengine model, '
                            f'{type(model).__name__} is none')
        self.weight = weight
        self.teacher: nn.Module = backbone
        if frozen:
            self.teacher = copy.deepcopy(backbone).eval().requires_grad_(False)
            self.teacher.sparsity = None
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
        if not backbone.training or backbone.sparsity.is_dense or not torch.is_grad_enabled():
            return
        targets = self._dense(backbone, args[0])
        losses = [F.mse_loss(out.float(), target.float()) for out, target in zip(outs, targets)]
        loss = torch.stack(losses).mean()
        self.loss = loss if self.loss is None else self.loss + loss

    @torch.no_grad()
    def _dense(self, backbone: nn.Module, x: Tensor) -> List[Tensor]:
        """Features of the teacher. `forward` is called by itself: hooks are for the student."""
        if self.teacher is not backbone:
            return list(self.teacher.forward(x))
        sparsity = backbone.sparsity
        modes = [(module, module.training) for module in backbone.modules()]
        try:
            backbone.eval()
            backbone.sparsity = None
            return list(backbone.forward(x))
        finally:
            backbone.sparsity = sparsity
            for module, training in modes:
                module.training = training

    def _add(self, model: nn.Module, args: tuple, output) -> None:
        loss, self.loss = self.loss, None
        if loss is not None and isinstance(output, dict):
            output[LOSS] = self.weight * loss
