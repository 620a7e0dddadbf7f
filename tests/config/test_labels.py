import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import TRANSFORMS

from sparsevit_mm.config import labels
from sparsevit_mm.config.labels import check_classes, check_labels

pytest.importorskip('mmseg')
IMAGES = 12


@TRANSFORMS.register_module(force=True)
class HalveLabels:
    """A transform of the user's own."""

    def __call__(self, results):
        return dict(results, gt_seg_map=results['gt_seg_map'] // 2)


@pytest.fixture
def cfg(tmp_path):
    """A segmentor of three classes, over a dozen images with labels of 0, 1, 2 and 255."""
    rng = np.random.default_rng(0)
    for kind in ('images', 'labels'):
        (tmp_path / kind).mkdir()
    for i in range(IMAGES):
        cv2.imwrite(f'{tmp_path}/images/{i:02d}.jpg', rng.integers(0, 255, (6, 8, 3), np.uint8))
        write(tmp_path / f'labels/{i:02d}.png', rng.choice([0, 1, 2, 255], (6, 8)))
    dataset = dict(
        type='BaseSegDataset', data_root=str(tmp_path), metainfo=dict(classes=('a', 'b', 'c')),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(4, 4)),
                  dict(type='LoadAnnotations'), dict(type='PackSegInputs')])
    return Config(dict(
        default_scope='mmseg', model=dict(decode_head=dict(num_classes=3)),
        train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=dataset))))


def write(path, label):
    assert cv2.imwrite(str(path), label.astype(np.uint8))


def leaf(cfg):
    return cfg.train_dataloader.dataset.dataset


def fault(cfg, error=ValueError):
    with pytest.raises(error) as caught:
        check_labels(cfg, 'train')
    assert '\n' not in str(caught.value) and str(caught.value).startswith('train data: ')
    return str(caught.value)


def test_good_data_pass(cfg):
    check_labels(cfg, 'train')


@pytest.mark.parametrize('kind, name', [('labels', '04.png'), ('images', '04.jpg')])
def test_missing_file_of_a_list_is_named_with_how_many_are(cfg, tmp_path, kind, name):
    (tmp_path / 'list.txt').write_text('\n'.join(f'{i:02d}' for i in range(IMAGES)))
    leaf(cfg).ann_file = 'list.txt'
    (tmp_path / kind / name).unlink()
    message = fault(cfg, FileNotFoundError)
    assert message.startswith(f'train data: 1 of {IMAGES} {kind} ')
    assert message.endswith(f' {tmp_path / kind / name}')


def test_wrong_suffix_names_a_few_of_the_files(cfg, tmp_path):
    leaf(cfg).seg_map_suffix = '_train.png'
    message = fault(cfg, FileNotFoundError)
    assert '12 of 12 labels' in message and f' {tmp_path}/labels/00_train.png' in message
    assert message.count('.png') == 3


def test_folder_without_images_is_named(cfg, tmp_path):
    leaf(cfg).img_suffix = '.jpeg'
    assert f'no image in {tmp_path}/images' in fault(cfg)


@pytest.mark.parametrize('number', range(IMAGES))
def test_label_of_another_size_is_named_wherever_it_is(cfg, tmp_path, number):
    write(tmp_path / f'labels/{number:02d}.png', np.zeros((8, 6)))
    message = fault(cfg)
    assert f'{tmp_path}/labels/{number:02d}.png has 8x6 pixels' in message
    assert f'{tmp_path}/images/{number:02d}.jpg has 6x8' in message


@pytest.mark.parametrize('number', [0, IMAGES - 1])
def test_value_without_a_class_is_named_with_the_number_of_classes(cfg, tmp_path, number):
    path = tmp_path / f'labels/{number:02d}.png'
    write(path, np.full((6, 8), 3))
    message = fault(cfg)
    assert message.startswith(f'train data: {path} has the value 3,')
    assert message.endswith('3 classes end at 2')
    cfg.model.decode_head.ignore_index = 3
    check_labels(cfg, 'train')


def test_values_are_those_after_loading(cfg, tmp_path):
    for path in (tmp_path / 'labels').iterdir():
        write(path, np.full((6, 8), 3))
    leaf(cfg).reduce_zero_label = True  # 3 is then the last class
    check_labels(cfg, 'train')
    leaf(cfg).reduce_zero_label = False
    leaf(cfg).pipeline.insert(3, dict(type='HalveLabels'))  # what a user's code makes is not known
    check_labels(cfg, 'train')


