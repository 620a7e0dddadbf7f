"""Resampled metrics against the evaluators' own."""
import io
from contextlib import redirect_stdout
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sparsevit_mm.evaluation import bootstrap
from sparsevit_mm.evaluation.bootstrap import make_resampler
from sparsevit_mm.evaluation.coco_resampler import read_matches

IMAGES, CLASSES, SIZE = 12, 5, 64


class InOrder:
    """numpy, but that it draws every image once."""
    random = SimpleNamespace(default_rng=lambda seed: SimpleNamespace(
        integers=lambda number, size: np.arange(size)))

    def __getattr__(self, name):
        return getattr(np, name)


def rectangle(rng, near=None):
    """x, y, width, height."""
    if near is None:
        return [*rng.uniform(0, 30, 2), *rng.uniform(5, 30, 2)]
    return [*rng.normal(near[:2], 2), *np.multiply(near[2:], rng.uniform(.8, 1.3, 2))]


def polygon(box):
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def scene(seed=0, levels=None, detections=9):
    """Ground truth and detections in COCO's format. Image 3 has no object, the last class is
    detected but never there, and some objects are crowds.

    Args:
        levels: Number of scores to tell apart; None for as many as there are detections.
    """
    rng = np.random.default_rng(seed)
    truth, found = [], []

    def add(to, image, category, box, **more):
        box = [float(value) for value in box]
        to.append(dict(id=len(to) + 1, image_id=10 * image, category_id=category + 1, bbox=box,
                       area=box[2] * box[3], segmentation=polygon(box), **more))

    for i in range(IMAGES):
        objects = [(rectangle(rng), int(rng.integers(CLASSES - 1))) for _ in range(5)]
        for box, k in objects if i != 3 else []:
            add(truth, i, k, box, iscrowd=int(rng.random() < .15))
        near = [(rectangle(rng, box), k) for box, k in objects * 2]
        near += [(rectangle(rng), int(rng.integers(CLASSES))) for _ in range(20)]
        for p in rng.permutation(len(near))[:detections]:
            score = rng.random()
            add(found, i, near[p][1], near[p][0],
                score=float(score if levels is None else np.ceil(score * levels) / levels))
    api = COCO()
    api.dataset = dict(info={}, annotations=truth,
                       images=[dict(id=10 * i, width=SIZE, height=SIZE) for i in range(IMAGES)],
                       categories=[dict(id=k + 1, name=f'class {k}') for k in range(CLASSES)])
    with redirect_stdout(io.StringIO()):
        api.createIndex()
    return api, found


def cocoeval(api, found, kind='bbox', max_dets=(1, 10, 100)):
    with redirect_stdout(io.StringIO()):
        evaluation = COCOeval(api, api.loadRes([dict(f) for f in found]), kind)
        evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
    return evaluation


def pycocotools_ap(evaluation, images):
    """pycocotools' own AP over a list of images, any of them repeated."""
    number, areas = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
    per_image = np.array(evaluation.evalImgs, dtype=object).reshape(-1, areas, number)
    copy = COCOeval(iouType=evaluation.params.iouType)
    copy.params.catIds, copy.params.maxDets = evaluation.params.catIds, [100]
    copy.params.imgIds = list(range(len(images)))  # looked up by position
    copy.params.areaRng, copy._paramsEval = copy.params.areaRng[:1], copy.params
    copy.evalImgs = per_image[:, 0, images].reshape(-1).tolist()
    with redirect_stdout(io.StringIO()):
        copy.accumulate()
    precision = copy.eval['precision']
    return precision[precision > -1].mean()


def weights(images):
    return np.bincount(images, minlength=IMAGES)


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
@pytest.mark.parametrize('levels', [None, 4])
def test_each_image_once_gives_pycocotools_ap(kind, levels):
    evaluation = cocoeval(*scene(levels=levels), kind)
    with redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    matches = read_matches(evaluation, kind)
    assert .05 < evaluation.stats[0] < .9
    assert matches.average_precision(weights(range(IMAGES))) == pytest.approx(
        evaluation.stats[0], abs=1e-12)
    assert read_matches(evaluation, 'keypoints') is None


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_resampled_images_give_pycocotools_ap_of_their_list(kind, seed):
    evaluation = cocoeval(*scene(seed), kind)
    matches = read_matches(evaluation, kind)
    rng = np.random.default_rng(seed)
    for images in (*rng.integers(IMAGES, size=(10, IMAGES)), [2] * 5, [0, 3, 3, 1]):
        assert matches.average_precision(weights(images)) == pytest.approx(
            pycocotools_ap(evaluation, images), abs=1e-12)


def test_equal_scores_differ_from_pycocotools_by_their_order_alone():
    """pycocotools takes copies in turn, as listed, this all copies of a detection at once."""
    evaluation = cocoeval(*scene(levels=50))
    matches = read_matches(evaluation, 'bbox')
    drawn = np.random.default_rng(0).integers(IMAGES, size=(50, IMAGES))
    ours = np.array([matches.average_precision(weights(images)) for images in drawn])
    theirs = np.array([pycocotools_ap(evaluation, images) for images in drawn])
    assert 1e-6 < np.abs(ours - theirs).max() < .03
    assert abs((ours - theirs).mean()) < .1 * theirs.std()


