"""COCO files with gaps are told in one line, before anything is built."""
import json
from copy import deepcopy

import pytest
from mmengine.config import Config

from sparsevit_mm.config.labels import check_labels
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
                       metainfo=dict(classes=classes), pipeline=[])
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
    (changed(lambda r: r.pop('annotations'), None), 'holds no list of annotations'),
    (changed(lambda r: r.pop('categories'), None), 'holds no list of categories'),
    (changed(lambda a: a.pop('area')), "annotation 1 has no 'area'"),
    (changed(lambda a: a.pop('iscrowd')), "annotation 1 has no 'iscrowd'"),
    (changed(lambda a: a.update(bbox=None)), r'annotation 1 has the box None'),
    (changed(lambda a: a.update(bbox=[1, 2, 3])), r'annotation 1 has the box \[1, 2, 3\]'),
    (changed(lambda a: a.update(id=0)), 'annotation id 0 is there twice'),
    (changed(lambda i: i.update(id=0), 'images'), 'image id 0 is there twice'),
    (changed(lambda a: a.update(segmentation=[])), 'annotation 1 has no segmentation'),
    (changed(lambda r: r.update(annotations=[]), None), 'holds 0 objects of the 2 classes on 6'),
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


def test_a_head_of_other_classes_is_named(config):
    with pytest.raises(ValueError, match=r'2 classes .*bbox_head.num_classes is 80'):
        check_labels(config(GOOD, number=80), 'val')


def test_a_file_that_is_no_json(config, tmp_path):
    cfg = config(GOOD)
    (tmp_path / 'val.json').write_text('{"images": [')
    with pytest.raises(ValueError, match='val.json is no JSON'):
        check_labels(cfg, 'val')


@pytest.mark.parametrize('seed', range(5))
def test_a_subset_holds_objects_where_there_are_some(config, seed):
    record = changed(lambda r: r.update(annotations=r['annotations'][:1]), None)
    cfg = config(record)
    restrict_to_subset(cfg, 'val', 2, seed, cfg.work_dir)
    subset = json.loads(open(cfg.val_evaluator.ann_file).read())
    assert len(subset['images']) == 2 and len(subset['annotations']) == 1


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
    with pytest.raises(ValueError, match='val.json holds no list of annotations'):
        restrict_to_subset(cfg, 'val', 2, 0, cfg.work_dir)


def test_a_missing_image_is_told_before_the_training(config, tmp_path):
    cfg = config(GOOD)
    (tmp_path / '3.jpg').unlink()
    with pytest.raises(FileNotFoundError, match='val.json: 1 of 6 images are not in .*: 3.jpg'):
        check_labels(cfg, 'val')
