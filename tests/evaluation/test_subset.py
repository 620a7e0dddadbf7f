import json
import os
from copy import deepcopy

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, init_default_scope
from mmengine.structures import InstanceData

from generators import METAINFO, generate_mini_cityscapes, generate_mini_coco
from sparsevit_mm.evaluation.metrics import default_metric
from sparsevit_mm.evaluation.subset import choose, restrict_to_subset

IMAGES, SIZE = 12, 48


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    """A detection config of stock parts, over generated images."""
    root = generate_mini_coco(tmp_path_factory.mktemp('subset') / 'coco',
                              dict(train=1, val=IMAGES, test=1), SIZE)
    ann_file = f'{root}/annotations/instances_val2017.json'
    return Config(dict(
        default_scope='mmdet',
        val_dataloader=dict(dataset=dict(
            type='CocoDataset', data_root=str(root), ann_file='annotations/instances_val2017.json',
            data_prefix=dict(img='val2017/'), metainfo=METAINFO, test_mode=True, pipeline=[])),
        val_evaluator=dict(type='CocoMetric', ann_file=ann_file, metric='bbox')))


def shifted_boxes(img_id):
    """Detections that overlap the objects of an image, more or less, and some false ones."""
    rng = np.random.default_rng(img_id)

    def predict(instances):
        boxes = np.array([i['bbox'] for i in instances] + [[0, 0, 9, 9]], dtype=np.float32)
        labels = [i['bbox_label'] for i in instances] + [0]
        return InstanceData(
            bboxes=torch.from_numpy(boxes + rng.normal(0, 2, boxes.shape).astype(np.float32)),
            labels=torch.tensor(labels), scores=torch.from_numpy(rng.random(len(boxes))))

    return predict


def coco_score(cfg):
    """Image ids that the val data set yields, and the figures of the val evaluator on them."""
    init_default_scope('mmdet')
    dataset, metric = (deepcopy(part) for part in (
        cfg.val_dataloader.dataset, cfg.val_evaluator))
    dataset, metric = DATASETS.build(dataset), METRICS.build(metric)
    metric.dataset_meta = dataset.metainfo
    ids = []
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        ids.append(info['img_id'])
        metric.process({}, [dict(img_id=info['img_id'], ori_shape=(SIZE, SIZE),
                                 pred_instances=shifted_boxes(info['img_id'])(info['instances']))])
    return ids, metric.evaluate(len(dataset))


def own_file(cfg, ids, path):
    """The config with an annotation file that holds only some images, written by hand."""
    with open(cfg.val_evaluator.ann_file) as file:
        content = json.load(file)
    content['images'] = [i for i in content['images'] if i['id'] in ids]
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] in ids]
    path.write_text(json.dumps(content))
    cfg = deepcopy(cfg)
    cfg.val_evaluator.ann_file = cfg.val_dataloader.dataset.ann_file = str(path)
    return cfg


def restricted(cfg, num_samples, seed, work_dir):
    cfg = deepcopy(cfg)
    restrict_to_subset(cfg, 'val', num_samples, seed, str(work_dir))
    return cfg


@pytest.mark.parametrize('num_samples, seed', [(1, 0), (5, 0), (5, 7)])
def test_coco_subset_scores_as_a_file_that_holds_only_those_images(
        coco, tmp_path, num_samples, seed):
    ids, metrics = coco_score(restricted(coco, num_samples, seed, tmp_path))
    assert len(ids) == len(set(ids)) == num_samples
    assert coco_score(own_file(coco, ids, tmp_path / 'own.json')) == (ids, metrics)
    # With the images alone restricted, all others would count as missed.
    loader_only = deepcopy(coco)
    loader_only.val_dataloader.dataset.indices = [i - 1 for i in ids]
    same_ids, missed = coco_score(loader_only)
    assert same_ids == ids
    assert 0 < missed['coco/bbox_mAP'] < metrics['coco/bbox_mAP'] < 1


