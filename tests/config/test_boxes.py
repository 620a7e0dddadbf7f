"""COCO files with gaps are told in one line, before anything is built."""
import json
from copy import deepcopy

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS

from sparsevit_mm.config import boxes
from sparsevit_mm.config.labels import check_labels
from sparsevit_mm.evaluation.metrics import check_metric
from sparsevit_mm.evaluation.subset import choose, restrict_to_subset

CLASSES = ('cat', 'dog')
GOOD = dict(
    images=[dict(id=i, file_name=f'{i}.jpg', width=9, height=9) for i in range(6)],
    categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
    annotations=[dict(id=i, image_id=i, category_id=1 + i % 2, bbox=[0, 0, 4, 4], area=16,
                      iscrowd=0, segmentation=[[0, 0, 4, 0, 4, 4]]) for i in range(3)])


@pytest.fixture
def config(tmp_path):
    """Record -> config over it."""

    def make(record, metric=('bbox', 'segm'), number=2, classes=CLASSES):
        (tmp_path / 'val.json').write_text(json.dumps(record))
        for i in range(6):
            (tmp_path / f'{i}.jpg').touch()
        dataset = dict(type='CocoDataset', data_root=f'{tmp_path}/', ann_file='val.json',
                       metainfo=dict(classes=classes), pipeline=[], data_prefix=dict(img=''))
        return Config(dict(
            default_scope='mmdet',
            model=dict(roi_head=dict(bbox_head=dict(num_classes=number),
                                     mask_head=[dict(num_classes=number)])),
            val_dataloader=dict(dataset=dataset), work_dir=str(tmp_path / 'work'),
            val_evaluator=dict(type='CocoMetric', ann_file=f'{tmp_path}/val.json',
                               metric=list(metric))))

    return make


def changed(change, kind='annotations', place=1):
    record = deepcopy(GOOD)
    change(record[kind][place] if kind else record)
    return record


def test_a_good_file_passes(config):
    check_labels(config(GOOD), 'val')


@pytest.mark.parametrize('record, message', [
    (changed(lambda r: r.pop('annotations'), None), 'no list of annotations'),
    (changed(lambda r: r.pop('categories'), None), 'no list of categories'),
    (changed(lambda a: a.pop('area')), "annotation 1 has no 'area'"),
    (changed(lambda a: a.pop('iscrowd')), "annotation 1 has no 'iscrowd'"),
    (changed(lambda a: a.update(bbox=None)), r'annotation 1 has the box None'),
    (changed(lambda a: a.update(area=None)), "annotation 1 has no 'area'"),
    (changed(lambda a: a.update(bbox=[1, 2, 3, float('nan')])), 'annotation 1 has the box .*nan'),
    (changed(lambda a: a.pop('image_id')), "annotation 1 has no 'image_id'"),
    (changed(lambda i: i.pop('file_name'), 'images'), "image 1 has no 'file_name'"),
    (changed(lambda i: i.pop('height'), 'images'), "image 1 has no 'height'"),
    (changed(lambda r: [a.update(iscrowd=1) for a in r['annotations']], None), '0 objects'),
    (changed(lambda a: a.update(bbox=[1, 2, 3])), r'annotation 1 has the box \[1, 2, 3\]'),
    (changed(lambda a: a.update(id=0)), 'annotation id 0 .*twice'),
    (changed(lambda i: i.update(id=0), 'images'), 'image id 0 .*twice'),
    (changed(lambda a: a.update(segmentation=[])), 'annotation 1 has no segmentation'),
    (changed(lambda r: r.update(annotations=[]), None), '0 objects of the 2 classes on 6'),
    (changed(lambda c: c.update(name='Dog'), 'categories'), "no category 'dog'.*'Dog' there"),
    (changed(lambda c: c.update(name='cow'), 'categories'), "no category 'dog' .*it has cat, cow")])
def test_a_gap_is_named_with_its_file(config, record, message):
    with pytest.raises(ValueError, match=f'val.json.*{message}'):
        check_labels(config(record), 'val')


def test_masks_are_asked_for_only_where_they_are_used(config):
    record = changed(lambda a: a.pop('segmentation'))
    check_labels(config(record, ['bbox']), 'val')
    cfg = config(record, ['bbox'])
    cfg.val_dataloader.dataset.pipeline = [dict(type='LoadAnnotations', with_mask=True)]
    with pytest.raises(ValueError, match='no segmentation'):
        check_labels(cfg, 'val')


def test_a_head_of_other_classes_is_named_however_large_the_file(config, monkeypatch):
    for largest in (boxes.LARGEST, 0):
        monkeypatch.setattr(boxes, 'LARGEST', largest)
        with pytest.raises(ValueError, match=r'val.json: 2 classes .*bbox_head.num_classes is 80'):
            check_labels(config(GOOD, number=80), 'val')


def test_a_head_that_scores_any_name_may_have_more_classes(config):
    cfg = config(GOOD, number=256)
    cfg.val_dataloader.dataset.return_classes = True
    check_labels(cfg, 'val')


