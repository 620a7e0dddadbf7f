import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from generators import CLASSES, METAINFO, generate_mini_coco, mini_coco

SIZE = 96
COUNTS = dict(train=12, val=8, test=4)
CONFIG = 'demo/configs/_base_/mini_coco.py'


@pytest.fixture(scope='module', params=[False, True], ids=['square', 'mixed'])
def mixed(request):
    return request.param


@pytest.fixture(scope='module')
def root(tmp_path_factory, mixed):
    return generate_mini_coco(tmp_path_factory.mktemp('data') / 'mini_coco', COUNTS, SIZE, seed=3,
                              mixed_shapes=mixed)


def annotations_of(root, split):
    return json.loads((root / f'annotations/instances_{split}2017.json').read_text())


def files_of(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob('*') if path.is_file()
    }


@pytest.fixture
def always_crowded(monkeypatch):
    monkeypatch.setattr(mini_coco, 'CROWD_PROBABILITY', 1.)


def test_same_seed_same_bytes(root, mixed, tmp_path):
    again = generate_mini_coco(tmp_path / 'again', COUNTS, SIZE, seed=3, mixed_shapes=mixed)
    assert files_of(again) == files_of(root)
    other = generate_mini_coco(tmp_path / 'other', COUNTS, SIZE, seed=4)
    assert annotations_of(other, 'val')['annotations'] != annotations_of(
        root, 'val')['annotations']


def test_more_images_leave_the_earlier_ones(root, mixed, tmp_path):
    more = generate_mini_coco(tmp_path / 'more', dict(COUNTS, val=10), SIZE, seed=3,
                              mixed_shapes=mixed)
    few, many = annotations_of(root, 'val'), annotations_of(more, 'val')
    for key in ('images', 'annotations'):
        assert many[key][:len(few[key])] == few[key]
        assert len(many[key]) > len(few[key])
    before, after = files_of(root), files_of(more)
    assert all(after[name] == before[name] for name in before if name.endswith('.jpg'))


def test_splits_share_no_image(root):
    pictures = [content for name, content in files_of(root).items() if name.endswith('.jpg')]
    assert len(pictures) == len(set(pictures)) == sum(COUNTS.values())


def test_layout_is_that_of_coco(root):
    for split, count in COUNTS.items():
        content = annotations_of(root, split)
        assert list(content) == ['info', 'licenses', 'images', 'annotations', 'categories']
        assert [image['file_name'] for image in content['images']
                ] == [f'{index:012d}.jpg' for index in range(1, count + 1)]
        for image in content['images']:
            picture = cv2.imread(str(root / f'{split}2017' / image['file_name']))
            assert picture.shape == (image['height'], image['width'], 3)
            assert max(picture.shape) == SIZE
        assert [category['name'] for category in content['categories']] == list(CLASSES)
        assert {annotation['image_id'] for annotation in content['annotations']
                } <= {image['id'] for image in content['images']}


def test_masks_boxes_and_areas_agree(root, always_crowded, tmp_path):
    crowded = generate_mini_coco(tmp_path / 'crowded', COUNTS, SIZE)
    for folder in (root, crowded):
        coco = COCO(folder / 'annotations/instances_train2017.json')
        for annotation in coco.anns.values():
            mask = coco.annToMask(annotation)
            # Polygons are exact, masks are made of whole pixels.
            assert abs(mask.sum() - annotation['area']) <= 0.15 * annotation['area'] + 4
            x, y, width, height = annotation['bbox']
            assert 0 <= x and x + width <= SIZE and 0 <= y and y + height <= SIZE
            if not annotation['iscrowd']:
                corners = np.concatenate(annotation['segmentation']).reshape(-1, 2)
                np.testing.assert_allclose(corners.min(0), [x, y], atol=0.02)
                np.testing.assert_allclose(corners.max(0), [x + width, y + height], atol=0.02)
            # A sharp tip may hold no pixel, and a pixel on the edge counts whole.
            left, top, mask_width, mask_height = cv2.boundingRect(mask)
            assert left > x - 1 and left + mask_width < x + width + 1
            assert top > y - 1 and top + mask_height < y + height + 1
            assert mask_width * mask_height > 0.5 * width * height


def test_masks_are_the_visible_parts(root):
    overlapping_boxes = 0
    for split in COUNTS:
        coco = COCO(root / f'annotations/instances_{split}2017.json')
        for image in coco.imgs:
            objects = coco.imgToAnns[image]
            masks = sum(coco.annToMask(annotation).astype(int) for annotation in objects)
            # Neighbours may both claim a pixel on their common edge.
            assert (masks > 1).sum() <= 0.01 * SIZE**2
            boxes = np.array([annotation['bbox'] for annotation in objects])
            ious = mask_utils.iou(boxes, boxes, [0] * len(boxes))
            overlapping_boxes += (np.triu(ious, 1) > 0.05).sum()
    assert overlapping_boxes > 0


def test_crowd_rle_counts_every_pixel(always_crowded):
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for corner in (0, 1):
        mask[-1, -1] = mask[0, 0] = corner
        mask[10:20, 30:50] = 1
        rle = dict(counts=mini_coco._run_lengths(mask), size=[SIZE, SIZE])
        assert sum(rle['counts']) == SIZE**2
        decoded = mask_utils.decode(mask_utils.frPyObjects(rle, SIZE, SIZE))
        np.testing.assert_array_equal(decoded, mask)


def build_dataset(root, split, **kwargs):
    from mmdet.registry import DATASETS
    from mmdet.utils import register_all_modules
    register_all_modules()
    config = Config.fromfile(CONFIG)[f'{split}_dataloader'].dataset
    config.update(data_root=str(root), **kwargs)
    return DATASETS.build(config)


