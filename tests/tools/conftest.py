import detector
import pytest
import rig
import segmentor
from trained import Trained, train

from generators import (generate_mini_cityscapes, generate_mini_coco,
                                   generate_mini_nuscenes)

IMAGES = dict(train=8, val=2, test=3)


@pytest.fixture(scope='session')
def tiny(tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp('tiny')
    data = generate_mini_coco(folder / 'data', IMAGES, detector.SIZE)
    return train(folder, data, detector.CONFIG, detector.SIZE)


@pytest.fixture(scope='session')
def tiny_seg(tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp('tiny_seg')
    data = generate_mini_cityscapes(folder / 'data', IMAGES, segmentor.SIZE)
    return train(folder, data, segmentor.CONFIG, segmentor.SIZE)


@pytest.fixture(scope='session')
def tiny_3d(tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp('tiny_3d')
    frames = dict(train=4, val=4, test=3)
    data = generate_mini_nuscenes(folder / 'data', frames, rig.SIZE)
    return train(folder, data, rig.CONFIG, rig.SIZE)