@pytest.mark.parametrize('change', [
    lambda a: a.pop('iscrowd'), lambda a: a.update(bbox=None, ignore=True),
    lambda a: a.update(bbox=[0, 0, 0, 4], area=0, segmentation=[])])
def test_what_mmdet_trains_on_is_trained_on(config, change):
    cfg = config(changed(change), ['bbox'])
    cfg.train_dataloader = cfg.val_dataloader
    cfg.train_dataloader.dataset.pipeline = [dict(type='LoadAnnotations', with_mask=True)]
    check_labels(cfg, 'train')
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 6


def test_a_class_that_is_not_used_needs_no_masks(config):
    record = changed(lambda a: a.pop('segmentation'))  # of a dog
    check_labels(config(record, number=1, classes=('cat', )), 'val')


def test_results_are_written_for_a_file_without_annotations(config):
    """As test-dev's."""
    cfg = config(changed(lambda r: r.pop('annotations'), None))
    cfg.test_dataloader = cfg.val_dataloader
    cfg.test_evaluator = dict(cfg.val_evaluator, format_only=True, outfile_prefix='out')
    check_labels(cfg, 'test')
    restrict_to_subset(cfg, 'test', 2, 0, cfg.work_dir)
    assert len(json.loads(open(cfg.test_evaluator.ann_file).read())['images']) == 2
    assert len(DATASETS.build(cfg.test_dataloader.dataset)) == 2


def test_a_file_that_is_no_json(config, tmp_path):
    cfg = config(GOOD)
    (tmp_path / 'val.json').write_text('{"images": [')
    with pytest.raises(ValueError, match='val.json .*JSON'):
        check_labels(cfg, 'val')


@pytest.mark.parametrize('seed', range(5))
def test_a_subset_holds_objects_where_there_are_some(config, seed):
    record = changed(lambda r: r.update(annotations=r['annotations'][:1]), None)
    cfg = config(record)
    restrict_to_subset(cfg, 'val', 2, seed, cfg.work_dir)
    subset = json.loads(open(cfg.val_evaluator.ann_file).read())
    assert len(subset['images']) == 2 and len(subset['annotations']) == 1


@pytest.mark.parametrize('seed', range(5))
def test_a_subset_holds_objects_of_the_classes_that_are_used(config, seed):
    record = changed(lambda a: a.update(iscrowd=1), place=2)  # a cat, as 0; 1 is a dog
    cfg = config(record, number=1, classes=('cat', ))
    restrict_to_subset(cfg, 'val', 1, seed, cfg.work_dir)
    assert [image['id'] for image in json.loads(
        open(cfg.val_evaluator.ann_file).read())['images']] == [0]


def test_a_file_without_objects_has_no_subset(config):
    cfg = config(changed(lambda r: r.update(annotations=[]), None))
    with pytest.raises(ValueError, match='val.json .*0 objects of the 2 classes on 6 images'):
        restrict_to_subset(cfg, 'val', 2, 0, cfg.work_dir)


def test_a_metric_that_is_undefined_is_told():
    """pycocotools: no object of that size."""
    check_metric({'coco/bbox_mAP': 0.}, 'coco/bbox_mAP')
    with pytest.raises(ValueError, match='bbox_mAP_l is -1, .*no object'):
        check_metric({'coco/bbox_mAP': .1, 'coco/bbox_mAP_l': -1.}, 'coco/bbox_mAP_l')
    check_metric({'loss': -1.}, 'loss')


def test_a_subset_is_the_same_as_before_where_it_holds_objects():
    assert choose(9, 4, 0) == choose(9, 4, 0, [True] * 9)
    assert choose(9, 4, 0) == choose(9, 4, 0, [False] * 9)


def test_the_subset_s_file_is_local_wherever_the_whole_one_was(config):
    cfg = config(GOOD)
    cfg.val_evaluator.backend_args = dict(backend='local')
    restrict_to_subset(cfg, 'val', 2, 0, cfg.work_dir)
    assert cfg.val_evaluator.backend_args is None


def test_a_file_without_annotations_has_no_subset(config):
    cfg = config(changed(lambda r: r.pop('annotations'), None))
    with pytest.raises(ValueError, match='val.json .*no list of annotations'):
        restrict_to_subset(cfg, 'val', 2, 0, cfg.work_dir)


def test_a_missing_image_is_told_before_the_training(config, tmp_path):
    cfg = config(GOOD)
    (tmp_path / '3.jpg').unlink()
    with pytest.raises(FileNotFoundError, match='val.json: 1 of 6 images are not in .*: 3.jpg'):
        check_labels(cfg, 'val')


def test_one_missing_image_of_many_is_told(config, tmp_path):
    record = deepcopy(GOOD)
    record['images'] = [dict(record['images'][0], id=i, file_name=f'deep/{i}.jpg')
                        for i in range(6001)]
    cfg = config(record)
    (tmp_path / 'deep').mkdir()
    for i in range(6001):
        if i != 5999:
            (tmp_path / f'deep/{i}.jpg').touch()
    with pytest.raises(FileNotFoundError, match='1 of 6001 images are not in .*: deep/5999.jpg'):
        check_labels(cfg, 'val')
