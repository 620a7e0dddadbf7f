from functools import lru_cache
from unittest import mock

import detector
import pytest
import rig
import segmentor
from mmengine.config import config
from trained import Trained, train

from generators import (generate_mini_cityscapes, generate_mini_coco,
                                   generate_mini_nuscenes)

IMAGES = dict(train=8, val=2, test=3)


@pytest.fixture(scope='session', autouse=True)
def _format_once():
    """A Runner formats its config four times, which takes longer than a test of twelve images."""
    format_code = config.FormatCode
    once = lru_cache(lambda text: format_code(text, style_config='pep8'))
    with mock.patch.object(config, 'FormatCode', lambda text, **_: once(text)):
        yield


@pytest.fixture(scope='session')
def tiny(tmp_path_factory, _format_once) -> Trained:
    folder = tmp_path_factory.mktemp('tiny')
    data = generate_mini_coco(folder / 'data', IMAGES, detector.SIZE)
    return train(folder, data, detector.CONFIG, detector.SIZE)


@pytest.fixture(scope='session')
def tiny_seg(tmp_path_factory, _format_once) -> Trained:
    folder = tmp_path_factory.mktemp('tiny_seg')
    data = generate_mini_cityscapes(folder / 'data', IMAGES, segmentor.SIZE)
    return train(folder, data, segmentor.CONFIG, segmentor.SIZE)


@pytest.fixture(scope='session')
def tiny_3d(tmp_path_factory, _format_once) -> Trained:
    folder = tmp_path_factory.mktemp('tiny_3d')
    frames = dict(train=4, val=4, test=3)
    data = generate_mini_nuscenes(folder / 'data', frames, rig.SIZE)
    return train(folder, data, rig.CONFIG, rig.SIZE)
