"""Models of the toolkits on image files: their windows lie where the image is."""
import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from sparsevit_mm.evaluation.loading import check_device
from sparsevit_mm.visualization.ground_truth import find_ground_truths, leaves, loading_steps
from sparsevit_mm.visualization.inference import (FileInferencer, check_images, dataset_meta,
                                                  output_names)
from sparsevit_mm.visualization.panel import PanelPainter, with_palette

LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='PackDetInputs')
FIXED = dict(type='Resize', scale=(96, 64))
RATIO = dict(type='Resize', scale=(96, 64), keep_ratio=True)
MEAN = (120, 115, 105)
PAD = dict(type='Pad', size=(160, 128), pad_val=dict(img=MEAN))


def write_model(path, config, randomise, meta=None):
    """A checkpoint of random weights, as a user has one."""
    init_default_scope(config['default_scope'])
    model = randomise(MODELS.build(Config(dict(config)).model))
    torch.nn.init.zeros_(model.backbone.patch_embed.projection.bias)
    torch.save(dict(state_dict=model.state_dict(), meta=meta or {}), path)
    return str(path)


@pytest.fixture
def spot(tmp_path):
    """An image of the mean colour, which the network sees as 0, with a bright square of 10 pixels
    around (30, 90)."""
    image = np.full((80, 120, 3), MEAN, dtype=np.uint8)
    image[25:35, 85:95] = 255
    mmcv.imwrite(image, str(tmp_path / 'spot.png'))
    return str(tmp_path / 'spot.png')


@pytest.mark.parametrize('toolkit, steps', [
    ('mmdet', [FIXED]), ('mmdet', [RATIO]), ('mmdet', [RATIO, PAD]),
    ('mmdet', [RATIO, dict(type='RandomFlip', prob=1.)]),
    ('mmdet', [FIXED, dict(type='RandomFlip', prob=1., direction='diagonal')]),
    ('mmseg', [RATIO]), ('mmseg', [FIXED, dict(type='RandomFlip', prob=1.)])])
def test_the_window_that_ran_lies_where_the_image_is_bright(
        toolkit, steps, spot, tmp_path, tiny_detector, tiny_segmentor, narrow, randomise):
    config = dict(tiny_detector if toolkit == 'mmdet' else tiny_segmentor)
    config['model'] = dict(config['model'], backbone=dict(
        type='SparseSwinTransformer', **narrow(patch_norm=False, sparsity=[.99, 0])))
    pack = PACK if toolkit == 'mmdet' else dict(type='PackSegInputs')
    if toolkit == 'mmseg':
        config['model']['data_preprocessor'] = dict(
            config['model']['data_preprocessor'], test_cfg=dict(size=(96, 128)))
    config.pop('test_dataloader', None)
    config['test_pipeline'] = [LOAD, *steps, pack]
    infer = FileInferencer(Config(config), write_model(tmp_path / 'a.pth', config, randomise))
    image, stages, prediction = infer(spot)
    assert np.array_equal(image, mmcv.imread(spot, channel_order='rgb'))
    ran = np.argwhere(stages[0].run > 0)
    assert stages[0].run[30, 90] > 0 and stages[0].run.shape == (80, 120)
    assert np.abs(ran - (30, 90)).max() < 40 and len(ran) < 80 * 120 / 5
    assert (stages[1].run == 2).all()
    assert 'pred_instances' in prediction or 'pred_sem_seg' in prediction


def test_segmentation_is_drawn_in_its_colours(spot, tmp_path, tiny_segmentor, randomise):
    config = Config(dict(tiny_segmentor, visualizer=dict(type='SegLocalVisualizer', alpha=1.)))
    classes = tuple('abcdefghijklmnopqrs')
    meta = dict(dataset_meta=dict(classes=classes, palette=[(9, 99, 199)] * 19))
    infer = FileInferencer(config, write_model(tmp_path / 'a.pth', config, randomise, meta))
    assert infer.dataset_meta == meta['dataset_meta']
    image, stages, prediction = infer(spot)
    painter = PanelPainter(config.visualizer, infer.dataset_meta)
    panel = painter.panel(image, stages, 'title', prediction)
    assert (panel == (9, 99, 199)).all(-1).sum() > panel.size / 3 / 8
    alone = PanelPainter(None, infer.dataset_meta).panel(image, stages, 'title', prediction)
    assert not (alone == (9, 99, 199)).all(-1).any()


