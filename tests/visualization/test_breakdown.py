import csv
import itertools
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, init_default_scope
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from pycocotools.coco import COCO

from generators import METAINFO, generate_mini_coco
from sparsevit_mm.models.selection.importance import TOKEN_SCORES
from sparsevit_mm.visualization.breakdown import Breakdown, Row, ShareRecorder, scored_by
from sparsevit_mm.visualization.breakdown_figure import draw_breakdown, write_breakdown
from sparsevit_mm.visualization.breakdown_scores import DetectionScore, SegmentationScore

HEIGHT, WIDTH = 48, 64
BRIGHT = slice(30, 42), slice(44, 58)  # at the bottom right; ties run from the top left


def record(backbone, inputs, samples):
    """What a recorder says of one batch: the means, and each image's shares."""
    shares = []
    recorder = ShareRecorder(backbone, lambda sample, share: shares.append(share))
    with torch.no_grad(), recorder.recording() as means:
        backbone(inputs)
        recorder.after_val_iter(None, 0, outputs=samples)
    return means, shares


def by_brightness(monkeypatch, inputs):
    """Ranks the windows of each of two stages by what of the image is bright in them."""
    pooled = [F.avg_pool2d(inputs[:, :1], side, ceil_mode=True).flatten(1) for side in (4, 8)]
    monkeypatch.setitem(TOKEN_SCORES, 'variation', lambda x, info: next(
        p for p in pooled if p.shape[1] == x.shape[1]))


@pytest.mark.parametrize('flip', [None, 'horizontal', 'vertical', 'diagonal'])
@pytest.mark.parametrize('scale, counted, padding', [
    (2, (0, 0), (0, 0)), (3, (0, 0), (29, 40)), (2.5, (13, 21), (0, 32))])
def test_shares_lie_on_the_original_image_however_it_was_resized_flipped_and_padded(
        make_swin, monkeypatch, flip, scale, counted, padding):
    image = torch.zeros(1, 3, HEIGHT, WIDTH)
    image[(..., *BRIGHT)] = 1
    size = [int(HEIGHT * scale), int(WIDTH * scale)]
    inputs = F.interpolate(image, size, mode='nearest-exact')
    axes = dict(horizontal=[3], vertical=[2], diagonal=[2, 3]).get(flip, [])
    bottom, right = (a + b for a, b in zip(counted, padding))
    inputs = F.pad(inputs.flip(axes), (0, right, 0, bottom))
    inputs = torch.cat([inputs.roll(16, 3), inputs])  # another image first
    backbone = make_swin(sparsity=.6)
    by_brightness(monkeypatch, inputs)
    sample = BaseDataElement(metainfo=dict(
        ori_shape=(HEIGHT, WIDTH), scale_factor=(scale, scale), flip=bool(axes),
        flip_direction=flip, img_shape=tuple(s + c for s, c in zip(size, counted))))
    means, shares = record(backbone, inputs, [sample, sample])
    assert shares[1].shape == (HEIGHT, WIDTH)
    assert (shares[1][BRIGHT] == 1).all()
    assert means[1] == pytest.approx(shares[1].mean()) and means[1] < .75


def test_all_of_every_image_runs_in_a_dense_model(make_swin):
    sample = BaseDataElement(metainfo=dict(ori_shape=(33, 70), img_shape=(30, 60)))
    means, shares = record(make_swin(), torch.rand(2, 3, 40, 60), [sample, sample])
    assert means == [1, 1] and all((share == 1).all() for share in shares)


def test_each_batch_is_recorded_for_itself_and_none_outside_the_context(make_swin):
    backbone, seen = make_swin(sparsity=.5), []
    recorder = ShareRecorder(backbone, lambda sample, share: seen.append(sample))
    samples = [BaseDataElement(metainfo=dict(ori_shape=(32, 32), img_shape=(32, 32)))]
    with torch.no_grad():
        with recorder.recording() as means:
            for _ in range(3):
                backbone(torch.rand(1, 3, 32, 32))
                recorder.after_val_iter(None, 0, outputs=samples)
        backbone(torch.rand(1, 3, 32, 32))
    recorder.after_val_iter(None, 0, outputs=samples)
    assert len(seen) == len(means) == 3


