"""The pipeline over the stock NuScenesDataset with one real keyframe, where that is at hand."""
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet3d')
from mmdet3d.models import Det3DDataPreprocessor  # noqa: E402
from mmdet3d.registry import DATASETS  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402

from sparsevit_mm.models.bevdet import (  # noqa: E402, F401
    bev_augmentation, image_augmentation, loading)

ROOT = Path(__file__).parents[4] / 'shared/data/nuscenes'
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason='needs the keyframe of nuScenes')


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        yield


CLASSES = ('car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier', 'motorcycle',
           'bicycle', 'pedestrian', 'traffic_cone')
LOAD = dict(type='LoadCameras', image_size=(900, 1600))
ANNOTATIONS = dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True)
TRAIN_IMAGES = dict(
    type='ImageAugmentation', size=(256, 704), resize=(-0.06, 0.11), random_crop=True, flip=0.5,
    rotate=5.4)
FILTERS = [
    dict(type='ObjectRangeFilter', point_cloud_range=[-51.2, -51.2, -5., 51.2, 51.2, 3.]),
    dict(type='ObjectNameFilter', classes=CLASSES)]
META_KEYS = ('token', 'sample_idx', 'cameras', 'img_path', 'img_shape', 'ori_shape', 'cam2img',
             'lidar2cam', 'img_aug_matrix', 'bev_aug_matrix')


def pack(*keys):
    return dict(type='Pack3DDetInputs', keys=['img', *keys], meta_keys=META_KEYS)


TRAIN = [LOAD, ANNOTATIONS, TRAIN_IMAGES, dict(type='BEVAugmentation')]
PACK_TRAIN = pack('gt_bboxes_3d', 'gt_labels_3d')
TEST = [LOAD, dict(type='ImageAugmentation', size=(256, 704)), pack()]


def build(pipeline, **kwargs):
    return DATASETS.build(dict(
        type='NuScenesDataset',
        data_root=str(ROOT),
        ann_file='nuscenes_infos_img_mini.pkl',
        data_prefix={camera: f'samples/{camera}' for camera in loading.NUSCENES_CAMERAS},
        modality=dict(use_camera=True, use_lidar=False),
        metainfo=dict(classes=CLASSES),
        pipeline=pipeline,
        **kwargs))


def project(boxes, meta):
    """Centres of boxes in each camera's augmented image: pixels (V, N, 2) and depths (V, N)."""
    points = np.c_[boxes.gravity_center.double().numpy(), np.ones(len(boxes))]
    points = points @ np.linalg.inv(meta.get('bev_aug_matrix', np.eye(4))).T
    points = (meta['cam2img'] @ (meta['lidar2cam'] @ points.T)[:, :3])
    depths = points[:, 2]
    return (meta['img_aug_matrix'] @ (points / depths[:, None]))[:, :2].transpose(0, 2, 1), depths


def test_training_gives_images_boxes_and_matrices():
    item = build([*TRAIN, *FILTERS, PACK_TRAIN])[0]
    assert item['inputs']['img'].shape == (6, 3, 256, 704)
    assert item['inputs']['img'].dtype == torch.uint8
    truth = item['data_samples'].gt_instances_3d
    assert truth.bboxes_3d.tensor.shape == (len(truth.labels_3d), 9) and len(truth.labels_3d) > 40
    meta = item['data_samples'].metainfo
    assert set(meta) == set(META_KEYS)
    assert meta['cameras'] == loading.NUSCENES_CAMERAS
    assert all(camera in path for camera, path in zip(meta['cameras'], meta['img_path']))
    assert meta['cam2img'].shape == (6, 3, 3) and meta['lidar2cam'].shape == (6, 4, 4)
    assert len(np.unique(meta['img_aug_matrix'][:, 0, 0])) == 6


def test_testing_gives_the_same_images_twice_and_the_preprocessor_stacks_them():
    data = build(TEST, test_mode=True)
    items = [data[0], data[0]]
    assert torch.equal(items[0]['inputs']['img'], items[1]['inputs']['img'])
    assert 'bev_aug_matrix' not in items[0]['data_samples'].metainfo
    batch = Det3DDataPreprocessor(mean=[0.] * 3, std=[1.] * 3)(
        dict(inputs=dict(img=[item['inputs']['img'] for item in items]),
             data_samples=[item['data_samples'] for item in items]))
    assert batch['inputs']['imgs'].shape == (2, 6, 3, 256, 704)


def test_a_box_stays_on_its_object_under_every_augmentation():
    plain = build([LOAD, ANNOTATIONS, dict(type='ImageAugmentation', size=(900, 1600), resize=0.),
                   PACK_TRAIN])[0]['data_samples']
    stored, depths = project(plain.gt_instances_3d.bboxes_3d, plain.metainfo)
    seen = (depths > 0) & ((stored > 0) & (stored < [1600, 900])).all(-1)
    assert seen.any(0).mean() > .9  # nuScenes' cameras see all around

    train = build([*TRAIN, PACK_TRAIN])
    for seed in range(3):
        np.random.seed(seed)
        moved = train[0]['data_samples']
        pixels, new_depths = project(moved.gt_instances_3d.bboxes_3d, moved.metainfo)
        homogeneous = np.concatenate([stored, np.ones_like(stored[..., :1])], -1)
        expected = homogeneous @ moved.metainfo['img_aug_matrix'].transpose(0, 2, 1)
        assert np.abs(pixels - expected[..., :2])[seen].max() < .01
        assert np.allclose(new_depths, depths, atol=1e-4)
