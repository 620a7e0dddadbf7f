import json

import numpy as np
import pytest
import torch
from helpers import BACKBONE, backbone, forget_experiments, refused, run_tool, toy_config
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.structures import BaseDataElement, PixelData
from torch.utils.data import Dataset

from sparsevit_mm.evaluation.scores.check import _annotated, check_selection
from sparsevit_mm.evaluation.scores.survey import survey
from sparsevit_mm.models.checkpoints import read_checkpoint
from sparsevit_mm.models.selection.head import ImportanceHead
from sparsevit_mm.models.selection.importance import TOKEN_SCORES, uniform_noise

SCORES = ['magnitude', 'l2', 'random', 'variation', 'distinct']


def check(trained, work_dir, *arguments, **options):
    outcome = run_tool('check_selection', trained.config, trained.checkpoint, '--work-dir',
                       work_dir, *arguments, **options)
    assert outcome.code == 0, outcome.error
    return json.loads((work_dir / 'selection.json').read_text()), outcome


def check_laws(report, outcome, sparsities=2):
    comparison, stages = report['comparison'], report['stages']
    assert report['choice'] in SCORES
    assert outcome.output.rstrip().endswith(report['sentence'])
    assert [row['name'] for row in comparison['rows']] == ['dense', *SCORES]
    for row in comparison['rows']:
        assert len(row['values']) == len(row['intervals']) == sparsities
        units = {f'{comparison["num_images"]} images', '3 blocks of 2 consecutive frames',
                 '4 blocks of 2 consecutive frames'}
        assert len({i['unit'] for i in row['intervals']}) == 1
        assert row['intervals'][0]['unit'] in units  # the segmentor's files are numbered
        assert [i['estimate'] for i in row['intervals']] == pytest.approx(row['values'], abs=6e-3)
        assert row['name'] in outcome.output
    assert [(row['stage'], row['score']) for row in stages] == [
        (stage, score) for stage in range(4) for score in SCORES]
    for row in stages:
        assert all(row[key] is None or -1 <= row[key] <= 1 for key in ('update', 'gain'))
    spreads = {row['score']: row['spread'] for row in stages if row['stage'] == 0}
    assert spreads['l2'] < spreads['magnitude'] < spreads['variation']


def test_a_detector_gets_metrics_shares_and_correlations(tiny, tmp_path, recwarn):
    report, outcome = check(tiny, tmp_path / 'w')
    check_laws(report, outcome)
    comparison = report['comparison']
    assert (comparison['metric'], comparison['num_images']) == ('coco/bbox_mAP', 8)
    assert comparison['own'] == comparison['adapted_to'] == 'variation'
    dense, *scores = comparison['rows']
    for row in scores:
        assert 1 > row['shares'][0] > row['shares'][1] > 0
        assert (row['less_own'] is None) == (row['name'] == 'variation')
    assert report['labelled'] == '8 images of val'
    assert any(row['gain'] is not None for row in report['stages'])
    # Comparing scores is what it is for.
    assert not any('was adapted under' in str(warning.message) for warning in recwarn)
    again, _ = check(tiny, tmp_path / 'again')
    assert again == report


@pytest.mark.slow
def test_a_segmentor_at_another_sparsity_on_some_images(tiny_seg, tmp_path):
    report, outcome = check(tiny_seg, tmp_path / 'w', '--sparsity', .6, '--num-samples', 4)
    check_laws(report, outcome, 1)
    comparison = report['comparison']
    assert (comparison['metric'], comparison['num_images']) == ('mIoU', 4)
    assert comparison['labels'] == ['60%'] and 'object area run' not in outcome.output
    assert all(row['shares'] is None for row in comparison['rows'])


def test_labels_are_loaded_before_the_image_is_resized(tiny_seg):
    loader = Config.fromfile(tiny_seg.config).val_dataloader
    assert [step['type'] for step in _annotated(loader).dataset.pipeline] == [
        'LoadImageFromFile', 'LoadAnnotations', 'Resize', 'PackSegInputs']
    del loader.dataset.pipeline[2]
    assert _annotated(loader) is None


