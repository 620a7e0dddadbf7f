"""Heads for Evo-ViT backbones in mmpretrain's ``ImageClassifier``."""
from typing import List, Optional, Sequence, Tuple

from mmpretrain.models.heads import ClsHead
from mmpretrain.models.heads.levit_head import BatchNormLinear
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

Features = Sequence[List[Tensor]]


@MODELS.register_module()
class EvoClsHead(ClsHead):
    """Head that classifies the mean of all patches, including those that did not run. In training
    it also classifies the class token, which contributes half of the loss (Evo-ViT, section 3, and
    its DeiT code).

    The backbone needs `output_cls_token` and no final norm. Mean and class token share one
    LayerNorm and one linear layer.

    Args:
        num_classes: Number of classes.
        in_channels: Number of channels C of the backbone.
        eps: Epsilon of the LayerNorm.
        init_cfg: mmengine's initialisation config.
        **kwargs: `loss`, `topk` and `cal_acc` of mmpretrain's ``ClsHead``.
    """

    def __init__(self, num_classes: int, in_channels: int, eps: float = 1e-6,
                 init_cfg: Optional[dict] = dict(type='TruncNormal', layer='Linear', std=.02),
                 **kwargs):
        super().__init__(init_cfg=init_cfg, **kwargs)
        self.norm = nn.LayerNorm(in_channels, eps=eps)
        self.head = nn.Linear(in_channels, num_classes)

    def pre_logits(self, feats: Features) -> Tensor:
        """Compute the mean of the patches.

        Args:
            feats: Outputs of the backbone. Only the last is used: a (B, C, h, w) map and a (B, C)
                class token.

        Returns:
            (B, C).

        Raises:
            ValueError: If the last output is not a pair of map and class token.
        """
        return _parts(feats)[0]

    def classify(self, x: Tensor) -> Tensor:
        """Compute logits, (B, C) -> (B, num_classes)."""
        return self.head(self.norm(x))

    def forward(self, feats: Features) -> Tensor:
        """Compute the logits of the patches' mean, (B, num_classes)."""
        return self.classify(self.pre_logits(feats))

    def loss(self, feats: Features, data_samples: List[DataSample], **kwargs) -> dict:
        """Average the losses of the patches' mean and of the class token. With `cal_acc`, accuracy
        is that of the patches' mean."""
        mean, token = (self._get_loss(self.classify(part), data_samples, **kwargs)
                       for part in _parts(feats))
        return {**mean, 'loss': (mean['loss'] + token['loss']) / 2}


@MODELS.register_module()
class EvoLeViTClsHead(EvoClsHead):
    """EvoClsHead with LeViT's layers: one or two heads of batch norm and linear layer.

    Args:
        num_classes: Number of classes.
        in_channels: Number of channels C of the backbone's last stage.
        distillation: Whether to add a second head, `head_dist`, as in the published checkpoints.
            Logits are the mean of both. Both learn from the labels, without a teacher.
        **kwargs: As in :class:`EvoClsHead`; `eps` has no effect.
    """

    def __init__(self, num_classes: int, in_channels: int, distillation: bool = False, **kwargs):
        super().__init__(num_classes, in_channels, **kwargs)
        del self.norm
        self.head = BatchNormLinear(in_channels, num_classes)
        self.head_dist = BatchNormLinear(in_channels, num_classes) if distillation else None

    def classify(self, x: Tensor) -> Tensor:
        logits = self.head(x)
        return logits if self.head_dist is None else (logits + self.head_dist(x)) / 2


def _parts(feats: Features) -> Tuple[Tensor, Tensor]:
    """Return the mean of the patches and the class token, (B, C) each."""
    last = feats[-1]
    if not isinstance(last, (list, tuple)) or len(last) != 2:
        raise ValueError('the head needs the class token: set output_cls_token=True in the '
                         'backbone')
    return last[0].mean((2, 3)), last[1]