def test_sliding_windows_are_refused(spot, tmp_path, tiny_segmentor, randomise):
    config = Config(tiny_segmentor)
    config.model.test_cfg = dict(mode='slide', crop_size=(32, 32), stride=(32, 32))
    infer = FileInferencer(config, write_model(tmp_path / 'a.pth', config, randomise))
    with pytest.raises(ValueError, match='sliding windows'):
        infer(spot)


def test_a_config_without_test_pipeline_or_sparse_backbone_is_refused(tiny_segmentor):
    config = Config(dict(tiny_segmentor, test_pipeline=None))
    with pytest.raises(ValueError, match='no test pipeline'):
        FileInferencer(config, 'a.pth')
    config.model.backbone.type = 'SwinTransformer'
    with pytest.raises(ValueError, match=r'0 sparse backbones.*model.backbone \(SwinTrans'):
        FileInferencer(config, 'a.pth')
    with pytest.raises(FileNotFoundError, match='checkpoint a.pth'):
        FileInferencer(Config(tiny_segmentor), 'a.pth')


@pytest.mark.parametrize('device', ['nonsense', pytest.param('cuda', marks=pytest.mark.skipif(
    torch.cuda.is_available(), reason='for machines without CUDA'))])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(ValueError, match=f"device '{device}'"):
        check_device(device)


def test_missing_and_broken_images_are_all_named(spot, tmp_path):
    for name, content in (('text.jpg', b'text'), ('empty.png', b'')):
        (tmp_path / name).write_bytes(content)
    check_images([spot])
    with pytest.raises(ValueError, match='text.jpg, .*empty.png'):
        check_images([spot, tmp_path / 'text.jpg', tmp_path / 'empty.png'])
    with pytest.raises(FileNotFoundError, match='a.png, b.png'):
        check_images([spot, 'a.png', tmp_path / 'text.jpg', 'b.png'])


def test_names_of_different_files_differ_and_a_file_has_one():
    paths = ['a/x.png', 'b/x.png', 'c/x-2.png', 'a/x.jpg', 'a/../a/x.png']
    assert output_names(paths) == {
        'a/x.png': 'x', 'b/x.png': 'x-2', 'c/x-2.png': 'x-2-2', 'a/x.jpg': 'x-3'}


def test_a_palette_is_made_where_none_is_given(tiny_detector):
    config = Config(tiny_detector)
    init_default_scope('mmdet')
    classes = tuple(f'class {i}' for i in range(80))
    made = with_palette(dict(classes=classes))['palette']
    assert len(set(made)) == 80 and all(0 <= c <= 255 for color in made for c in color)
    coco = dataset_meta(config, {})
    assert len(coco['classes']) == len(coco['palette']) == 80
    assert dataset_meta(config, dict(CLASSES=coco['classes']))['palette'] == coco['palette']
    assert 'palette' not in dataset_meta(config, dict(dataset_meta=dict(classes=('a', ))))
    assert dataset_meta(Config(), {}) is None


def test_wrapped_data_sets_are_found_and_loading_steps_change_no_pixel():
    one, two = dict(type='A'), dict(type='B')
    wrapped = dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[one, two]))
    assert list(leaves(wrapped)) == [one, two] and list(leaves(one)) == [one]
    annotations = dict(type='mmdet.LoadAnnotations', with_bbox=True)
    assert loading_steps([LOAD, annotations, RATIO, PACK]) == [LOAD, annotations, PACK]
    assert loading_steps([LOAD, RATIO, PACK]) == []


def test_ground_truth_of_segmentation_is_found_in_the_image_s_own_pixels(
        spot, tmp_path, tiny_segmentor, randomise):
    (tmp_path / 'maps').mkdir()
    labels = np.zeros((80, 120), dtype=np.uint8)
    labels[25:35, 85:95] = 7
    mmcv.imwrite(labels, str(tmp_path / 'maps' / 'spot.png'))
    pipeline = [LOAD, dict(type='LoadAnnotations'), RATIO, dict(type='PackSegInputs')]
    dataset = dict(
        type='BaseSegDataset', data_root=str(tmp_path), img_suffix='.png', pipeline=pipeline,
        metainfo=dict(classes=('a', 'b')), data_prefix=dict(img_path='', seg_map_path='maps'))
    config = Config(dict(tiny_segmentor, val_dataloader=dict(dataset=dataset)))
    infer = FileInferencer(config, write_model(tmp_path / 'a.pth', config, randomise))
    found = find_ground_truths(config, [spot, '/elsewhere/spot.png'], infer.model)
    assert list(found) == [spot]
    assert np.array_equal(found[spot].gt_sem_seg.data[0].cpu(), labels)
    config.val_dataloader.dataset.data_root = '/nowhere'
    assert find_ground_truths(config, [spot], infer.model) == {}
