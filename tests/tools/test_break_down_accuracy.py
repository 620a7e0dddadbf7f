import csv
import json

import cv2
import numpy as np
import pytest
import torch
from helpers import refused, run_tool
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from trained import metrics_of

SPARSE = 'uniform 0.6'


def break_down(*arguments, work_dir, **options):
    """Rows of the CSV by name, figures as floats or None, and the outcome."""
    outcome = run_tool('break_down_accuracy', *arguments, '--work-dir', work_dir, **options)
    assert outcome.code == 0, outcome.error
    assert {path.name for path in work_dir.glob('*.*')} >= {'breakdown.csv', 'breakdown.png'}
    assert not list(work_dir.rglob('*partial*')) + list(work_dir.rglob('detections*'))
    with (work_dir / 'breakdown.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.update({key: float(value) if value else None for key, value in row.items()
                    if ', ' in key}, count=int(row['count']))
        assert row['name'] in outcome.output
    return {(row['group'], row['name']): row for row in rows}, outcome


def check_shares(rows, labels=(SPARSE, )):
    """Laws of every breakdown; the whole image is its last row."""
    *parts, whole = rows.values()
    assert whole['group'] == 'image'
    for row in [*parts, whole]:
        assert row['share run, dense'] == (1 if row['count'] else None)
        for label in labels:
            share = row[f'share run, {label}']
            assert 0 <= share <= 1 if row['count'] else share is None
    for label in labels:
        assert 0 < whole[f'share run, {label}'] < 1
        assert len({row[f'share run, {label}'] for row in parts}) > 3


def test_sizes_and_the_whole_are_the_evaluator_s_own_figures_dense_and_sparse(tiny, tmp_path):
    arguments = tiny.config, tiny.checkpoint, '--split', 'val', '--sparsity'
    rows, _ = break_down(*arguments, .6, work_dir=tmp_path / 'w')
    check_shares(rows)
    keys = {('all', 'all objects'): 'mAP', ('size', 'small'): 'mAP_s',
            ('size', 'medium'): 'mAP_m', ('size', 'large'): 'mAP_l'}
    classes = [row for row in rows.values() if row['group'] == 'class' and row['count']]
    for label, sparsity in (('dense', 0), (SPARSE, .6)):
        metrics = metrics_of(*arguments, sparsity)
        for name, kind in (('box AP', 'bbox'), ('mask AP', 'segm')):
            for key, metric in keys.items():
                value = rows[key][f'{name}, {label}']
                given = metrics[f'coco/{kind}_{metric}']
                assert (-1 if value is None else round(value, 3)) == given
            mean = np.mean([row[f'{name}, {label}'] for row in classes])
            assert mean == pytest.approx(rows['all', 'all objects'][f'{name}, {label}'], abs=1e-5)
    assert rows['all', 'all objects']['box AP, dense'] > .01
    content = json.loads((tiny.data / 'annotations/instances_train2017.json').read_text())
    assert rows['all', 'all objects']['count'] == sum(row['count'] for row in classes) == len(
        [a for a in content['annotations'] if not a['iscrowd']])
    assert rows['image', 'whole image']['count'] == len(content['images'])


def test_a_class_without_objects_has_count_0_and_blanks(tiny, tmp_path):
    rows, outcome = break_down(tiny.config, tiny.checkpoint, '--split', 'val', '--num-samples', 1,
                               work_dir=tmp_path / 'w', model__backbone__sparsity=.6)
    assert rows['image', 'whole image']['count'] == 1
    classes = [row for row in rows.values() if row['group'] == 'class']
    assert len(classes) == 5
    empty = [row for row in classes if not row['count']]
    assert empty
    for row in empty:
        assert {value for key, value in row.items() if ', ' in key} == {None}
    table = outcome.output[outcome.output.index('1 images of val'):]  # above it is mm's log
    assert 'nan' not in table and 'None' not in table