def test_a_model_that_slides_over_the_image_is_refused(make_swin):
    backbone = make_swin(sparsity=.5)
    recorder = ShareRecorder(backbone, None)
    with torch.no_grad(), recorder.recording(), pytest.raises(ValueError, match='2 times'):
        for _ in range(2):
            backbone(torch.rand(1, 3, 32, 32))
        recorder.after_val_iter(None, 0, outputs=[
            BaseDataElement(metainfo=dict(ori_shape=(32, 32), img_shape=(32, 32)))])


def stand_in(annotations, kinds):
    """Of CocoMetric: two classes, one image of 40 x 50 pixels."""
    truth = COCO()
    truth.dataset = dict(
        images=[dict(id=7, height=40, width=50)],
        categories=[dict(id=3, name='cat'), dict(id=9, name='dog')],
        annotations=[dict(dict(id=i, image_id=7, category_id=3, iscrowd=0,
                               area=a['bbox'][2] * a['bbox'][3]), **a)
                     for i, a in enumerate(annotations, 1)])
    truth.createIndex()
    return SimpleNamespace(metrics=kinds, compute_metrics=None, _coco_api=truth,
                           cat_ids=[3, 9], img_ids=[7])


def object_share(annotation, kinds, share):
    score = DetectionScore(stand_in([annotation], kinds))
    score.rows()
    score.add(SimpleNamespace(img_id=7), share)
    return score.shares()[0]


@pytest.mark.parametrize('box, pixels', [
    ([10, 5, 8, 4], (slice(5, 9), slice(10, 18))),
    ([10.6, 5.2, 7, 4], (slice(5, 10), slice(10, 18))),
    ([-3, -2, 5, 6], (slice(0, 4), slice(0, 2))),
    ([46, 38, 20, 20], (slice(38, 40), slice(46, 50))),
    ([12, 39.9, 0, 0], (slice(39, 40), slice(12, 13))),
    ([50, 40, 3, 3], (slice(39, 40), slice(49, 50)))])
def test_share_of_a_box_is_that_of_the_pixels_it_touches(box, pixels):
    share = np.random.rand(40, 50)
    assert object_share(dict(bbox=box), ['bbox'], share) == pytest.approx(share[pixels].mean())


def test_share_is_of_the_mask_where_masks_are_scored():
    share = np.random.rand(40, 50)
    triangle = dict(bbox=[10, 10, 20, 20], segmentation=[[10, 10, 30, 10, 10, 30]])
    box = share[10:30, 10:30].mean()
    assert object_share(triangle, ['bbox'], share) == pytest.approx(box)
    mask = np.zeros((40, 50))
    for y, x in itertools.product(range(10, 30), range(10, 30)):
        mask[y, x] = (x - 10) + (y - 10) < 20
    of_mask = object_share(triangle, ['bbox', 'segm'], share)
    assert of_mask == pytest.approx(np.average(share, weights=mask), abs=.02)
    assert abs(of_mask - box) > 1e-3
    no_pixel = dict(bbox=[10, 10, 2, 2], segmentation=[[10, 10, 10, 10, 10, 10]])
    assert object_share(no_pixel, ['segm'], share) == pytest.approx(share[10:12, 10:12].mean())


def test_crowds_are_no_objects_and_a_row_averages_over_objects_not_pixels():
    score = DetectionScore(stand_in(
        [dict(bbox=[0, 0, 4, 4]), dict(bbox=[10, 0, 40, 32]),
         dict(bbox=[0, 0, 50, 40], iscrowd=1)], ['bbox']))
    assert score.rows() == [('all', 'all objects', 2), ('size', 'small', 1), ('size', 'medium', 1),
                            ('size', 'large', 0), ('class', 'cat', 2), ('class', 'dog', 0)]
    share = np.zeros((40, 50))
    share[:4, :4] = 1
    score.add(SimpleNamespace(img_id=7), share)
    assert score.shares() == [.5, 1, 0, None, .5, None]


