from copy import deepcopy

import pytest
import torch
from helpers import ROOT, unique_name
from mmengine.config import Config
from mmengine.registry import init_default_scope

from sparsevit_mm.config.building import build_runner
from sparsevit_mm.config.data import input_shape
from sparsevit_mm.config.export import export_config, settings_of
from sparsevit_mm.config.reading import load_config
from generators import generate_mini_cityscapes
from sparsevit_mm.evaluation.evaluator import Evaluator
from sparsevit_mm.config.resolution import at_scale
from sparsevit_mm.operating_point import operating_point
from sparsevit_mm.sparsity import SparsityConfig

SIDE = 128


def size_of_test(cfg):
    """Height and width as the command lines find them."""
    cfg = deepcopy(cfg)
    cfg.test_dataloader = cfg.val_dataloader
    return input_shape(cfg)


@pytest.mark.parametrize('name, sizes', [
    ('configs/mask_rcnn_sparsevit', {1: (672, 672), 640 / 672: (640, 640), .86: (576, 576),
                                     .8: (544, 544), .75: (512, 512)}),
    ('configs/sparsevit/upernet_sparsevit_cityscapes',
     {1: (1024, 2048), .75: (768, 1536), .5: (512, 1024)}),
    ('demo/configs/mask_rcnn_sparsevit-narrow_mini_coco', {.83: (160, 160), .01: (32, 32)}),
    ('demo/configs/upernet_sparsevit-narrow_mini_cityscapes', {.75: (96, 192)}),
    ('demo/configs/upernet_sparsevit-narrow_camvid', {.8: (288, 384)})])
def test_sides_are_the_nearest_multiples_of_32_and_only_the_val_data_change(name, sizes):
    cfg = load_config(str(ROOT / f'{name}.py'))
    before = deepcopy(cfg.to_dict())
    for factor, size in sizes.items():
        scaled, given = at_scale(cfg, factor)
        assert given == size == size_of_test(scaled)
        assert cfg.to_dict() == before
        resize = next(step for step in scaled.val_dataloader.dataset.pipeline
                      if step['type'] == 'Resize')
        resize['scale'] = next(step for step in cfg.val_dataloader.dataset.pipeline
                               if step['type'] == 'Resize')['scale']
        assert scaled.to_dict() == before


def with_steps(*steps, **dataset):
    return Config(dict(val_dataloader=dict(dataset=dict(
        dict(type='SomeDataset', pipeline=list(steps)), **dataset))))


LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='mmdet.PackDetInputs')
RESIZE = dict(type='mmdet.Resize', scale=(96, 64), keep_ratio=False)


def test_scale_is_width_and_height_unless_the_ratio_is_kept():
    for scale, keep_ratio, size in [((96, 64), False, (64, 96)), ((64, 96), False, (96, 64)),
                                    ((64, 96), True, (64, 96)), (64, True, (64, 64))]:
        step = dict(RESIZE, scale=scale, keep_ratio=keep_ratio)
        scaled, given = at_scale(with_steps(LOAD, step, PACK), 2)
        assert given == tuple(2 * side for side in size)
        made = scaled.val_dataloader.dataset.pipeline[1].scale
        assert sorted(made) == sorted(given) and (keep_ratio or made == given[::-1])


@pytest.mark.parametrize('cfg, named', [
    (with_steps(LOAD, PACK), 'no Resize'),
    (with_steps(LOAD, dict(type='Resize', scale_factor=.5), PACK), 'scale_factor'),
    (with_steps(LOAD, RESIZE, dict(type='Pad', size=(96, 96)), PACK), 'Pad'),
    (with_steps(LOAD, RESIZE, RESIZE, PACK), 'one Resize'),
    (Config(dict(val_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=[])))),
     'ConcatDataset')])
def test_pipeline_that_does_more_is_refused_by_name(cfg, named):
    with pytest.raises(ValueError, match=named):
        at_scale(cfg, .5)


def test_bevdet_is_refused_plainly():
    with pytest.raises(ValueError, match='ImageAugmentation.*view transformer'):
        at_scale(load_config(str(ROOT / 'configs/_base_/nuscenes_cameras.py')), .5)


@pytest.mark.parametrize('factor', [0, -1, float('nan')])
def test_factor_must_be_positive(factor):
    with pytest.raises(ValueError, match=f'image scale {factor} '):
        at_scale(with_steps(LOAD, RESIZE, PACK), factor)


