"""The backbone within the three toolkits: found, configured, loaded."""
import importlib

import numpy as np
import pytest
import torch
from helpers import ROOT
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.config import Config, ConfigDict
from mmengine.registry import HOOKS, MODELS, init_default_scope
from torch import nn

from sparsevit_mm import SparseSwinTransformer, SparsityConfig, get_sparse_backbone

CONFIGS, DEMO = ROOT / 'configs', ROOT / 'demo' / 'configs'
IMAGE = np.random.default_rng(0).integers(0, 255, (61, 83, 3), dtype=np.uint8)


def build(config):
    """The model of an mm config, as the toolkits build it."""
    init_default_scope(config['default_scope'])
    importlib.import_module(f'{config["default_scope"]}.utils').register_all_modules(False)
    return MODELS.build(ConfigDict(config['model'])).eval()


@pytest.fixture
def write_files(tmp_path, randomise):
    """A config file and a checkpoint with random weights, as a user has them."""

    def write(config):
        Config(config).dump(str(tmp_path / 'config.py'))
        meta = dict(dataset_meta=dict(classes=('a', 'b', 'c'), palette=[(9, 9, 9)] * 3))
        state = randomise(build(config)).state_dict()
        torch.save(dict(state_dict=state, meta=meta), tmp_path / 'weights.pth')
        return str(tmp_path / 'config.py'), str(tmp_path / 'weights.pth')

    return write


# Each opens a config and a checkpoint; gives the model, and a function from image to result.
def detector(config, weights, options=None):
    from mmdet.apis import inference_detector, init_detector
    model = init_detector(config, weights, 'random', 'cpu', options)
    return model, lambda: inference_detector(model, IMAGE).pred_instances.bboxes


def det_inferencer(config, weights, options=None):
    from mmdet.apis import DetInferencer
    config = Config.fromfile(config)
    config.merge_from_dict(options or {})
    inferencer = DetInferencer(config, weights, 'cpu', palette='random', show_progress=False)
    return inferencer.model, lambda: torch.tensor(
        inferencer(IMAGE, no_save_vis=True)['predictions'][0]['bboxes'])


def segmentor(config, weights, options=None):
    from mmseg.apis import inference_model, init_model
    model = init_model(config, weights, 'cpu', options)
    return model, lambda: inference_model(model, IMAGE).seg_logits.data


@pytest.mark.parametrize('open_model, fixture', [
    (detector, 'tiny_detector'), (det_inferencer, 'tiny_detector'),
    (segmentor, 'tiny_segmentor')])
def test_sparsity_set_on_a_loaded_model_is_sparsity_configured(
        open_model, fixture, request, write_files):
    files = write_files(request.getfixturevalue(fixture))
    model, infer = open_model(*files)
    dense = infer()
    assert dense.numel() and dense.isfinite().all()
    for sparsity in (.5, [[.2, .8], [0, .7]]):
        get_sparse_backbone(model).sparsity = sparsity
        _, infer_configured = open_model(*files, {'model.backbone.sparsity': sparsity})
        pruned = infer()
        assert torch.equal(pruned, infer_configured())
        assert pruned.shape != dense.shape or not torch.allclose(pruned, dense)
    get_sparse_backbone(model).sparsity = 0
    assert torch.equal(infer(), dense)


@pytest.mark.parametrize('fixture', ['tiny_detector', 'tiny_segmentor'])
def test_the_sparse_backbone_of_a_model_is_found(fixture, request):
    model = build(request.getfixturevalue(fixture))
    assert get_sparse_backbone(model) is model.backbone
    wrapped = nn.DataParallel(model)
    assert get_sparse_backbone(wrapped) is model.backbone
    assert get_sparse_backbone(nn.ModuleDict(dict(student=wrapped))) is model.backbone
    assert get_sparse_backbone(model.backbone) is model.backbone


def test_a_model_without_a_sparse_backbone_names_what_it_has(tiny_segmentor, make_swin):
    model = tiny_segmentor['model']
    plain = dict(model, backbone=dict(model['backbone'], type='SwinTransformer'))
    with pytest.raises(ValueError, match='EncoderDecoder .*0.*backbone: SwinTransformer'):
        get_sparse_backbone(build(dict(tiny_segmentor, model=plain)))
    with pytest.raises(ValueError, match='none'):
        get_sparse_backbone(nn.Linear(1, 1))
    with pytest.raises(ValueError, match='2 sparse backbones'):
        get_sparse_backbone(nn.ModuleList([make_swin(), make_swin()]))


@pytest.mark.parametrize('toolkit', ['mmdet', 'mmseg', 'mmdet3d'])
def test_bare_names_are_found_from_every_toolkit(toolkit, narrow):
    registry = pytest.importorskip(f'{toolkit}.registry')
    init_default_scope(toolkit)
    made = registry.MODELS.build(dict(type='SparseSwinTransformer', sparsity=.5, **narrow()))
    assert isinstance(made, SparseSwinTransformer)
    assert made.sparsity == SparsityConfig(.5, made.depths)
    assert registry.HOOKS.get('SparsityAdaptationHook') is HOOKS.get('SparsityAdaptationHook')


@torch.no_grad()
def test_fusing_convolutions_and_norms_leaves_results(tiny_segmentor, randomise):
    model = randomise(build(tiny_segmentor))
    model.backbone.sparsity = .5
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, .5, 2)
    x = torch.randn(1, 3, 61, 83)
    expected = model(x)
    fused = fuse_conv_bn(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    torch.testing.assert_close(fused(x), expected, atol=1e-5, rtol=1e-5)


def config_files():
    for path in sorted([*CONFIGS.rglob('*.py'), *DEMO.rglob('*.py')]):
        name = path.relative_to(ROOT)
        if '_base_' not in name.parts:
            large = 'demo' not in name.parts
            yield pytest.param(path, id=str(name), marks=pytest.mark.slow if large else ())


@pytest.mark.parametrize('path', config_files())
def test_every_config_parses_and_its_model_builds(path):
    if path.stem.endswith('_in1k'):
        pytest.importorskip('mmpretrain')
    cfg = Config.fromfile(path)
    model = build(cfg)
    if 'SparseSwinTransformer' in cfg.pretty_text:
        backbone = get_sparse_backbone(model)
        configured = cfg.model.get('backbone', cfg.model.get('img_backbone')).get('sparsity')
        assert backbone.sparsity == SparsityConfig(configured, backbone.depths)