def test_subset_of_all_images_is_all_of_them(coco, tmp_path):
    everything = coco_score(coco)
    assert len(everything[0]) == IMAGES
    for number in (IMAGES, 10 * IMAGES):
        assert coco_score(restricted(coco, number, 3, tmp_path)) == everything


def test_one_seed_one_set_of_images_wherever_it_is_written(coco, tmp_path):
    ids = [coco_score(restricted(coco, 6, seed, tmp_path / name))[0]
           for name, seed in (('a', 0), ('b', 0), ('c', 1))]
    assert ids[0] == ids[1] != ids[2]


def test_only_whole_files_are_written_and_the_given_ones_left_alone(coco, tmp_path):
    ann_file = coco.val_evaluator.ann_file
    with open(ann_file) as file:
        before = file.read()
    cfg = restricted(coco, 4, 0, tmp_path / 'deep' / 'down')
    assert os.listdir(tmp_path / 'deep' / 'down') == ['instances_val2017_4_images_seed0.json']
    assert cfg.val_evaluator.ann_file == cfg.val_dataloader.dataset.ann_file
    assert os.path.isabs(cfg.val_evaluator.ann_file)
    with open(ann_file) as file:
        assert file.read() == before


@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 2**32))
def test_choice_is_ascending_without_repeats_and_grows_by_adding(total, number, seed):
    chosen = choose(total, number, seed)
    assert chosen == sorted(set(chosen)) and set(chosen) <= set(range(total))
    assert len(chosen) == min(total, number)
    assert set(chosen) <= set(choose(total, number + 1, seed))


@pytest.fixture(scope='module')
def streets(tmp_path_factory):
    """A segmentation config of stock parts, over a dozen small label maps."""
    root = tmp_path_factory.mktemp('streets')
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        for kind, suffix in (('images', 'jpg'), ('labels', 'png')):
            (root / kind).mkdir(exist_ok=True)
            cv2.imwrite(f'{root}/{kind}/{i:02d}.{suffix}', rng.integers(0, 3, (8, 8), np.uint8))
    return Config(dict(
        default_scope='mmseg',
        test_dataloader=dict(dataset=dict(
            type='BaseSegDataset', data_root=str(root), metainfo=dict(classes=('a', 'b', 'c')),
            data_prefix=dict(img_path='images', seg_map_path='labels'), test_mode=True,
            pipeline=[])),
        test_evaluator=dict(type='mmseg.IoUMetric', iou_metrics=['mIoU'])))


def iou_score(cfg):
    init_default_scope('mmseg')
    dataset = DATASETS.build(deepcopy(cfg.test_dataloader.dataset))
    metric = METRICS.build(deepcopy(cfg.test_evaluator))
    metric.dataset_meta = dataset.metainfo
    paths = []
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        paths.append(os.path.basename(info['seg_map_path']))
        truth = torch.from_numpy(cv2.imread(info['seg_map_path'], cv2.IMREAD_UNCHANGED)).long()
        guess = torch.where(torch.rand(8, 8) < int(paths[-1][:2]) / IMAGES, truth, 0)
        metric.process({}, [dict(pred_sem_seg=dict(data=guess), gt_sem_seg=dict(data=truth))])
    return paths, metric.evaluate(len(dataset))


@pytest.mark.parametrize('given_indices', [
    pytest.param(None, marks=pytest.mark.slow), pytest.param(10, marks=pytest.mark.slow),
    [1, 3, 5, 7, 9, 11]])