def with_heads(trained, folder):
    state = read_checkpoint(str(trained.checkpoint))
    for stage, channels in enumerate((16, 32, 64, 128)):
        head = ImportanceHead(channels)
        state['state_dict'][f'backbone.stages.{stage}.importance.weight'] = head.weight.detach()
    torch.save(state, folder / 'heads.pth')
    return trained._replace(checkpoint=folder / 'heads.pth')


@pytest.mark.slow
def test_the_learned_score_takes_part_where_there_are_heads(tiny_seg, tmp_path):
    report, _ = check(with_heads(tiny_seg, tmp_path), tmp_path / 'w', '--num-samples', 2)
    rows = {row['name']: row for row in report['comparison']['rows']}
    # Heads that are not fitted rank as 'variation' does.
    assert rows['learned']['values'] == rows['variation']['values']


@pytest.mark.parametrize('arguments, options, named', [
    (['--num-samples', 9], {}, '--num-samples 9: val has 8 images'),
    (['--num-samples', 0], {}, '--num-samples 0'),
    (['--sparsity', 0], {}, 'is dense'),
    ([], dict(model__backbone__importance='loudness'), "importance 'loudness'"),
    ([], dict(model__backbone__importance='learned'), 'tools/fit_importance.py'),
    ([], dict(model__backbone__type='SwinTransformer'), '0 sparse backbones'),
    ([], dict(val_evaluator__type='ToyMetric'), 'ToyMetric')])
def test_what_can_not_be_checked_is_refused_in_one_line(tiny, tmp_path, arguments, options, named):
    message = refused('check_selection', tiny.config, tiny.checkpoint, *arguments, '--work-dir',
                      tmp_path, **options)
    assert named in message and len(message.splitlines()) == 1
    assert not (tmp_path / 'selection.json').exists()


def test_images_without_any_object_are_named(tiny, tmp_path):
    path = tiny.data / 'annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    empty = tmp_path / 'empty.json'
    empty.write_text(json.dumps({**content, 'annotations': []}))
    message = refused('check_selection', tiny.config, tiny.checkpoint, '--work-dir', tmp_path,
                      val_evaluator__ann_file=empty, val_dataloader__dataset__ann_file=empty)
    assert '0 objects' in message and '8 images' in message and len(message.splitlines()) == 1


@DATASETS.register_module(force=True)
class Scenes(Dataset):
    """Noise, with an object somewhere."""
    metainfo = dict(classes=('ground', 'object'), palette=[[0] * 3, [255] * 3])

    def __len__(self):
        return 12

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        label = torch.zeros(16, 16, dtype=torch.int64)
        row, col = rng.integers(0, 3, 2) * 4
        label[row:row + 8, col:col + 8] = 1
        image = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(index))
        return dict(inputs=image, label=label)


