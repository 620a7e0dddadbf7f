import json
from collections import Counter

import cv2
import numpy as np
import pytest
from helpers import refused, run_tool
from mmengine.config import Config
from mmengine.structures import PixelData

from generators import generate_mini_cityscapes, mini_cityscapes
from generators.cityscapes_labels import COLOURS, LABELS, TRAIN_IDS
from generators.streets import CLASSES

SIZE = (64, 128)
COUNTS = dict(train=5, val=2, test=3)
ONE_EACH = dict(train=1, val=1, test=1)
CONFIG = 'demo/configs/_base_/mini_cityscapes.py'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'mini_cityscapes'
    return generate_mini_cityscapes(folder, COUNTS, SIZE, seed=3)


@pytest.fixture(scope='module')
def streets(tmp_path_factory):
    """Forty streets of the default size."""
    folder = tmp_path_factory.mktemp('data') / 'streets'
    return generate_mini_cityscapes(folder, dict(ONE_EACH, train=40))


def files_of(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob('*') if path.is_file()
    }


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def pictures_of(root, split='*'):
    return sorted(root.glob(f'leftImg8bit/{split}/*/*.png'))


def labels_of(picture, kind):
    name = picture.name.replace('leftImg8bit', f'gtFine_{kind}')
    split, city = picture.parents[1].name, picture.parent.name
    return read(picture.parents[3] / 'gtFine' / split / city / name)


def test_same_seed_same_bytes(root, tmp_path):
    again = generate_mini_cityscapes(tmp_path / 'again', COUNTS, SIZE, seed=3)
    assert files_of(again) == files_of(root)
    other = generate_mini_cityscapes(tmp_path / 'other', COUNTS, SIZE, seed=4)
    before, after = files_of(root), files_of(other)
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before if 'color' not in name)


def test_more_images_leave_the_earlier_ones(root, tmp_path):
    more = generate_mini_cityscapes(tmp_path / 'more', dict(COUNTS, val=4), SIZE, seed=3)
    before, after = files_of(root), files_of(more)
    assert len(after) == len(before) + 2 * 5
    assert all(after[name] == before[name] for name in before if name.endswith('.png'))


def test_splits_share_neither_city_nor_image(root):
    pictures = pictures_of(root)
    assert len({path.read_bytes() for path in pictures}) == len(pictures) == sum(COUNTS.values())
    splits = {(path.parent.name, path.parents[1].name) for path in pictures}
    assert max(Counter(city for city, split in splits).values()) == 1
    assert min(Counter(split for city, split in splits).values()) >= 2


def test_layout_is_that_of_cityscapes(root):
    written = set(files_of(root))
    pictures = [name for name in written if name.startswith('leftImg8bit/')]
    for split, count in COUNTS.items():
        assert sum(name.split('/')[1] == split for name in pictures) == count
    expected = {'mini_cityscapes.json'}
    for name in pictures:
        _, split, city, file = name.split('/')
        stem, end = file.rsplit('_', 1)
        assert end == 'leftImg8bit.png'
        parts = stem.split('_')
        assert parts[0] == city and [len(part) for part in parts[1:]] == [6, 6]
        assert ''.join(parts[1:]).isdigit()
        expected |= {name} | {
            f'gtFine/{split}/{city}/{stem}_gtFine_{kind}.png'
            for kind in ('labelIds', 'labelTrainIds', 'instanceIds', 'color')
        }
    assert written == expected
    for picture in pictures_of(root):
        for image, shape, dtype in ((read(picture), (*SIZE, 3), np.uint8),
                                    (labels_of(picture, 'labelIds'), SIZE, np.uint8),
                                    (labels_of(picture, 'labelTrainIds'), SIZE, np.uint8),
                                    (labels_of(picture, 'instanceIds'), SIZE, np.uint16),
                                    (labels_of(picture, 'color'), (*SIZE, 4), np.uint8)):
            assert image.shape == shape and image.dtype == dtype


def test_table_is_that_of_cityscapesscripts():
    official = pytest.importorskip('cityscapesscripts.helpers.labels').labels
    official = {label.name: label for label in official if label.id >= 0}
    assert LABELS.keys() == official.keys()
    for name, label in LABELS.items():
        assert label == (official[name].id, official[name].trainId, official[name].hasInstances,
                         official[name].color)
        assert TRAIN_IDS[label.id] == label.train_id
        assert tuple(COLOURS[label.id]) == label.colour