def test_nothing_detected_is_an_ap_of_zero_where_there_are_objects():
    score = DetectionScore(stand_in([dict(bbox=[0, 0, 4, 4])], ['bbox']))
    score.rows()
    score.detections = dict(bbox=[])
    assert score.figures() == {'box AP': [0, 0, None, None, 0, None]}


def test_proposals_alone_are_refused():
    with pytest.raises(ValueError, match='proposal; a breakdown needs bbox or segm'):
        DetectionScore(stand_in([], ['proposal']))


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    """Data set of generated images, and its annotation file."""
    init_default_scope('mmdet')
    root = generate_mini_coco(tmp_path_factory.mktemp('breakdown') / 'coco',
                              dict(train=1, val=9, test=1), 96)
    ann_file = f'{root}/annotations/instances_val2017.json'
    return DATASETS.build(dict(
        type='CocoDataset', ann_file=ann_file, data_prefix=dict(img=''), metainfo=METAINFO,
        test_mode=True, pipeline=[])), ann_file


def detect(info, rng):
    """Boxes near those of the objects, some of a wrong class."""
    boxes = np.array([i['bbox'] for i in info['instances']] + [[0, 0, 9, 9]])
    labels = torch.tensor([i['bbox_label'] for i in info['instances']] + [0])
    labels[0] = rng.integers(5)
    return InstanceData(bboxes=torch.from_numpy(boxes + rng.normal(0, 2, boxes.shape)).float(),
                        labels=labels, scores=torch.from_numpy(rng.random(len(boxes))))


@pytest.mark.parametrize('with_file', [True, False])
def test_ap_of_all_sizes_and_classes_is_that_of_the_evaluator(coco, with_file):
    dataset, ann_file = coco
    metric = METRICS.build(dict(type='CocoMetric', metric='bbox', classwise=True,
                                ann_file=ann_file if with_file else None))
    metric.dataset_meta = dataset.metainfo
    score, rng = DetectionScore(metric), np.random.default_rng(0)
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        metric.process({}, [dict(img_id=info['img_id'], ori_shape=(96, 96),
                                 instances=info['instances'], pred_instances=detect(info, rng))])
    metrics = metric.evaluate(len(dataset))
    rows, figures = score.rows(), score.figures()['box AP']
    assert rows[0][2] == sum(row[2] for row in rows if row[0] == 'class') > 9
    keys = dict(zip(('all objects', 'small', 'medium', 'large'),
                    ('bbox_mAP', 'bbox_mAP_s', 'bbox_mAP_m', 'bbox_mAP_l')))
    for (_, name, count), figure in zip(rows, figures):
        given = metrics[f'coco/{keys.get(name, f"{name}_precision")}']
        assert (-1 if figure is None else round(figure, 3)) == given
        assert (figure is None) == (count == 0)
    assert len(set(figures)) > 4


def label_maps(num, rng, classes):
    return torch.from_numpy(rng.choice(classes, (num, 1, 12, 16)))


