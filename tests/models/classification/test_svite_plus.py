"""The classifier of SViTE+: mmpretrain's DeiT with a token selector."""
import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope

from sparsevit_mm import get_sparse_backbone

pytest.importorskip('mmpretrain')


def test_the_classifier_trains_its_selector_and_predicts():
    cfg = Config.fromfile(ROOT / 'configs' / 'svite' / 'sviteplus-deit-s_in1k.py')
    whole = get_sparse_backbone(torch.nn.ModuleList([MODELS.build(cfg.model.backbone)]))
    with whole.recording() as maps, torch.no_grad():
        whole.eval()(torch.zeros(1, 3, 224, 224))
    assert {int(ran.sum()) for ran in maps[0]} == {137}  # and the class token: published 138 of 197
    assert [type(HOOKS.build(hook)).__name__ for hook in cfg.custom_hooks] == [
        'SparseTrainingHook', 'TokenSelectorHook']
    cfg.merge_from_dict({
        'model.backbone': dict(img_size=32, patch_size=8, embed_dims=16, num_heads=2, num_layers=2),
        'model.head': dict(in_channels=16, num_classes=5)})
    cfg.model.data_preprocessor = dict(num_classes=5)
    init_default_scope('mmpretrain')
    import mmpretrain.models  # noqa: F401, registers
    from mmpretrain.structures import DataSample
    model = MODELS.build(cfg.model)
    model.init_weights()
    batch = dict(inputs=list(torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8)),
                 data_samples=[DataSample().set_gt_label(i) for i in range(4)])
    before = model.backbone.selector.weight.detach().clone()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for _ in range(2):  # the warm-up begins near 0
        assert model.train().train_step(batch, wrapper)['loss'].isfinite()
    assert not torch.equal(model.backbone.selector.weight, before)
    assert len(model.eval().test_step(batch)) == 4
