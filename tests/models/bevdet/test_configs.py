"""The configs for nuScenes: published figures, and parts that must agree."""
from pathlib import Path

import pytest
from mmdet3d.registry import DATASETS, MODELS
from mmengine.registry import init_default_scope

from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.data import input_shape
from sparsevit_mm.config.reading import load_config, walk
from sparsevit_mm.cost.macs import backbone_macs

CONFIGS = sorted(map(str, Path('configs').rglob('bevdet_*.py')))


@pytest.mark.parametrize('config, gmacs', [
    ('bevdet_sparsevit_nuscenes_dense', 140.8), ('bevdet_sparsevit_nuscenes_dense_224x616', 78.5),
    ('bevdet_sparsevit_nuscenes_dense_192x528', 67.1)])
def test_macs_of_the_backbone_are_the_published_ones(config, gmacs):
    cfg = load_config(f'configs/bevdet/{config}.py')
    macs = backbone_macs(build_backbone(cfg), input_shape(cfg), 6, count_padding=True)
    assert macs / 1e9 == pytest.approx(gmacs, rel=0.005)


@pytest.mark.parametrize('config', CONFIGS)
def test_classes_grid_and_ranges_agree(config):
    cfg = load_config(config)
    model, head = cfg.model, cfg.model.pts_bbox_head
    names = [name for task in head.tasks for name in task.class_names]
    train, = find(cfg.train_dataloader, 'NuScenesDataset')
    for dataset in (train, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset):
        assert list(dataset.metainfo.classes) == names
    for axis, key in enumerate('xy'):
        first, last, size = model.img_view_transformer[key]
        settings, coder = head.train_cfg, head.bbox_coder
        assert settings.point_cloud_range[axis] == coder.pc_range[axis] == first
        assert settings.point_cloud_range[axis + 3] == last
        for part in (settings, coder):
            assert part.voxel_size[axis] * part.out_size_factor == pytest.approx(size)
        assert settings.grid_size[axis] // settings.out_size_factor == round((last - first) / size)
    limits, = find(cfg.train_dataloader, 'ObjectRangeFilter')
    assert list(limits.point_cloud_range) == head.train_cfg.point_cloud_range
    sizes = {tuple(step['size']) for step in find(cfg.to_dict(), 'ImageAugmentation')}
    assert sizes == {input_shape(cfg)} == {tuple(cfg.image_size)}


def find(node, kind):
    return [part for _, part in walk(node, ()) if part.get('type') == kind]


@pytest.mark.slow
@pytest.mark.parametrize('config', CONFIGS)
def test_model_builds(config):
    cfg = load_config(config)
    init_default_scope('mmdet3d')
    cfg.model.img_backbone.init_cfg = None
    assert MODELS.build(cfg.model).pts_bbox_head.num_classes == [1, 2, 2, 1, 2, 2]
    assert DATASETS.get(cfg.test_dataloader.dataset.type)