def test_only_the_best_hundred_detections_of_an_image_and_class_count():
    api, found = scene()
    rng = np.random.default_rng(1)
    found = [f for f in found if f['image_id']] + [
        dict(image_id=0, category_id=1 + i % 2, bbox=rectangle(rng), score=rng.random())
        for i in range(400)]
    evaluation = cocoeval(api, found, max_dets=(100, 300, 1000))
    assert max(len(e['dtScores']) for e in evaluation.evalImgs if e) > 150
    images = [0, 0, 1, 2, 5]
    assert read_matches(evaluation, 'bbox').average_precision(weights(images)) == pytest.approx(
        pycocotools_ap(evaluation, images), abs=1e-12)


def test_images_without_any_object_have_an_ap_of_zero():
    matches = read_matches(cocoeval(*scene()), 'bbox')
    assert matches.average_precision(weights([3, 3])) == 0
    assert matches.average_precision(weights([3, 4])) > 0


def coco_metric(tmp_path, **options):
    METRICS = pytest.importorskip('mmdet.registry').METRICS
    import json

    from mmengine.registry import init_default_scope
    init_default_scope('mmdet')
    api, found = scene()
    (tmp_path / 'truth.json').write_text(json.dumps(api.dataset))
    with redirect_stdout(io.StringIO()):
        metric = METRICS.build(dict(
            type='CocoMetric', ann_file=str(tmp_path / 'truth.json'), **options))
    metric.dataset_meta = dict(classes=[f'class {k}' for k in range(CLASSES)])
    return metric, api, found