def test_the_kinds_of_labels_agree_in_every_pixel(root):
    id2label = pytest.importorskip('cityscapesscripts.helpers.labels').id2label
    for picture in pictures_of(root):
        ids = labels_of(picture, 'labelIds')
        train_ids, instances, colours = (
            labels_of(picture, kind) for kind in ('labelTrainIds', 'instanceIds', 'color'))
        for label in map(id2label.get, np.unique(ids)):
            here = ids == label.id
            assert set(train_ids[here]) == {label.trainId}
            assert np.unique(colours[here], axis=0).tolist() == [[*label.color[::-1], 255]]
            found = set(instances[here].tolist())
            if label.hasInstances:
                assert {number // 1000 for number in found} == {label.id}
            else:
                assert found == {label.id}


def test_instances_are_apart(streets):
    """Two objects of a class differ in number, and most objects are in one piece or few."""
    crowded = pieces = objects = 0
    for picture in pictures_of(streets):
        instances = labels_of(picture, 'instanceIds')
        numbers = np.unique(instances[instances >= 1000])
        crowded += len(numbers) > len(set(numbers // 1000))
        for number in numbers:
            pieces += cv2.connectedComponents((instances == number).astype(np.uint8))[0] - 1
        objects += len(numbers)
    assert crowded > 20
    assert pieces < 2 * objects


def test_plain_ground_is_large_and_telling_objects_are_small(streets):
    ids = np.stack([labels_of(picture, 'labelIds') for picture in pictures_of(streets, 'train')])
    shares = {name: (ids == LABELS[name].id).mean() for name in LABELS}
    assert {name for name, label in LABELS.items() if shares[name] and label.train_id != 255
            } == set(CLASSES)
    assert shares['road'] + shares['sky'] + shares['building'] > 0.5
    for name in ('person', 'pole', 'traffic sign', 'traffic light'):
        assert 0.001 < shares[name] < 0.06, name
    assert 0.02 < shares['car'] < 0.2
    void = (ids == LABELS['ego vehicle'].id).any(axis=(1, 2))
    assert 0 < void.sum() < len(ids)


def test_sky_is_above_and_road_below(streets):
    for picture in pictures_of(streets):
        ids = labels_of(picture, 'labelIds')
        rows = {name: np.nonzero(ids == LABELS[name].id)[0] for name in ('sky', 'road')}
        assert rows['sky'].max(initial=0) < rows['road'].min()


def test_labels_lie_on_what_is_painted(streets):
    """Edges of the labels are edges of the picture: moved labels fit worse."""
    fits = Counter()
    for picture in pictures_of(streets, 'train'):
        levels = read(picture).astype(float).mean(2)
        steps = np.abs(levels[:, 1:] - levels[:, :-1])
        ids = labels_of(picture, 'labelIds')
        edges = ids[:, 1:] != ids[:, :-1]
        for shift in (-2, 0, 2):
            fits[shift] += steps[np.roll(edges, shift, axis=1)].mean()
    assert fits[0] > 1.5 * max(fits[-2], fits[2])


def test_sizes_are_honoured_and_checked(tmp_path):
    root = generate_mini_cityscapes(tmp_path / 'square', ONE_EACH, (96, 96))
    assert all(read(picture).shape == (96, 96, 3) for picture in pictures_of(root))
    for size in ((16, 256), (128, ), (128, 256, 3)):
        with pytest.raises(ValueError, match='image_size'):
            generate_mini_cityscapes(tmp_path / 'data', ONE_EACH, size)
    assert [path.name for path in tmp_path.iterdir()] == ['square']


def build_dataset(root, split):
    pytest.importorskip('mmseg')
    from mmseg.registry import DATASETS
    from mmseg.utils import register_all_modules
    register_all_modules()
    config = Config.fromfile(CONFIG)[f'{split}_dataloader'].dataset
    config.update(data_root=str(root))
    return DATASETS.build(config)


def test_stock_dataset_reads_it(root):
    for split, count in COUNTS.items():
        dataset = build_dataset(root, split)
        assert len(dataset) == count
        for item in dataset:
            target = item['data_samples'].gt_sem_seg.data
            assert set(target.unique().tolist()) <= {*range(19), 255}
            assert target.shape[1:] == SIZE
            assert item['inputs'].shape[1:] == (SIZE if split == 'train' else (128, 256))


def scores_of(root, split, metric):
    """What a metric of mmseg gives for the ground truth as the prediction."""
    dataset = build_dataset(root, split)
    metric.dataset_meta = dataset.metainfo
    for item in dataset:
        sample = item['data_samples']
        sample.pred_sem_seg = PixelData(data=sample.gt_sem_seg.data.clone())
        metric.process({}, [sample.to_dict()])
    return metric.evaluate(size=len(dataset))


def test_ground_truth_scores_a_hundred(root):
    pytest.importorskip('mmseg')
    from mmseg.evaluation import IoUMetric
    for split in ('val', 'test'):
        scores = scores_of(root, split, IoUMetric(iou_metrics=['mIoU']))
        assert scores['mIoU'] == scores['aAcc'] == 100


def test_ground_truth_scores_one_with_cityscapesscripts(root, tmp_path):
    pytest.importorskip('cityscapesscripts')
    pytest.importorskip('mmseg')
    from mmseg.evaluation import CityscapesMetric
    metric = CityscapesMetric(output_dir=str(tmp_path / 'predictions'))
    scores = scores_of(root, 'val', metric)
    assert scores == dict(averageScoreCategories=1, averageScoreInstCategories=1)


def test_existing_data_set_is_kept(root):
    stamps = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert generate_mini_cityscapes(str(root), COUNTS, SIZE, seed=3) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == stamps


def test_other_parameters_are_refused(tmp_path):
    root = generate_mini_cityscapes(tmp_path / 'data', ONE_EACH, SIZE)
    before = files_of(root)
    for other in (dict(seed=1), dict(image_size=(64, 64)), dict(num_images=dict(ONE_EACH, val=2))):
        parameters = dict(dict(num_images=ONE_EACH, image_size=SIZE), **other)
        with pytest.raises(FileExistsError, match='overwrite=True'):
            generate_mini_cityscapes(root, **parameters)
    assert files_of(root) == before
    generate_mini_cityscapes(root, ONE_EACH, SIZE, seed=1, overwrite=True)
    assert files_of(root) != before
    assert [path.name for path in tmp_path.iterdir()] == ['data']


def test_foreign_folder_is_refused(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError):
        generate_mini_cityscapes(tmp_path, ONE_EACH, SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


@pytest.mark.parametrize('counts', [dict(train=1, val=1), dict(train=1, val=1, test=0)])
def test_counts_are_checked(counts, tmp_path):
    with pytest.raises(ValueError, match='num_images'):
        generate_mini_cityscapes(tmp_path / 'data', counts, SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize('overwrite', [False, True])
def test_interruption_leaves_nothing_half_written(overwrite, error, tmp_path, monkeypatch):
    if overwrite:
        before = files_of(generate_mini_cityscapes(tmp_path / 'data', ONE_EACH, SIZE))
    draw_street, drawn = mini_cityscapes.draw_street, []

    def fail_at_the_third(*args):
        drawn.append(args)
        if len(drawn) == 3:
            raise error
        return draw_street(*args)

    monkeypatch.setattr(mini_cityscapes, 'draw_street', fail_at_the_third)
    with pytest.raises(error):
        generate_mini_cityscapes(tmp_path / 'data', ONE_EACH, SIZE, seed=5, overwrite=overwrite)
    assert len(drawn) == 3
    if overwrite:
        assert files_of(tmp_path / 'data') == before
    assert [path.name for path in tmp_path.iterdir()] == ['data'] * overwrite


def test_tool_writes_what_the_function_does_and_refuses_in_one_line(tmp_path):
    data = tmp_path / 'data'
    arguments = [data, '--train', 1, '--val', 1, '--test', 1, '--image-size', *SIZE]
    assert run_tool('make_mini_cityscapes', *arguments, folder='demo').output.strip() == str(data)
    written = json.loads((data / 'mini_cityscapes.json').read_text())
    assert written['num_images'] == ONE_EACH and written['image_size'] == list(SIZE)
    assert generate_mini_cityscapes(data, ONE_EACH, SIZE) == data
    assert str(data) in refused('make_mini_cityscapes', *arguments, '--seed', 1, folder='demo')
    assert 'num_images' in refused('make_mini_cityscapes', tmp_path / 'none', '--val', 0,
                                    folder='demo')