def test_iou_subset_scores_as_a_list_that_holds_only_those_images(
        streets, tmp_path, given_indices):
    cfg = deepcopy(streets)
    cfg.test_dataloader.dataset.indices = given_indices
    torch.manual_seed(0)
    allowed, whole = iou_score(cfg)
    restrict_to_subset(cfg, 'test', 4, 0, str(tmp_path))
    torch.manual_seed(0)
    paths, metrics = iou_score(cfg)
    assert len(set(paths)) == 4 and set(paths) < set(allowed)

    listed = deepcopy(streets)
    (tmp_path / 'list.txt').write_text('\n'.join(path[:2] for path in paths))
    listed.test_dataloader.dataset.ann_file = str(tmp_path / 'list.txt')
    torch.manual_seed(0)
    assert iou_score(listed) == (paths, metrics)
    assert metrics['mIoU'] != whole['mIoU']


def cityscapes_score(cfg):
    """Names of the images that the val data set yields, and cityscapesscripts' figures for labels
    with some columns taken for road, in each image of a city more."""
    init_default_scope('mmseg')
    dataset = DATASETS.build(deepcopy(cfg.val_dataloader.dataset))
    names = []
    metric = METRICS.build(deepcopy(cfg.val_evaluator))
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        names.append(os.path.basename(info['img_path']))
        guess = torch.from_numpy(cv2.imread(info['seg_map_path'], cv2.IMREAD_UNCHANGED)).long()
        guess[:, :5 * (1 + int(names[-1].split('_')[1]))] = 0
        metric.process({}, [dict(info, pred_sem_seg=dict(data=guess[None]))])
    return names, metric.evaluate(len(dataset))


def test_cityscapes_subset_scores_as_a_list_that_holds_only_those_images(tmp_path):
    pytest.importorskip('cityscapesscripts')
    root = generate_mini_cityscapes(tmp_path / 'data', dict(train=1, val=6, test=1), (32, 64))
    cfg = Config(dict(
        default_scope='mmseg',
        val_dataloader=dict(dataset=dict(
            type='CityscapesDataset', data_root=str(root), pipeline=[], test_mode=True,
            data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'))),
        val_evaluator=dict(type='CityscapesMetric', output_dir=str(tmp_path / 'predictions'))))
    whole = cityscapes_score(cfg)
    names, metrics = cityscapes_score(restricted(cfg, 3, 0, tmp_path))
    assert len(set(names)) == 3 and set(names) < set(whole[0])
    assert 0 < metrics[default_metric(cfg)] != whole[1][default_metric(cfg)] < 1

    stems = [name.replace('_leftImg8bit.png', '') for name in names]
    (tmp_path / 'list.txt').write_text('\n'.join(f'{s.split("_")[0]}/{s}' for s in stems))
    cfg.val_dataloader.dataset.ann_file = str(tmp_path / 'list.txt')
    listed = cityscapes_score(cfg)
    assert listed[0] == names and listed[1] == pytest.approx(metrics, abs=0, nan_ok=True)
    # With mm's own IoU beside it, both score the same images.
    cfg.val_evaluator = [cfg.val_evaluator, dict(type='IoUMetric')]
    restrict_to_subset(cfg, 'val', 2, 0, str(tmp_path))
    assert len(DATASETS.build(cfg.val_dataloader.dataset)) == 2


def test_unknown_evaluator_or_wrapped_data_set_is_an_error_that_lists_what_is_known(
        coco, tmp_path):
    unknown, wrapped = deepcopy(coco), deepcopy(coco)
    unknown.val_evaluator = [coco.val_evaluator, dict(type='VOCMetric')]
    wrapped.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[
        coco.val_dataloader.dataset])
    for cfg, named in ((unknown, 'VOCMetric'), (wrapped, 'ConcatDataset')):
        with pytest.raises(ValueError, match=f'{named}.*CocoMetric, IoUMetric'):
            restrict_to_subset(cfg, 'val', 4, 0, str(tmp_path))


@pytest.mark.parametrize('number', [0, -3])
def test_fewer_than_one_image_is_refused(coco, tmp_path, number):
    with pytest.raises(ValueError, match='at least one image'):
        restrict_to_subset(deepcopy(coco), 'val', number, 0, str(tmp_path))
    assert not os.listdir(tmp_path)