def results(api, found):
    """What CocoMetric hands to its compute_metrics."""
    from pycocotools import mask
    collected = []
    for image in api.dataset['images']:
        mine = [f for f in found if f['image_id'] == image['id']]
        boxes = np.array([f['bbox'] for f in mine]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        collected.append(({}, dict(
            img_id=image['id'], bboxes=boxes, scores=np.array([f['score'] for f in mine]),
            labels=np.array([f['category_id'] - 1 for f in mine], int),
            masks=[mask.merge(mask.frPyObjects(f['segmentation'], SIZE, SIZE)) for f in mine])))
    return collected


def compute(metric, api, found):
    with redirect_stdout(io.StringIO()):
        return metric.compute_metrics(results(api, found))


def test_coco_metric_is_resampled_from_its_own_matches(tmp_path, monkeypatch):
    metric, api, found = coco_metric(
        tmp_path, metric=['bbox', 'segm', 'proposal'], classwise=True)
    plain = compute(metric, api, found)
    box, mask = (make_resampler(metric, f'coco/{kind}_mAP') for kind in ('bbox', 'segm'))
    accumulate, runs = COCOeval.accumulate, []
    evaluate = COCOeval.evaluate
    monkeypatch.setattr(COCOeval, 'evaluate', lambda self: (runs.append(self), evaluate(self)))
    assert compute(metric, api, found) == pytest.approx(plain, nan_ok=True)
    assert len(runs) == 3 and COCOeval.accumulate is accumulate
    assert not np.allclose(box(20).bootstrap, mask(20).bootstrap)
    for resample, kind, run in ((box, 'bbox', runs[0]), (mask, 'segm', runs[1])):
        values = resample(30, seed=1).bootstrap
        drawn = np.random.default_rng(1).integers(IMAGES, size=(30, IMAGES))
        np.testing.assert_allclose(values, [pycocotools_ap(run, d) for d in drawn], atol=1e-12)
        with monkeypatch.context() as patched:
            patched.setattr(bootstrap, 'np', InOrder())
            np.testing.assert_allclose(resample(2).bootstrap, plain[f'{kind}_mAP'], atol=5.1e-4)
    assert len(runs) == 3  # nothing is matched again
    # Nothing detected: nothing of the last evaluation is left.
    compute(metric, api, [])
    nothing = box(3)
    np.testing.assert_array_equal(nothing.bootstrap, np.zeros(3))
    assert nothing.estimate == 0
    compute(metric, api, found)
    assert box(3).bootstrap.all()
    less = box(3) - nothing  # beside it, as many groups are left out
    np.testing.assert_array_equal(less.jackknife, box(3).jackknife)
    assert less.estimate == box(3).estimate and less.unit == f'{IMAGES} images'


def test_accumulate_is_itself_again_after_an_error(tmp_path):
    metric, api, found = coco_metric(tmp_path, metric_items=['mAP_of_nothing'])
    make_resampler(metric, 'coco/bbox_mAP')
    accumulate = COCOeval.accumulate
    with pytest.raises(KeyError, match='mAP_of_nothing'):
        compute(metric, api, found)
    assert COCOeval.accumulate is accumulate


class IoUMetric:
    """Stands for mmseg's: results are (intersection, union, prediction, label) by class."""
    prefix = nan_to_num = None

    def compute_metrics(self, results):
        self.seen = len(results)
        return dict(mIoU=1.)


def areas(intersection, union):
    i, u = torch.tensor(intersection), torch.tensor(union)
    return i, u, u, u


@pytest.mark.parametrize('missing, expected', [(None, 75.), (0, 50.), (1, 250 / 3)])
def test_equal_images_give_their_own_figure_in_every_resample(missing, expected):
    metric = IoUMetric()
    metric.nan_to_num = missing  # the IoU of the absent class, which else is left out
    resample = make_resampler(metric, 'mIoU')
    assert metric.compute_metrics([areas([2., 0., 3.], [4., 0., 3.])] * 5) == dict(mIoU=1.)
    assert metric.seen == 5
    np.testing.assert_allclose(resample(20).bootstrap, expected)


def test_resamples_depend_on_seed_and_images_alone():
    metrics = [IoUMetric(), IoUMetric()]
    resamplers = [make_resampler(m, 'mIoU') for m in metrics]
    rng = np.random.default_rng(0)
    worse = rng.random((30, 2))
    for metric, gain in zip(metrics, (0., .5)):
        metric.compute_metrics([areas((10 * w + gain).tolist(), [20., 20.]) for w in worse])
    one, other = (r(200, seed=3).bootstrap for r in resamplers)
    np.testing.assert_allclose(other - one, 2.5)  # the same images in each, so the gain is bare
    assert one.std() > .5
    assert not np.allclose(one, resamplers[0](200, seed=4).bootstrap)


@pytest.mark.parametrize('count', [5, 40])
def test_resamples_scatter_about_the_figure_of_all_images(count):
    metric = IoUMetric()
    resample = make_resampler(metric, 'mIoU')
    scores = np.random.default_rng(1).random(count)
    metric.compute_metrics([areas([float(s)], [1.]) for s in scores])
    values = resample(400).bootstrap
    assert values.mean() == pytest.approx(100 * scores.mean(), abs=3)
    assert values.std() == pytest.approx(100 * scores.std() / count**.5, rel=.2)


@pytest.mark.parametrize('prefix, objective', [
    (None, 'mAcc'), (None, 'coco/bbox_mAP'), ('val', 'mIoU'), (None, 'val/mIoU')])
def test_other_objectives_have_no_resamples_and_are_not_watched(prefix, objective):
    metric = IoUMetric()
    metric.prefix = prefix
    assert make_resampler(metric, objective) is None
    assert 'compute_metrics' not in vars(metric)
    metric.prefix = 'val'
    assert make_resampler(metric, 'val/mIoU') is not None


@pytest.mark.parametrize('objective', [
    'coco/bbox_mAP_50', 'coco/segm_mAP_s', 'coco/class 0_precision'])
def test_coco_s_other_figures_have_no_resamples(objective):
    metric = type('CocoMetric', (), dict(prefix='coco'))()
    assert make_resampler(metric, objective) is None


@pytest.mark.parametrize('number, block', [(12, 1), (12, 5), (3, 5)])
def test_blocks_of_consecutive_images_are_drawn_together(number, block):
    drawn = []
    matches = SimpleNamespace(num_images=number, frames=None, sequence='sequence')
    resampler = bootstrap.Resampler(lambda: matches,
                                    lambda matches, weights: drawn.append(weights) or 0.)
    resampler(50, block=block)
    drawn = drawn[:50]  # the others are the jackknife and the whole
    starts = range(0, number, block)
    for weights in drawn:
        assert len(weights) == number
        blocks = [weights[start:start + block] for start in starts]
        assert all((part == part[0]).all() for part in blocks)
        assert sum(part[0] for part in blocks) == len(blocks)
    assert len(starts) == 1 or len({tuple(weights) for weights in drawn}) > 1


def test_fewer_resamples_in_less_time_are_the_first_of_them():
    metric = IoUMetric()
    resample = make_resampler(metric, 'mIoU')
    metric.compute_metrics([areas([float(s)], [1.]) for s in np.random.default_rng(1).random(20)])
    some, all_of_them = resample(seconds=0.), resample()
    assert (len(some.bootstrap), len(all_of_them.bootstrap)) == (100, 1000)
    np.testing.assert_array_equal(some.bootstrap, all_of_them.bootstrap[:100])
    np.testing.assert_array_equal(some.jackknife, all_of_them.jackknife)


def test_frames_of_video_are_drawn_by_sequence_and_the_unit_is_named():
    metric = IoUMetric()
    names = [f'video{v}_{i:03d}.png' for v in range(12) for i in range(3)]
    resample = make_resampler(metric, 'mIoU', lambda: names)
    rng = np.random.default_rng(0)
    hard = np.repeat(rng.random(12), 3)  # what the frames of a video share
    metric.compute_metrics([areas([float(h)], [1.]) for h in hard])
    by_video, by_image = resample(), make_resampler(metric, 'mIoU')
    metric.compute_metrics([areas([float(h)], [1.]) for h in hard])
    assert by_video.unit == '12 sequences' and by_image().unit == '36 images'
    assert by_video.estimate == pytest.approx(100 * hard.mean())
    assert by_video.bootstrap.std() == pytest.approx(3**.5 * by_image().bootstrap.std(), rel=.15)
