"""The neck of ViTDet, and a Mask R-CNN over it."""
import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from sparsevit_mm import get_sparse_backbone
from sparsevit_mm.models import SimpleFeaturePyramid

CONFIGS = ROOT / 'configs' / 'evo_vit'


def test_maps_have_the_strides_and_parameters_of_vitdet():
    neck = MODELS.build(dict(type='SimpleFeaturePyramid', in_channels=16, out_channels=8))
    outs = neck([torch.randn(2, 3, 1, 1), torch.randn(2, 16, 4, 6)])
    assert [tuple(out.shape) for out in outs] == [
        (2, 8, 16, 24), (2, 8, 8, 12), (2, 8, 4, 6), (2, 8, 2, 3), (2, 8, 1, 2)]
    shapes = [[tuple(p.shape) for p in level.parameters() if p.dim() > 1] for level in neck.levels]
    lateral = [(8, 8, 3, 3)]
    assert shapes == [
        [(16, 8, 2, 2), (8, 4, 2, 2), (8, 4, 1, 1), *lateral],
        [(16, 8, 2, 2), (8, 8, 1, 1), *lateral], [(8, 16, 1, 1), *lateral],
        [(8, 16, 1, 1), *lateral]]
    # Deconvolutions have biases, convolutions none.
    assert sum(p.numel() for p in neck.levels[1].parameters()) == (
        16 * 8 * 4 + 8 + 8 * 8 + 16 + 8 * 8 * 9 + 16)


def test_each_output_equals_the_steps_of_the_description(randomise):
    neck = randomise(SimpleFeaturePyramid(8, 4, num_outs=4))
    x = torch.randn(2, 8, 4, 4)

    def norm(x, layer):
        mean = x.mean(1, keepdim=True)
        std = (x.var(1, unbiased=False, keepdim=True) + layer.eps).sqrt()
        return ((x - mean) / std) * layer.weight[:, None, None] + layer.bias[:, None, None]

    def head(x, level):
        a, norm_a, b, norm_b = level[-4:]
        return norm(b(norm(a(x), norm_a)), norm_b)

    four, two, one, half = neck.levels
    scaled = [four[3](torch.nn.functional.gelu(norm(four[0](x), four[1]))), two[0](x), x,
              x.unflatten(2, (2, 2)).unflatten(4, (2, 2)).amax((3, 5))]
    for out, level, stage in zip(neck([x]), (four, two, one, half), scaled):
        torch.testing.assert_close(out, head(stage, level), atol=1e-5, rtol=1e-5)


def test_it_takes_pairs_with_a_class_token_and_odd_maps():
    neck = SimpleFeaturePyramid([8], 4)
    x = torch.randn(1, 8, 3, 1)
    outs = neck([[x, torch.randn(1, 8)]])
    assert all(torch.equal(a, b) for a, b in zip(outs, neck((x, ))))
    assert [tuple(out.shape[2:]) for out in outs] == [(12, 4), (6, 2), (3, 1), (2, 1), (1, 1)]


@pytest.mark.parametrize('arguments, named', [
    (dict(in_channels=6), 'in_channels 6'), (dict(in_channels=8, num_outs=3), 'num_outs 3')])
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        SimpleFeaturePyramid(**arguments)


def detector(name):
    cfg = Config.fromfile(CONFIGS / name)
    size = 64
    cfg.merge_from_dict({
        'model.backbone': dict(img_size=size, embed_dims=16, num_heads=2, num_layers=3,
                               init_cfg=None),
        'model.neck.in_channels': 16,
        'model.data_preprocessor.batch_augments.0.size': (size, size),
        'model.roi_head.bbox_head.fc_out_channels': 32})
    init_default_scope('mmdet')
    return cfg, MODELS.build(cfg.model)


@pytest.mark.parametrize('name', ['mask_rcnn_evovit-deit-s_dense.py', 'mask_rcnn_evovit-deit-s.py'])
def test_a_mask_rcnn_of_the_config_trains_and_detects_at_any_sparsity(name):
    testing = pytest.importorskip('mmdet.testing')
    cfg, model = detector(name)
    backbone = get_sparse_backbone(model)
    backbone.sparsity = .5
    inputs = testing.demo_mm_inputs(2, [[3, 64, 48], [3, 48, 64]], num_items=[2, 2],
                                    num_classes=80, with_mask=True)
    cfg.optim_wrapper.optimizer.lr = 1e-3
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    losses = model.train().train_step(inputs, optim_wrapper)
    assert all(value.isfinite().all() for value in losses.values())
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    assert {f'neck.levels.{level}.{place}.weight' for level, place in
            ((0, 0), (1, 0), (2, 0), (3, 1))} <= moved
    assert 'backbone.patch_embed.projection.weight' in moved
    model.eval()
    dense, maps = {}, {}
    for sparsity in (0., .5):
        backbone.sparsity = sparsity
        with torch.no_grad(), backbone.recording() as maps[sparsity]:
            dense[sparsity] = model.extract_feat(torch.ones(1, 3, 64, 64))
        results = model.test_step(inputs)
        assert len(results) == 2 and all('masks' in r.pred_instances for r in results)
    assert [m.float().mean() for m in maps[.5][0]] == [1, .5, .5]
    assert [f.shape[-1] for f in dense[.5]] == [16, 8, 4, 2, 1]
    assert not torch.equal(dense[0.][0], dense[.5][0])