@MODELS.register_module(force=True)
class Sighted(BaseModel):
    """Right about every pixel that its backbone ran in most blocks, and blind elsewhere."""
    label = None

    def __init__(self, backbone):
        super().__init__()
        self.backbone = MODELS.build(backbone)

    def forward(self, inputs, label, mode='tensor'):
        Sighted.label = label
        if mode == 'loss':
            return dict(loss=self.backbone(inputs)[-1].square().mean())
        with self.backbone.recording() as maps:
            self.backbone(inputs)
        ran = torch.stack([side.repeat_interleave(16 // side.shape[1], 1).repeat_interleave(
            16 // side.shape[2], 2) for blocks in maps for side in blocks]).float().mean(0) > .5
        return [BaseDataElement(pred_sem_seg=PixelData(data=(a * b)[None]),
                                gt_sem_seg=PixelData(data=a[None])) for a, b in zip(label, ran)]


def seeing(x, info):
    """Where the objects are."""
    label = torch.nn.functional.adaptive_max_pool2d(Sighted.label.float(), info.hw_shape)
    return .01 + label.flatten(1)


def checked(work_dir, base=BACKBONE, **settings):
    forget_experiments()
    cfg = toy_config(work_dir, model=dict(type='Sighted', backbone=dict(base, **settings)),
                     val_evaluator=dict(type='mmseg.IoUMetric', iou_metrics=['mIoU']))
    for loader in (cfg.val_dataloader, cfg.train_dataloader):
        loader.dataset.type = 'Scenes'
    model = MODELS.build(cfg.model)
    work_dir.mkdir(exist_ok=True)
    torch.save(model.state_dict(), work_dir / 'random.pth')
    return check_selection(cfg, str(work_dir / 'random.pth'))


def test_the_score_that_finds_the_objects_is_the_one_to_use(tmp_path, monkeypatch):
    monkeypatch.setitem(TOKEN_SCORES, 'distinct', seeing)
    report = checked(tmp_path)
    assert report.choice == 'distinct'
    assert report.sentence.startswith("Use importance='distinct': at 50% and 70% it has the "
                                      "highest mIoU of the scores, ")
    rows = {row.name: row for row in report.comparison.rows}
    assert rows['distinct'].less_own.above_zero
    assert rows['dense'].values == [100, 100]
    assert report.labelled.startswith('the first 12 images of train')
    # The config's own is kept where it is that one.
    assert checked(tmp_path, importance='distinct').sentence.startswith(
        "Keep 'distinct', the config's: at 50%")


VIT = dict(type='EvoVisionTransformer', img_size=16, patch_size=2, embed_dims=8, num_layers=4,
           num_heads=2, dense_layers=1)


@pytest.mark.parametrize('settings, scores', [
    ({}, ['class_attention', 'received', *SCORES]),
    (dict(reselect='stage', stages=(1, 2)), ['class_attention', 'received', *SCORES]),
    (dict(with_cls_token=False, importance='received'), ['received', *SCORES]),
    (dict(dense_layers=0, importance='magnitude'), SCORES)])
def test_tokens_of_a_vit_are_judged_alike(tmp_path, monkeypatch, settings, scores):
    monkeypatch.setitem(TOKEN_SCORES, 'distinct', seeing)
    report = checked(tmp_path, VIT, **settings)
    assert report.choice == 'distinct'
    assert [row.name for row in report.comparison.rows] == ['dense', *scores]
    stages = 3 if 'reselect' in settings else 1
    assert [(row.stage, row.score) for row in report.stages] == [
        (stage, score) for stage in range(stages) for score in scores]
    for row in report.stages:
        attention = row.score in ('class_attention', 'received')
        # There is no attention before the first layer.
        assert (row.spread is None) == (attention and row.stage == 0 and stages == 3)
        assert attention or -1 <= row.update <= 1 and -1 <= row.gain <= 1


def test_a_score_that_can_not_choose_is_named(tmp_path):
    with pytest.raises(ValueError, match='first layer .*keep it dense'):
        checked(tmp_path, VIT, dense_layers=0)


def test_noise_is_said_to_be_noise(tmp_path, monkeypatch):
    for name in ('magnitude', 'l2', 'variation', 'distinct'):
        monkeypatch.setitem(TOKEN_SCORES, name, uniform_noise)
    report = checked(tmp_path)
    assert report.choice == 'variation'
    assert report.sentence == (
        "No score beats random on these 12 images by more than chance: keep 'variation', the "
        "config's, or look at more images.")


def test_a_model_is_left_as_it_was(tmp_path):
    model = Sighted(dict(BACKBONE, sparsity=.5))
    loader = torch.utils.data.DataLoader(Scenes(), batch_size=4)
    model.backbone.patch_embed.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    rows = survey(model, model.backbone, ['magnitude', 'random'], loader, True)
    assert len(rows) == 4 and all(row.gain is not None for row in rows)
    assert model.backbone.sparsity == backbone(sparsity=.5).sparsity
    assert before == {name: p.requires_grad for name, p in model.named_parameters()}
    assert all(p.grad is None for p in model.parameters())
    assert not model.training and not any(
        stage._forward_pre_hooks for stage in model.backbone.stages)
