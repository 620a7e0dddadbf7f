"""Latency of the whole model, and knobs of its test config, on the models of the demos."""
import json
import re

import pytest
import torch
from helpers import refused, run_tool
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.dataset import pseudo_collate
from test_search_modes import summary_of

from sparsevit_mm import Front, SparsityConfig, set_latency_budget
from sparsevit_mm.config.data import input_shape
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost.latency import LatencySetting
from sparsevit_mm.cost.table import LatencyTable
from sparsevit_mm.cost.whole_model import ModelMeter, spread_batches
from sparsevit_mm.evaluation.loading import load_model, prepare
from sparsevit_mm.models.knobs import KnobSetter
from sparsevit_mm.operating_point import image_scale, operating_point

PROPOSALS, BOXES = 'model.test_cfg.rpn.max_per_img', 'model.test_cfg.rcnn.max_per_img'
FEW = ['--num-samples', 4, '--seed', 1, '--rounds', 1, '--threads', 1]
DENSE = SparsityConfig(0., (2, 2, 2, 2))
SETTING = LatencySetting((64, 64), num_threads=1, of='model')


@pytest.fixture(scope='module')
def detector(tiny):
    """Model and two batches of one image."""
    cfg = load_config(str(tiny.config))
    prepare(cfg, 'cpu')
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    model, _ = load_model(cfg, str(tiny.checkpoint), 'cpu')
    return model, spread_batches(dataset, pseudo_collate, 1, 2)


def at(**knobs):
    return operating_point(DENSE, {name.replace('__', '.'): v for name, v in knobs.items()})


def test_batches_are_spread_over_the_data():
    assert spread_batches(range(12), tuple, 1, 3) == [(2, ), (6, ), (10, )]
    assert spread_batches(range(12), tuple, 2, 3) == [(1, 7), (3, 9), (5, 11)]
    assert spread_batches(range(3), tuple, 2, 8) == [(0, 2)]
    assert spread_batches(range(1), tuple, 2, 8) == [(0, 0)]


def test_the_whole_model_runs_from_the_batch_to_its_boxes(detector):
    model, batches = detector
    meter = ModelMeter(model, batches, SETTING, 2)
    seen = []
    predict = meter.model.roi_head.predict
    meter.model.roi_head.predict = lambda *args, **kwargs: (
        seen.append([s.img_path for s in args[2]]), predict(*args, **kwargs))[1]
    dense, sparse = meter.measure([0., .6])
    assert 0 < sparse.median and dense.ratio == 1
    assert seen == [[b['data_samples'][0].img_path]
                    for b in (*batches, batches[0]) for _ in range(2)]
    assert model.backbone is not meter.backbone


def test_more_proposals_take_longer(detector):
    """By operations, not by the clock: boxes that reach the second stage."""
    model, batches = detector
    meter = ModelMeter(model, batches, SETTING, 1, [PROPOSALS])
    rois = []
    extract = meter.model.roi_head._bbox_forward
    meter.model.roi_head._bbox_forward = lambda x, boxes: (rois.append(len(boxes)),
                                                           extract(x, boxes))[1]
    for number in (7, 3):
        meter.once(at(model__test_cfg__rpn__max_per_img=number))
    meter.once(DENSE)
    assert rois[:2] == [7, 3] and rois[2] > 7
    assert model.rpn_head.test_cfg.max_per_img > 7  # the model itself stays as it was


def test_a_knob_reaches_every_part_that_reads_it_and_goes_back(detector):
    model, batches = detector
    set_knobs = KnobSetter(model, [PROPOSALS, BOXES])
    own = model.rpn_head.test_cfg.max_per_img, model.roi_head.test_cfg.max_per_img
    set_knobs(at(model__test_cfg__rpn__max_per_img=5))
    assert (model.rpn_head.test_cfg.max_per_img, model.roi_head.test_cfg.max_per_img) == (5, own[1])
    assert model.test_cfg.rpn.max_per_img == 5
    set_knobs(DENSE)
    assert (model.rpn_head.test_cfg.max_per_img, model.roi_head.test_cfg.max_per_img) == own
    with set_knobs.watching() as read, torch.no_grad():
        model.test_step(batches[0])
    assert read == {PROPOSALS, BOXES}
    assert (model.rpn_head.test_cfg.max_per_img, model.roi_head.test_cfg.max_per_img) == own
    with pytest.raises(ValueError, match='model.test_cfg.rcnn.score_thr'):
        set_knobs(at(model__test_cfg__rcnn__score_thr=.5))