@pytest.fixture(scope='module')
def segmentor(tiny_segmentor, tmp_path_factory):
    """Config of an untrained segmentor with data to validate on, and its checkpoint."""
    folder = tmp_path_factory.mktemp('segmentor')
    root = generate_mini_cityscapes(folder / 'data', dict(train=1, val=2, test=1), (SIDE, SIDE))
    dataset = dict(
        type='CityscapesDataset', data_root=str(root), test_mode=True,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=[LOAD, dict(type='Resize', scale=(SIDE, SIDE), keep_ratio=True),
                  dict(type='LoadAnnotations'), dict(type='PackSegInputs')])
    cfg = Config(dict(
        default_scope='mmseg',
        model=deepcopy(tiny_segmentor['model']),
        val_dataloader=dict(batch_size=1, num_workers=0, dataset=dataset,
                            sampler=dict(type='DefaultSampler', shuffle=False)),
        val_evaluator=dict(type='IoUMetric'), val_cfg=dict(), log_level='WARNING'))
    init_default_scope('mmseg')
    cfg.work_dir, cfg.experiment_name = str(folder), unique_name()
    runner = build_runner(cfg)
    runner.model.init_weights()
    torch.save(runner.model.state_dict(), folder / 'weights.pth')
    cfg.experiment_name = unique_name()
    return cfg, str(folder / 'weights.pth')


def test_dense_model_on_smaller_images_scores_as_a_run_of_its_own(segmentor):
    cfg, checkpoint = segmentor
    evaluator = Evaluator(cfg, checkpoint)
    shapes = []
    evaluator.backbone.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape[2:]))
    scaled, size = at_scale(cfg, .75)
    smaller, whole = evaluator.on(scaled)(0), evaluator.evaluate(0)
    assert size == (96, 96) and shapes == [size] * 2 + [(SIDE, SIDE)] * 2
    own = deepcopy(scaled)
    own.load_from, own.experiment_name = checkpoint, unique_name()
    assert smaller == build_runner(own).val() != whole


def test_a_point_with_an_image_scale_is_evaluated_on_images_of_that_size(segmentor):
    cfg, checkpoint = segmentor
    cfg.experiment_name = unique_name()
    evaluator = Evaluator(cfg, checkpoint)
    depths = evaluator.backbone.depths
    half = SparsityConfig(.5, depths)
    shapes = []
    evaluator.backbone.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape[2:]))
    point = operating_point(half, {'image_scale': .75})
    made = [evaluator.evaluate(p) for p in (point, half, point)]
    assert shapes == [(96, 96)] * 2 + [(SIDE, SIDE)] * 2 + [(96, 96)] * 2
    assert made[0] == made[2] == evaluator.on(at_scale(cfg, .75)[0])(half) != made[1]
    assert len(evaluator.main.batches(1, .75)[0]['inputs'][0][0]) == 96


def test_half_precision_is_of_the_backbone_for_the_time_of_an_evaluation(segmentor):
    cfg, checkpoint = segmentor
    cfg.experiment_name = unique_name()
    evaluator = Evaluator(cfg, checkpoint, dtype=torch.bfloat16)
    inside, outside = [], []
    linear = next(m for m in evaluator.backbone.modules() if isinstance(m, torch.nn.Linear))
    linear.register_forward_hook(lambda *args: inside.append(args[-1].dtype))
    evaluator.model.decode_head.conv_seg.register_forward_pre_hook(
        lambda _, args: outside.append(args[0].dtype))
    evaluator.evaluate(0)
    assert {*inside} == {torch.bfloat16} and {*outside} == {torch.float32}
    assert 'forward' not in vars(evaluator.backbone)


def test_the_config_of_a_point_resizes_so_for_val_and_test(tmp_path):
    path = ROOT / 'demo/configs/mask_rcnn_sparsevit-narrow_mini_coco.py'
    cfg = load_config(str(path))
    depths = (2, 2, 2, 2)
    point = operating_point(SparsityConfig(.5, depths), {
        'image_scale': .5, 'model.test_cfg.rpn.max_per_img': 7})
    export_config(cfg, str(path), None, point, 'some.pth', tmp_path / 'winner.py', ['found'])
    winner = load_config(str(tmp_path / 'winner.py'))
    assert input_shape(winner) == size_of_test(winner) == (96, 96) != input_shape(cfg)
    assert winner.model.test_cfg.rpn.max_per_img == 7
    assert winner.train_dataloader.dataset.pipeline == cfg.train_dataloader.dataset.pipeline
    settings = settings_of(cfg, operating_point(SparsityConfig(.5, depths), {'image_scale': 1}))
    assert [*settings] == ['model'] and 'test_cfg' not in settings['model']
