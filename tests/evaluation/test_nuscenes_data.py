"""What a nuScenes config needs to be there, and what not, before a search begins."""
from pathlib import Path

import pytest
from nuscenes_tables import nuscenes_config, write_nuscenes

from sparsevit_mm.config.data import check_data

CAMERAS = ('CAM_FRONT', 'CAM_BACK')


@pytest.fixture
def cfg(tmp_path):
    """A camera-only user's: no LiDAR was downloaded, though the config names its folders."""
    cfg = nuscenes_config(write_nuscenes(tmp_path))
    for camera in CAMERAS:
        (tmp_path / 'samples' / camera).mkdir(parents=True)
    cfg.val_dataloader.dataset.data_prefix = dict(
        pts='samples/LIDAR_TOP', sweeps='sweeps/LIDAR_TOP', img='',
        **{camera: f'samples/{camera}' for camera in CAMERAS})
    return cfg


def missing(cfg):
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg, 'val')
    return str(error.value).partition(': ')[2].split(', ')


def test_only_the_folders_of_the_sensors_in_use_are_needed(cfg, tmp_path):
    check_data(cfg, 'val')
    dataset = cfg.val_dataloader.dataset
    lidar = [f'val {tmp_path}/{folder}/LIDAR_TOP' for folder in ('samples', 'sweeps')]
    for camera in CAMERAS:
        (tmp_path / 'samples' / camera).rmdir()
    cameras = [f'val {tmp_path}/samples/{camera}' for camera in CAMERAS]
    assert missing(cfg) == cameras
    dataset.modality = dict(use_lidar=True)
    assert missing(cfg) == lidar
    dataset.modality = dict(use_lidar=True, use_camera=True)
    assert missing(cfg) == lidar + cameras
    del dataset['modality']
    assert missing(cfg) == lidar + cameras


def test_folders_that_are_of_no_sensor_are_always_needed(cfg, tmp_path):
    cfg.val_dataloader.dataset.data_prefix = dict(pts_semantic_mask='masks')
    assert missing(cfg) == [f'val {tmp_path}/masks']


@pytest.mark.parametrize('version', ['v1.0-mini', None])
def test_tables_of_the_version_are_needed(cfg, tmp_path, version):
    if version is None:
        del cfg.val_dataloader.dataset.metainfo['version']
        version = 'v1.0-trainval'  # NuScenesDataset's own
    else:
        (tmp_path / version).rename(tmp_path / 'elsewhere')
    cfg.val_evaluator = [dict(cfg.val_evaluator, type='mmdet3d.NuScenesMetric')]
    cfg.val_dataloader.dataset = dict(type='RepeatDataset', times=1,
                                      dataset=cfg.val_dataloader.dataset)
    assert missing(cfg) == [f'val evaluator {tmp_path}/{version}']


def test_maps_that_the_tables_name_are_needed(cfg, tmp_path):
    """The devkit refuses to load without, after the first evaluation's inference."""
    (tmp_path / 'maps' / 'town.png').unlink()
    assert missing(cfg) == [f'val evaluator {tmp_path}/maps/town.png']


def test_annotation_file_is_needed(cfg, tmp_path):
    Path(cfg.val_evaluator.ann_file).unlink()
    assert missing(cfg) == [f'val {tmp_path}/infos_val.pkl',
                            f'val evaluator {tmp_path}/infos_val.pkl']
