"""Search and test of mmpretrain's classifiers: their metric, its resamples, parts of val."""
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, unique_name
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import save_checkpoint

from sparsevit_mm.config.data import input_shape
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost.latency import LatencySetting
from sparsevit_mm.evaluation import bootstrap
from sparsevit_mm.evaluation.bootstrap import make_resampler
from sparsevit_mm.evaluation.metrics import default_metric, known_keys
from sparsevit_mm.evaluation.scores.check import check_selection
from sparsevit_mm.search import search

pytest.importorskip('mmpretrain')
from mmpretrain.evaluation import Accuracy  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402

BASE = ROOT / 'configs' / 'evo_vit' / 'evovit-deit-t_in1k.py'
SIDE, CLASSES, IMAGES = 32, 6, 30


class InOrder:
    """numpy, but that it draws every image once."""
    random = SimpleNamespace(default_rng=lambda seed: SimpleNamespace(
        integers=lambda number, size: np.arange(size)))

    def __getattr__(self, name):
        return getattr(np, name)


def evaluate(metric, number, as_labels=False):
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(number):
        scores = torch.rand(10, generator=generator).softmax(0)
        truth = int(torch.randint(10, (), generator=generator))
        sample = DataSample().set_gt_label(truth)
        sample = sample.set_pred_label(int(scores.argmax())) if as_labels else (
            sample.set_pred_score(scores))
        samples.append(sample.to_dict())
    metric.process(None, samples)
    return metric.evaluate(number)


@pytest.mark.parametrize('options, as_labels', [
    (dict(topk=(1, 5)), False), (dict(topk=(1, 5), thrs=.11), False),
    (dict(topk=(1, 5), thrs=None), False), (dict(), True)])
def test_a_resample_of_each_image_once_is_the_accuracy(monkeypatch, options, as_labels):
    monkeypatch.setattr(bootstrap, 'np', InOrder())
    metric = Accuracy(**options)
    resamplers = {key: make_resampler(metric, f'accuracy/{key}') for key in known_keys(metric)}
    given = evaluate(metric, 200, as_labels)
    assert {f'accuracy/{key}' for key in resamplers} == {*given}
    for key, resampler in resamplers.items():
        resampled = resampler(2)
        assert resampled.estimate == pytest.approx(given[f"accuracy/{key}"], abs=1e-4)
        assert (resampled.bootstrap == resampled.estimate).all()
        assert (resampled.unit, resampled.num_units) == ('200 images', 200)


def test_several_thresholds_have_no_resamples():
    metric = Accuracy(thrs=(.1, .5))
    assert make_resampler(metric, 'accuracy/top1') is None and known_keys(metric) is None


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    """Config and checkpoint of a small untrained classifier, and images in folders of classes."""
    folder = tmp_path_factory.mktemp('classifier')
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        path = folder / 'val' / f'class{i % CLASSES}' / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 255, (40, 48, 3), dtype=np.uint8))
    pipeline = [dict(type='LoadImageFromFile'), dict(type='ResizeEdge', scale=36),
                dict(type='CenterCrop', crop_size=SIDE), dict(type='PackInputs')]
    loader = dict(_delete_=True, batch_size=10, num_workers=0, persistent_workers=False,
                  sampler=dict(type='DefaultSampler', shuffle=False),
                  dataset=dict(type='CustomDataset', data_root=str(folder), data_prefix='val',
                               pipeline=pipeline))
    child = Config(dict(
        model=dict(backbone=dict(img_size=SIDE, patch_size=8, embed_dims=16, num_heads=2,
                                 num_layers=6),
                   head=dict(in_channels=16, num_classes=CLASSES)),
        data_preprocessor=dict(num_classes=CLASSES), val_dataloader=loader,
        test_dataloader=loader))
    path = folder / 'tiny.py'
    path.write_text(f'_base_ = [{str(BASE)!r}]\n' + child.pretty_text)
    cfg = load_config(str(path))
    init_default_scope('mmpretrain')
    import mmpretrain.models  # noqa: F401, registers
    model = MODELS.build(dict(cfg.model, data_preprocessor=dict(num_classes=CLASSES)))
    save_checkpoint(dict(state_dict=model.state_dict(), meta={}), str(folder / 'tiny.pth'))
    return path, str(folder / 'tiny.pth')


def test_a_classifier_is_searched(classifier, tmp_path):
    path, checkpoint = classifier
    cfg = load_config(str(path))
    assert default_metric(cfg) == 'accuracy/top1' and input_shape(cfg) == (SIDE, SIDE)
    setting = LatencySetting((SIDE, SIDE), num_threads=1, of='model')
    result = search(path, checkpoint, '500%', work_dir=tmp_path / unique_name(), setting=setting,
                    num_trials=4, num_samples=12, rounds=1, seed=1)
    summary = result.summary
    assert summary.metric == 'accuracy/top1' and len(summary.evaluated) == 4
    for candidate in summary.evaluated:  # of 12 images, in percent
        assert candidate.metric * 12 / 100 == pytest.approx(round(candidate.metric * 12 / 100),
                                                            abs=1e-3)
        assert candidate.resampled['unit'] == '12 images'
    assert summary.dense_metric * IMAGES / 100 == pytest.approx(
        round(summary.dense_metric * IMAGES / 100), abs=1e-3)
    assert load_config(str(result.configs['winner'])).model.backbone.sparsity == (
        result.winner.candidate.config.to_list())


def test_scores_of_a_classifier_are_judged(classifier, tmp_path):
    path, checkpoint = classifier
    cfg = load_config(str(path))
    cfg.work_dir = str(tmp_path)
    checked = check_selection(cfg, checkpoint, [.5], num_samples=12)
    names = {row.name for row in checked.comparison.rows}
    assert {'class_attention', 'variation', 'random'} <= names
    assert checked.comparison.metric == 'accuracy/top1' and checked.choice in checked.sentence
    assert checked.labelled == '12 images of val'