@pytest.mark.parametrize('name, there', [
    ('model.test_cfg.rpn.max_boxes', 'max_per_img'), ('model.test_cfg.rpn2.max_per_img', 'rcnn')])
def test_a_knob_that_is_not_there_is_refused_with_those_that_are(detector, name, there):
    with pytest.raises(ValueError, match=f'has no .*{there}'):
        KnobSetter(detector[0], [name])


def test_measure_latency_sets_model_and_backbone_side_by_side(tiny):
    arguments = ['measure_latency', tiny.config, '--latency-of', 'model', '--sparsity', .6,
                 '--rounds', 1, '--threads', 1]
    done = run_tool(*arguments, '--checkpoint', tiny.checkpoint)
    assert done.code == 0, done.error
    rows = [line for line in done.output.splitlines() if 'dense' in line or 'uniform' in line]
    assert all(re.search(r'ms .* ms .* \d+%', row) for row in rows[-2:])
    assert 'random weights' not in done.output and 'Latency: model, batch 1' in done.output
    assert 'random weights' in run_tool(*arguments).output
    assert ': val nowhere' in refused(*arguments, val_dataloader__dataset__data_root='nowhere/')


@pytest.fixture(scope='module')
def searched(tiny, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('knobs')
    done = run_tool('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir', work_dir, *FEW,
                    '--pareto', '--points', '9000ms,8000ms', '--trials', 14, '--knob',
                    f'{PROPOSALS}=50,10', '--finalists', 2)
    assert done.code == 0, done.error
    return work_dir, done.output


@pytest.mark.slow
def test_a_search_in_milliseconds_is_for_the_whole_model_and_sets_knobs(searched):
    work_dir, output = searched
    summary = summary_of(work_dir)
    assert summary.identity['latency setting'].startswith('model, batch 1')
    assert {dict(c.config.knobs)[PROPOSALS] for c in summary.evaluated} == {50, 10}
    assert summary.dense.config.knobs == ()  # as the config has it
    best = summary.finalists[0]
    assert min(best.backbone) > 0
    assert f'{best.backbone[0]:.1f} of {best.backbone[1]:.1f} ms' in output
    winner = Config.fromfile(work_dir / 'winner_9000ms.py')
    assert winner.model.test_cfg.rpn.max_per_img == dict(best.candidate.config.knobs)[PROPOSALS]
    assert winner.model.test_cfg.rcnn.max_per_img == load_config(
        str(work_dir / 'winner_9000ms.py')).model.test_cfg.rcnn.max_per_img
    assert 'model latency' in (work_dir / 'winner_9000ms.py').read_text()
    header = (work_dir / 'candidates.csv').read_text().splitlines()[0]
    assert PROPOSALS in header.split(',')


@pytest.mark.slow
def test_a_budget_at_run_time_sets_the_knobs_too(searched, detector):
    front = Front.load(searched[0] / 'front.json')
    assert front.setting['of'] == 'model' and all(p.config.knobs for p in front.points)
    model = detector[0]
    for point in (front.points[0], front.points[-1]):
        assert set_latency_budget(model, point.latency, front) == point.config
        assert model.rpn_head.test_cfg.max_per_img == dict(point.config.knobs)[PROPOSALS]
        assert model.backbone.sparsity.ratios == point.config.ratios
    KnobSetter(model, [PROPOSALS])(at(model__test_cfg__rpn__max_per_img=100))


@pytest.mark.slow
def test_the_report_of_a_search_with_knobs(searched):
    """It draws the winner's windows by the study's record: files that lie there are not run."""
    work_dir = searched[0]
    winner = work_dir / 'winner_9000ms.py'
    text = winner.read_text()
    winner.write_text('raise SystemExit("this was run")')
    done = run_tool('search_report', work_dir, '--images', 1, '--device', 'cpu')
    winner.write_text(text)
    assert done.code == 0, done.error
    page = (work_dir / 'report.html').read_text()
    assert 'max_per_img 10' in page and 'Not drawn' not in page


@pytest.mark.parametrize('options, message', [
    (['--knob', 'model.test_cfg.rpn.max_per_image=5,6'], "has no 'max_per_image'"),
    (['--knob', 'model.test_cfg.rpn.nms_pre=5,6', '--latency-of', 'backbone'],
     'use --latency-of model'),
    (['--knob', 'model.backbone.depths=1,2'], 'nor a value below model.test_cfg')])
def test_knobs_that_can_not_be_set_are_refused(tiny, tmp_path, options, message):
    assert message in refused('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir',
                              tmp_path, *FEW, '--max-latency', '90%', *options)


def test_a_knob_that_is_never_read_is_refused(tiny, tmp_path):
    message = refused('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir', tmp_path,
                      *FEW, '--max-latency', '90%', '--knob', 'model.test_cfg.rpn.idle=1,2',
                      model__test_cfg__rpn__idle=1)
    assert 'does not read model.test_cfg.rpn.idle' in message


def test_a_table_of_the_whole_model_serves_its_search_alone(tiny, tmp_path):
    cfg = load_config(str(tiny.config))
    prepare(cfg, 'cpu')
    model, _ = load_model(cfg, None, 'cpu')
    table = LatencyTable(SETTING.identity(), {'depths': [2, 2, 2, 2]}, (0., ), 1., [], None)
    with pytest.raises(ValueError, match='of: model in the table, backbone here'):
        table.require(model.backbone, LatencySetting((64, 64), num_threads=1))


@pytest.mark.slow
def test_a_segmentor_is_measured_whole(tiny_seg):
    done = run_tool('measure_latency', tiny_seg.config, '--latency-of', 'model', '--sparsity', .6,
                    '--rounds', 1, '--threads', 1)
    assert done.code == 0, done.error


@pytest.mark.slow
def test_bevdet_is_measured_whole(tiny_3d):
    done = run_tool('measure_latency', tiny_3d.config, '--latency-of', 'model', '--sparsity', .6,
                    '--rounds', 1, '--threads', 1)
    assert done.code == 0, done.error


@pytest.mark.slow
def test_knobs_stand_in_the_front_file(searched):
    record = json.loads((searched[0] / 'front.json').read_text())
    assert all(set(p['knobs']) == {PROPOSALS} for p in record['points'])


@pytest.mark.slow
def test_a_search_over_image_sizes(tiny, tmp_path):
    done = run_tool('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir', tmp_path, *FEW,
                    '--max-latency', '9000ms', '--trials', 12, '--knob', 'image_scale=1,.5',
                    '--dtype', 'bf16', '--finalists', 1)
    assert done.code == 0, done.error
    assert 'was evaluated in bf16' not in done.output  # as latency was measured
    summary = summary_of(tmp_path)
    assert summary.identity['evaluated in'] == 'bf16'
    macs = {scale: [c.macs for c in summary.evaluated if image_scale(c.config) == scale]
            for scale in (1, .5)}
    assert 0 < min(macs[.5]) and max(macs[.5]) < max(macs[1]) / 3
    winner = load_config(str(tmp_path / 'winner.py'))
    own, factor = load_config(str(tiny.config)), image_scale(summary.finalists[0].candidate.config)
    assert input_shape(winner) == tuple(factor * side for side in input_shape(own))


@pytest.mark.parametrize('knob, message', [
    ('image_scale=1,.99', 'two scales give the same size'),
    ('image_scale=1,0', 'not all positive factors'), ('image_scale=1,1.0', '[1, 1.0]')])
def test_image_sizes_that_are_none_are_refused(tiny, tmp_path, knob, message):
    assert message in refused('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir',
                              tmp_path, *FEW, '--max-latency', '90%', '--knob', knob)
