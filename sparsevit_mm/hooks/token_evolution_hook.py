"""Published schedule of token evolution: layer-wise, then stage-wise."""
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.registry import HOOKS

from ..models import get_sparse_backbone
from ..models.vit.evolving import EvolvingBackbone


@HOOKS.register_module()
class TokenEvolutionHook(Hook):
    """Hook that selects tokens in each layer first and once per stage later (Evo-ViT, section 4:
    300 epochs, stage-wise from epoch 200). The schedule depends on the iteration only, so a resumed
    training continues as if uninterrupted.

    Args:
        layer_wise: Share of the training that is layer-wise.

    Raises:
        ValueError: If the share is outside [0, 1]. Before training: if the backbone is not an
            EvoVisionTransformer or EvoLeViT, its ratios differ within a stage, or its widths are
            not full and the stage-wise schedule changes the number of stages.
    """

    def __init__(self, layer_wise: float = 2 / 3):
        if not 0 <= layer_wise <= 1:
            raise ValueError(f'layer_wise is {layer_wise}, outside [0, 1]')
        self.layer_wise = layer_wise

    def before_train(self, runner) -> None:
        self.backbone = get_sparse_backbone(runner.model)
        if not isinstance(self.backbone, EvolvingBackbone):
            raise ValueError(f'TokenEvolutionHook needs an EvoVisionTransformer or EvoLeViT, but '
                             f'the backbone is a {type(self.backbone).__name__}')
        self.backbone.reselect = 'stage'  # raise errors of the second phase before training

    def before_train_iter(self, runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        reselect = 'layer' if runner.iter < self.layer_wise * runner.max_iters else 'stage'
        if self.backbone.reselect != reselect:
            self.backbone.reselect = reselect
