"""Test-time augmentation in configs."""
import pytest
import torch
from helpers import BACKBONE, backbone
from mmengine.config import Config

from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.tta import use_tta


def config(**changes):
    leaf = dict(type='CocoDataset', pipeline=[dict(type='LoadImageFromFile'),
                                              dict(type='PackDetInputs')])
    return Config(dict(dict(
        model=dict(type='FasterRCNN', backbone=BACKBONE), default_scope='mmdet',
        test_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=[leaf, dict(leaf)]))),
        **changes))


def test_all_of_concatenated_data_are_augmented():
    cfg = config()
    use_tta(cfg)
    for leaf in cfg.test_dataloader.dataset.datasets:
        assert [step.type for step in leaf.pipeline] == ['LoadImageFromFile', 'TestTimeAug']
    assert 'pipeline' not in cfg.test_dataloader.dataset


def test_a_tta_model_of_the_user_s_own_may_merge_masks():
    masks = dict(type='MaskRCNN', backbone=BACKBONE, roi_head=dict(mask_head=dict(num_classes=2)))
    with pytest.raises(ValueError, match='DetTTAModel .*masks'):
        use_tta(config(model=masks))
    cfg = config(model=masks, tta_model=dict(type='MyTTAModel'))
    use_tta(cfg)
    assert cfg.model.type == 'MyTTAModel' and cfg.model.module.type == 'MaskRCNN'


def test_a_backbone_within_a_tta_model_is_found_in_the_checkpoint(tmp_path):
    """The names there are those of the model alone."""
    cfg, trained = config(), backbone()
    use_tta(cfg)
    file = str(tmp_path / 'a.pth')
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in trained.state_dict().items()}),
               file)
    built = build_backbone(cfg, file)
    assert all(map(torch.equal, built.state_dict().values(), trained.state_dict().values()))