@pytest.mark.parametrize('nan_to_num', [None, 0])
def test_iou_of_classes_averages_to_that_of_the_evaluator(nan_to_num):
    init_default_scope('mmseg')
    metric = METRICS.build(dict(type='IoUMetric', nan_to_num=nan_to_num))
    metric.dataset_meta = dict(classes=tuple('abcde'))
    score, rng = SegmentationScore(metric), np.random.default_rng(0)
    labels = label_maps(6, rng, [0, 1, 2, 255])
    guesses = torch.where(label_maps(6, rng, [0, 1]) > 0, labels, label_maps(6, rng, [0, 1, 3]))
    shares = rng.random((6, 12, 16))
    for label, guess, share in zip(labels, guesses, shares):
        metric.process({}, [dict(pred_sem_seg=dict(data=guess), gt_sem_seg=dict(data=label))])
        score.add(SimpleNamespace(gt_sem_seg=PixelData(data=label)), share)
    metrics = metric.evaluate(6)
    mean, *by_class = score.figures()['IoU (%)']
    assert round(mean, 2) == metrics['mIoU']
    assert mean == pytest.approx(np.mean([iou for iou in by_class if iou is not None]))
    assert by_class[3:] == [0, nan_to_num]  # predicted but not there; neither
    assert 0 < min(by_class[:3])
    pixels = [int((labels == i).sum()) for i in range(5)]
    assert score.rows() == [('all', 'all classes', sum(pixels)),
                            *zip(['class'] * 5, 'abcde', pixels)]
    of = [shares[(labels == i)[:, 0].numpy()].mean() if pixels[i] else None for i in range(5)]
    assert score.shares() == pytest.approx(
        [shares[(labels < 255)[:, 0].numpy()].mean(), *of])
    assert score.shares() == [None] * 6  # the next configuration begins anew


@pytest.mark.parametrize('evaluator, named', [
    (dict(type='VOCMetric'), 'VOCMetric'), (None, 'None'),
    ([dict(type='VOCMetric'), dict(type='mmdet.LVISMetric')], 'VOCMetric, mmdet.LVISMetric'),
    (dict(type='CocoMetric', format_only=True), 'format_only')])
def test_other_evaluators_are_refused_by_name(evaluator, named):
    with pytest.raises(ValueError, match=named):
        scored_by(Config(dict(val_evaluator=evaluator)), 'val')
    assert scored_by(Config(dict(val_evaluator=[
        dict(type='VOCMetric'), dict(type='mmdet.CocoMetric')])), 'val') == 'CocoMetric'


BREAKDOWN = Breakdown(
    ['dense', 'uniform 0.6'], ['IoU (%)'],
    [Row('all', 'all classes', 30, 'pixels', {'IoU (%)': [50., 1 / 3]}, [1., .25]),
     Row('class', 'road', 30, 'pixels', {'IoU (%)': [50., 1 / 3]}, [1., .25]),
     Row('class', 'bus', 0, 'pixels', {'IoU (%)': [None, 0.]}, [None, None]),
     Row('image', 'whole image', 2, 'images', {'IoU (%)': [None, None]}, [1., .4])])


def test_csv_has_a_line_for_each_row_and_blanks_where_there_is_nothing(tmp_path):
    write_breakdown(tmp_path / 'b.csv', BREAKDOWN)
    with (tmp_path / 'b.csv').open(newline='') as file:
        assert list(csv.reader(file)) == [
            ['group', 'name', 'count', 'unit', 'IoU (%), dense', 'IoU (%), uniform 0.6',
             'share run, dense', 'share run, uniform 0.6'],
            ['all', 'all classes', '30', 'pixels', '50', '0.333333', '1', '0.25'],
            ['class', 'road', '30', 'pixels', '50', '0.333333', '1', '0.25'],
            ['class', 'bus', '0', 'pixels', '', '0', '', ''],
            ['image', 'whole image', '2', 'images', '', '', '1', '0.4']]


def test_figure_is_taller_for_more_rows_and_leaves_out_what_is_not_there(tmp_path):
    heights = []
    for num_road, num_bus in ((1, 0), (1, 9), (20, 0)):
        breakdown = deepcopy(BREAKDOWN)
        breakdown.rows[1:3] = ([breakdown.rows[1]] * num_road) + ([breakdown.rows[2]] * num_bus)
        draw_breakdown(tmp_path / 'b.png', breakdown, 'title')
        data = (tmp_path / 'b.png').read_bytes()
        assert data[:4] == b'\x89PNG'
        heights.append(int.from_bytes(data[20:24], 'big'))
    assert heights[0] == heights[1] < heights[2]
    assert [path.name for path in tmp_path.iterdir()] == ['b.png']
