from functools import lru_cache
from unittest import mock

import pytest
from detector import CONFIG, SIZE, Detector
from helpers import ROOT, run_tool
from mmengine.config import config

from sparsevit_mm.datasets import generate_mini_coco


@pytest.fixture(scope='session', autouse=True)
def _format_once():
    """A Runner formats its config four times, which takes longer than a test of twelve images."""
    format_code = config.FormatCode
    once = lru_cache(lambda text: format_code(text, style_config='pep8'))
    with mock.patch.object(config, 'FormatCode', lambda text, **_: once(text)):
        yield


@pytest.fixture(scope='session')
def tiny(tmp_path_factory, _format_once) -> Detector:
    folder = tmp_path_factory.mktemp('tiny')
    data = generate_mini_coco(folder / 'data', dict(train=8, val=2, test=3), SIZE)
    path = folder / 'tiny.py'
    path.write_text(CONFIG.format(base=ROOT, root=f'{data}/', size=SIZE))
    assert run_tool('train', path, '--work-dir', folder / 'trained').code == 0
    return Detector(data, path, folder / 'trained' / 'iter_50.pth')