def test_config_names_the_classes():
    metainfo = Config.fromfile(CONFIG).metainfo
    assert metainfo.classes == METAINFO['classes']
    assert metainfo.palette == METAINFO['palette']


def test_stock_dataset_reads_it(root):
    for split, count in COUNTS.items():
        dataset = build_dataset(root, split)
        assert len(dataset) == count
        assert dataset.metainfo['classes'] == CLASSES
        names = {
            category['id']: category['name']
            for category in annotations_of(root, split)['categories']
        }
        read = sorted(CLASSES[instance['bbox_label']] for index in range(count)
                      for instance in dataset.get_data_info(index)['instances'])
        written = sorted(names[annotation['category_id']]
                         for annotation in annotations_of(root, split)['annotations'])
        assert read == written


def test_stock_pipeline_ignores_crowds(always_crowded, tmp_path):
    crowded = generate_mini_coco(tmp_path / 'crowded', COUNTS, SIZE)
    crowds = sum(a['iscrowd'] for a in annotations_of(crowded, 'train')['annotations'])
    assert crowds > 0
    dataset = build_dataset(crowded, 'train')
    ignored = [dataset[index]['data_samples'].ignored_instances for index in range(len(dataset))]
    assert sum(len(instances) for instances in ignored) == crowds
    assert all(instances.masks.masks.any(axis=(1, 2)).all() for instances in ignored)


def test_ground_truth_scores_one(root, always_crowded, tmp_path):
    from mmdet.evaluation import CocoMetric
    crowded = generate_mini_coco(tmp_path / 'crowded', COUNTS, SIZE)
    for folder, split in ((root, 'train'), (crowded, 'val')):
        path = folder / f'annotations/instances_{split}2017.json'
        metric = CocoMetric(ann_file=str(path), metric=['bbox', 'segm'])
        metric.dataset_meta = METAINFO
        coco = COCO(path)
        for image in coco.imgs:
            objects = [a for a in coco.imgToAnns[image] if not a['iscrowd']]
            boxes = torch.tensor([annotation['bbox'] for annotation in objects])
            boxes[:, 2:] += boxes[:, :2]
            shape = coco.imgs[image]['height'], coco.imgs[image]['width']
            predictions = dict(
                bboxes=boxes,
                scores=torch.ones(len(objects)),
                labels=torch.tensor([annotation['category_id'] - 1 for annotation in objects]),
                masks=[coco.annToRLE(annotation) for annotation in objects])
            metric.process({}, [
                dict(img_id=image, ori_shape=shape, pred_instances=predictions)
            ])
        scores = metric.evaluate(size=len(coco.imgs))
        assert scores['coco/bbox_mAP'] == scores['coco/segm_mAP'] == 1


def test_shapes_are_square_or_mixed(root, mixed):
    shapes = {(image['height'], image['width']) for split in COUNTS
              for image in annotations_of(root, split)['images']}
    long, short = SIZE, {SIZE // 2, 2 * SIZE // 3, 5 * SIZE // 6}
    assert shapes == ({(long, s) for s in short} | {(s, long) for s in short} if mixed
                      else {(SIZE, SIZE)})


def test_existing_data_set_is_reused(root, mixed):
    stamps = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert generate_mini_coco(root, COUNTS, SIZE, seed=3, mixed_shapes=mixed) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == stamps


def test_other_parameters_are_refused(tmp_path):
    counts = dict(train=1, val=1, test=1)
    root = generate_mini_coco(tmp_path / 'data', counts, SIZE)
    before = files_of(root)
    for other in (dict(seed=1), dict(image_size=64), dict(num_images=dict(counts, val=2)),
                  dict(mixed_shapes=True)):
        parameters = dict(dict(num_images=counts, image_size=SIZE), **other)
        with pytest.raises(FileExistsError, match='overwrite=True'):
            generate_mini_coco(root, **parameters)
    assert files_of(root) == before
    generate_mini_coco(root, counts, SIZE, seed=1, overwrite=True)
    assert files_of(root) != before
    assert [path.name for path in tmp_path.iterdir()] == ['data']


def test_foreign_folder_is_refused(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError):
        generate_mini_coco(tmp_path, COUNTS, SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


@pytest.mark.parametrize('counts', [dict(train=1, val=1), dict(train=1, val=1, test=0)])
def test_counts_are_checked(counts, tmp_path):
    with pytest.raises(ValueError, match='num_images'):
        generate_mini_coco(tmp_path / 'data', counts, SIZE)


@pytest.mark.parametrize('overwrite', [False, True])
def test_failure_leaves_nothing_half_written(overwrite, tmp_path, monkeypatch):
    counts = dict(train=1, val=1, test=1)
    if overwrite:
        before = files_of(generate_mini_coco(tmp_path / 'data', counts, SIZE))

    drawn = []

    def fail_at_the_second(*args):
        if drawn:
            raise RuntimeError('no ink')
        drawn.append(draw_image(*args))
        return drawn[0]

    draw_image = mini_coco.draw_image
    monkeypatch.setattr(mini_coco, 'draw_image', fail_at_the_second)
    with pytest.raises(RuntimeError, match='no ink'):
        generate_mini_coco(tmp_path / 'data', counts, SIZE, seed=5, overwrite=overwrite)
    if overwrite:
        assert files_of(tmp_path / 'data') == before
    assert [path.name for path in tmp_path.iterdir()] == ['data'] * overwrite
