"""Classifiers of mmpretrain with our backbones in the place of its own."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from sparsevit_mm.config.classifiers import (distilled_of_mmpretrain, levit_of_mmpretrain,
                                             vit_of_mmpretrain)
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.config.swap import swap_backbone
from sparsevit_mm.models.checkpoints import check_fits

mmpretrain = pytest.importorskip('mmpretrain')
SMALL = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=40)
VIT = dict(type='VisionTransformer', arch=SMALL, img_size=32, patch_size=8)
HEAD = dict(type='VisionTransformerClsHead', num_classes=5, in_channels=16)
MODELS_OF_MMPRETRAIN = {
    'ViT': (VIT, HEAD),
    'ViT, pre-norm': (dict(VIT, pre_norm=True, norm_cfg=dict(type='LN', eps=1e-5)), HEAD),
    'ViT, map': (dict(VIT, out_type='featmap', out_indices=[1, -1]),
                 dict(type='LinearClsHead', num_classes=5, in_channels=16)),
    'distilled': (dict(VIT, type='DistilledVisionTransformer'), dict(HEAD, type='DeiTClsHead')),
    'LeViT': (dict(type='LeViT', arch='128s', img_size=64, patch_size=16),
              dict(type='LeViTClsHead', num_classes=5, in_channels=384))}


def build(cfg):
    init_default_scope('mmpretrain')
    import mmpretrain.models  # noqa: F401, registers
    return MODELS.build(cfg)


def write(path, backbone, head):
    with_map = head['type'] in ('LinearClsHead', 'LeViTClsHead')
    neck = dict(type='GlobalAveragePooling') if with_map else None
    Config(dict(default_scope='mmpretrain', model=dict(
        type='ImageClassifier', backbone=backbone, neck=neck, head=head))).dump(str(path))
    return str(path)


@pytest.mark.parametrize('name', MODELS_OF_MMPRETRAIN)
@torch.no_grad()
def test_the_swapped_classifier_takes_the_checkpoint_and_gives_the_same(name, tmp_path, randomise):
    config = write(tmp_path / 'base.py', *MODELS_OF_MMPRETRAIN[name])
    theirs = randomise(build(load_config(config).model)).eval()
    torch.save(dict(state_dict=theirs.state_dict()), tmp_path / 'dense.pth')
    swap, = swap_backbone(config, tmp_path / 'new.py')
    assert swap.kind.name == ('EvoLeViT' if name == 'LeViT' else 'EvoVisionTransformer')
    child = load_config(str(tmp_path / 'new.py'))
    ours = build(child.model).eval()
    check_fits(ours, str(tmp_path / 'dense.pth'))
    ours.load_state_dict(theirs.state_dict())  # strict
    side = 64 if name == 'LeViT' else 32
    image = torch.randn(2, 3, side, side)
    torch.testing.assert_close(ours(image), theirs(image), atol=1e-4, rtol=1e-4)
    assert child.model.head == load_config(config).model.head
    ours.backbone.sparsity = .5
    pruned = ours(image)
    assert pruned.isfinite().all() and not torch.allclose(pruned, ours.eval()(image + 1))
    again = build(child.model)
    again.load_state_dict(ours.state_dict())
    assert all(torch.equal(value, again.state_dict()[key])
               for key, value in ours.state_dict().items())


@pytest.mark.parametrize('translate, arguments, named', [
    (vit_of_mmpretrain, dict(arch='eva-g'), "arch 'eva-g'"),
    (vit_of_mmpretrain, dict(arch=dict(embed_dims=8)), 'arch .*embed_dims'),
    (vit_of_mmpretrain, dict(out_type='avg_featmap'), "out_type='avg_featmap'"),
    (vit_of_mmpretrain, dict(layer_scale_init_value=.1), 'layer_scale_init_value=0.1'),
    (vit_of_mmpretrain, dict(qkv_bias=False), 'qkv_bias=False'),
    (vit_of_mmpretrain, dict(frozen_stages=2), 'frozen_stages=2'),
    (vit_of_mmpretrain, dict(own=1), 'no counterpart .*own'),
    (distilled_of_mmpretrain, dict(out_type='raw'), "out_type='raw'"),
    (levit_of_mmpretrain, dict(arch='256', init_cfg=[dict(type='TruncNormal')]), 'init_cfg'),
    (levit_of_mmpretrain, dict(arch='256', deploy=True), 'deploy=True'),
    (levit_of_mmpretrain, dict(arch={}), 'arch {}')])
def test_what_has_no_counterpart_is_named(translate, arguments, named):
    with pytest.raises(ValueError, match=named):
        translate(arguments)


def shipped():
    root = Path(mmpretrain.__file__).parent / '.mim' / 'configs'
    return sorted(path for folder in ('deit', 'levit', 'vision_transformer')
                  for path in (root / folder).glob('*.py') if 'ipu' not in path.name)


@pytest.mark.slow
@torch.no_grad()
def test_every_deit_levit_and_vit_that_mmpretrain_ships_is_swapped(tmp_path, randomise):
    """Equal logits, at full size but for the depth of plain ViTs."""
    number = 0
    for path in shipped():
        base = load_config(str(path))
        if 'VisionTransformer' not in base.model.backbone.type and (
                base.model.backbone.type != 'LeViT'):
            continue  # wrapped, for LoRA
        swap_backbone(str(path), tmp_path / 'new.py', overwrite=True)
        child = load_config(str(tmp_path / 'new.py'))
        for cfg in (base, child):
            cfg.model.pop('init_cfg', None)
        if base.model.backbone.type != 'LeViT':
            ours = child.model.backbone
            base.model.backbone.arch = dict(
                embed_dims=ours.embed_dims, num_layers=2, num_heads=ours.num_heads,
                feedforward_channels=ours.embed_dims * ours.mlp_ratio)
            ours.update(num_layers=2, out_indices=[1])
        theirs, ours = (build(cfg.model).eval() for cfg in (base, child))
        randomise(theirs)
        ours.load_state_dict(theirs.state_dict())
        side = base.model.backbone.img_size
        image = torch.randn(1, 3, side, side)
        torch.testing.assert_close(ours(image), theirs(image), atol=1e-3, rtol=1e-3, msg=path.name)
        number += 1
    assert number == 22