def test_coloured_label_is_named(cfg, tmp_path):
    write(tmp_path / 'labels/00.png', np.zeros((6, 8, 3)))
    assert '00.png has 3 channels' in fault(cfg)


@pytest.mark.parametrize('kind, name', [('labels', '04.png'), ('images', '04.jpg')])
@pytest.mark.parametrize('content', [b'', b'no picture' * 9])
def test_file_that_is_no_image_is_named(cfg, tmp_path, kind, name, content):
    (tmp_path / kind / name).write_bytes(content)
    message = fault(cfg)
    assert f'{tmp_path / kind / name} ' in message and 'loaded' in message


def test_label_that_breaks_off_is_named(cfg, tmp_path):
    path = tmp_path / 'labels/04.png'
    path.write_bytes(path.read_bytes()[:-30])
    message = fault(cfg)
    assert f'{path} ' in message and 'loaded' in message


def test_photograph_that_is_turned_upright_passes(cfg, tmp_path):
    from PIL import Image
    upright = Image.Exif()
    upright[0x112] = 6  # by a quarter
    Image.new('RGB', (6, 8)).save(tmp_path / 'images/04.jpg', exif=upright)
    check_labels(cfg, 'train')


def test_large_data_sets_are_judged_by_a_spread_and_their_files_by_all(cfg, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(labels, 'HEADERS', 3)
    monkeypatch.setattr(labels, 'LOADED', 2)
    header = labels._header
    monkeypatch.setattr(labels, '_header', lambda path: opened.append(path) or header(path))
    check_labels(cfg, 'train')
    assert [Path(path).name for path in opened] == [
        '00.jpg', '00.png', '05.jpg', '05.png', '11.jpg', '11.png']
    (tmp_path / 'labels/07.png').unlink()
    assert '07.png' in fault(cfg, FileNotFoundError)


@pytest.mark.parametrize('change', [
    dict(type='CocoDataset', data_prefix=dict(img='images/')),  # detection
    dict(backend_args=dict(backend='petrel')),
    dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='PackSegInputs')])])
def test_what_has_no_labels_here_is_not_even_built(cfg, tmp_path, change):
    shutil.rmtree(tmp_path / 'labels')
    leaf(cfg).type = 'DataSetThatIsNowhere'
    for key, value in change.items():
        leaf(cfg)[key] = value
    check_labels(cfg, 'train')


@pytest.mark.parametrize('model, named', [
    (dict(decode_head=dict(num_classes=19)), 'model.decode_head.num_classes is 19'),
    (dict(decode_head=[dict(num_classes=3), dict(num_classes=4)]),
     'model.decode_head.1.num_classes is 4'),
    (dict(decode_head=dict(num_classes=3), auxiliary_head=dict(num_classes=7)),
     'model.auxiliary_head.num_classes is 7'),
    (dict(decode_head=dict(type='IterativeDecodeHead', kernel_update_head=[
        dict(num_classes=2)])), 'model.decode_head.kernel_update_head.0.num_classes is 2')])
def test_head_of_another_number_of_classes_is_named(cfg, model, named):
    cfg.model = model
    assert fault(cfg) == f'train data: 3 classes, {named}'


@pytest.mark.parametrize('head', [
    dict(num_classes=2, out_channels=1), dict(num_classes=1), dict(channels=8),
    dict(num_classes=3, loss_decode=dict(type='mmdet.FocalLoss', num_classes=9))])
def test_heads_that_tell_no_classes_apart_pass(head):
    check_classes(dict(decode_head=dict(num_classes=3), auxiliary_head=[head]), 'abc')
    check_classes(dict(decode_head=head), 'abc')


def test_auxiliary_heads_may_tell_boundaries():
    check_classes(dict(auxiliary_head=[dict(type='STDCHead', num_classes=2)]), 'abc')
    with pytest.raises(ValueError, match='decode_head.num_classes is 2'):
        check_classes(dict(decode_head=dict(num_classes=2)), 'abc')


def test_masks_of_0_and_255_are_told_of(cfg, tmp_path, monkeypatch):
    """They train one class, to an mIoU of 100."""
    said = []
    monkeypatch.setattr(labels, 'print_log', lambda text, *_: said.append(text))
    check_labels(cfg, 'train')
    assert not said
    leaf(cfg).metainfo.classes = ('ground', 'thing')
    cfg.model.decode_head.num_classes = 2
    for i in range(IMAGES):
        write(tmp_path / f'labels/{i:02d}.png', np.eye(6, 8) * 255)
    check_labels(cfg, 'train')
    assert len(said) == 1 and 'of 2 classes only [0] occur' in said[0]
    assert '[255] are ignored' in said[0]