@pytest.fixture(scope='module')
def streets(tiny_segmentor, randomise, tmp_path_factory):
    """(config, checkpoint) of a random segmentor on three noisy street scenes in the layout of
    Cityscapes; sparse by its config."""
    folder = tmp_path_factory.mktemp('streets')
    rng = np.random.default_rng(0)
    for i, (kind, suffix) in [(i, kind) for i in range(3) for kind in (
            ('leftImg8bit', 'leftImg8bit'), ('gtFine', 'gtFine_labelTrainIds'))]:
        path = folder / 'data' / kind / 'val' / 'town' / f'town_{i}_{suffix}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
        labels = np.kron(rng.choice([0, 1, 2, 4, 255], (4, 6)), np.ones((16, 16)))
        cv2.imwrite(str(path), noise if kind == 'leftImg8bit' else labels.astype(np.uint8))
    cfg = Config(tiny_segmentor)
    cfg.model.backbone.sparsity = .6
    cfg.model.data_preprocessor.test_cfg = dict(size_divisor=32)
    pipeline = cfg.pop('test_pipeline')
    cfg.val_dataloader = dict(
        batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(
            type='CityscapesDataset', data_root=str(folder / 'data'),
            data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
            pipeline=[*pipeline[:2], dict(type='LoadAnnotations'), pipeline[2]]))
    cfg.val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
    cfg.val_cfg = dict(type='ValLoop')
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.test_cfg = dict(type='TestLoop')
    cfg.dump(folder / 'streets.py')
    init_default_scope('mmseg')
    model = randomise(MODELS.build(cfg.model))
    model.decode_head.conv_seg.bias.data[6:] = -99  # so that it hits some of the labels
    torch.save(dict(state_dict=model.state_dict()), folder / 'random.pth')
    return folder / 'streets.py', folder / 'random.pth'


def test_iou_of_the_classes_and_its_mean_are_the_evaluator_s(streets, tmp_path):
    configs = ['[.6,.6]', .9]
    rows, _ = break_down(*streets, '--sparsity', *configs, work_dir=tmp_path / 'w')
    labels = SPARSE, 'uniform 0.9'
    check_shares(rows, labels)
    classes = [row for row in rows.values() if row['group'] == 'class']
    assert len(classes) == 19 and len([row for row in classes if row['count']]) == 4
    assert rows['all', 'all classes']['count'] == sum(row['count'] for row in classes)
    for label, sparsity in zip(('dense', *labels), (0, *configs)):
        outcome = run_tool('test', *streets, '--sparsity', sparsity, '--work-dir', tmp_path / 't')
        assert outcome.code == 0, outcome.error
        newest = max((tmp_path / 't').glob('*/*.json'), key=lambda path: path.stat().st_mtime_ns)
        values = [row[f'IoU (%), {label}'] for row in classes]
        values = [value for value in values if value is not None]
        mean = rows['all', 'all classes'][f'IoU (%), {label}']
        assert round(mean, 2) == json.loads(newest.read_text())['mIoU'] > 0
        assert np.mean(values) == pytest.approx(mean, abs=1e-4)
    assert rows['image', 'whole image'][f'share run, {SPARSE}'] > (
        rows['image', 'whole image']['share run, uniform 0.9'])


def test_sparsity_of_the_config_is_the_default(streets, tmp_path):
    rows, outcome = break_down(*streets, '--split', 'val', work_dir=tmp_path / 'w')
    assert f'IoU (%), {SPARSE}' in rows['class', 'road']
    assert 'evaluating dense' in outcome.output and f'evaluating {SPARSE}' in outcome.output


@pytest.mark.parametrize('arguments, options, named', [
    ([], dict(model__backbone__sparsity=0), 'streets.py is dense: give --sparsity'),
    (['--sparsity', 0], {}, 'nothing to compare'),
    (['--sparsity', .6, '[.6,.1,.1]'], {}, 'sparsity'),
    ([], dict(test_evaluator__type='ToyMetric'), 'ToyMetric'),
    ([], dict(model__test_cfg__mode='slide'), 'mode is slide'),
    ([], dict(test_dataloader__dataset__data_prefix__img_path='nowhere'), 'nowhere')])
def test_what_can_not_be_broken_down_is_refused_before_anything_is_written(
        streets, tmp_path, arguments, options, named):
    message = refused('break_down_accuracy', *streets, *arguments, '--work-dir', tmp_path / 'w',
                      **options)
    assert named in message and len(message.splitlines()) == 1
    assert not (tmp_path / 'w').exists()


def test_a_missing_checkpoint_is_named(streets, tmp_path):
    message = refused('break_down_accuracy', streets[0], 'nowhere.pth', '--work-dir',
                      tmp_path / 'w')
    assert 'nowhere.pth' in message and not list(tmp_path.rglob('breakdown*'))
