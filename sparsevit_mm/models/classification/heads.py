"""Heads on patches and class token of Evo-ViT's backbones, for mmpretrain's ``ImageClassifier``."""
from typing import List, Optional, Sequence, Tuple

from mmpretrain.models.heads import ClsHead
from mmpretrain.models.heads.levit_head import BatchNormLinear
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

Features = Sequence[List[Tensor]]


@MODELS.register_module()
class EvoClsHead(ClsHead):
    """Classifies the mean of all patches, those that did not run included; in training the class
    token too, for half of the loss (Evo-ViT, section 3, and its DeiT).

    The backbone has `output_cls_token` and no final norm: LayerNorm and linear layer are one each,
    for the mean and for the class token.

    Args:
        num_classes: Classes.
        in_channels: Channels C of the backbone.
        eps: Of the LayerNorm.
        init_cfg: Of mmengine.
        **kwargs: `loss`, `topk` and `cal_acc` of mmpretrain's ``ClsHead``.
    """

    def __init__(self, num_classes: int, in_channels: int, eps: float = 1e-6,
                 init_cfg: Optional[dict] = dict(type='TruncNormal', layer='Linear', std=.02),
                 **kwargs):
        super().__init__(init_cfg=init_cfg, **kwargs)
        self.norm = nn.LayerNorm(in_channels, eps=eps)
        self.head = nn.Linear(in_channels, num_classes)

    def pre_logits(self, feats: Features) -> Tensor:
        """Mean of the patches.

        Args:
            feats: Outputs of the backbone, of which the last counts: a (B, C, h, w) map and a
                (B, C) class token.

        Returns:
            (B, C).

        Raises:
            ValueError: There is no class token.
        """
        return _parts(feats)[0]

    def classify(self, x: Tensor) -> Tensor:
        """(B, C) -> (B, num_classes)."""
        return self.head(self.norm(x))

    def forward(self, feats: Features) -> Tensor:
        """Logits of the patches' mean, (B, num_classes)."""
        return self.classify(self.pre_logits(feats))

    def loss(self, feats: Features, data_samples: List[DataSample], **kwargs) -> dict:
        """Mean of the losses of the patches' mean and of the class token; accuracy, if asked for,
        is that of the former."""
        mean, token = (self._get_loss(self.classify(part), data_samples, **kwargs)
                       for part in _parts(feats))
        return {**mean, 'loss': (mean['loss'] + token['loss']) / 2}


@MODELS.register_module()
class EvoLeViTClsHead(EvoClsHead):
    """The same with LeViT's layers: batch norm and linear, once or twice.

    Args:
        num_classes: Classes.
        in_channels: Channels C of the backbone's last stage.
        distillation: Whether there is a second head, `head_dist`, as in the published checkpoints;
            logits are the mean of both. Both learn from the labels: there is no teacher here.
        **kwargs: As of :class:`EvoClsHead`, without `eps`.
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
    """Mean of the patches and class token, (B, C) each."""
    last = feats[-1]
    if not isinstance(last, (list, tuple)) or len(last) != 2:
        raise ValueError('the head needs the class token too: output_cls_token=True of the '
                         'backbone')
    return last[0].mean((2, 3)), last[1]
