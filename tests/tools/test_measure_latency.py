import itertools
import re
from unittest import mock

import pytest
from helpers import ROOT, refused, run_tool

from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost import runs
from sparsevit_mm.cost.latency import LatencySetting
from sparsevit_mm.cost.macs import backbone_macs
from sparsevit_mm.cost.table import LatencyTable

CONFIG = ROOT / 'demo/configs/mask_rcnn_sparsevit-narrow_mini_coco.py'
QUICK = ['--rounds', 1, '--threads', 1]


def table_of(*arguments, config=CONFIG, **options):
    """Title of the table that the tool prints, and its cells by the first of each row."""
    outcome = run_tool('measure_latency', config, *QUICK, *arguments, **options)
    assert outcome.code == 0, outcome.error
    rows = [[cell.strip() for cell in re.split('[│┃]', line)[1:-1]]
            for line in outcome.output.splitlines() if '│' in line]
    return outcome.output, {row[0]: row[1:] for row in rows}


def test_dense_comes_first_and_is_what_ratios_are_to():
    _, table = table_of('--shape', 64, 64)
    assert list(table) == ['dense', 'uniform 0.3', 'uniform 0.6', 'uniform 0.8']
    assert table['dense'][-1] == '1.000'
    for macs, median, quartiles, ratio in table.values():
        assert re.fullmatch(r'[\d.]+ G', macs) and re.fullmatch(r'[\d.]+ ms', median)
        assert re.fullmatch(r'[\d.]+ to [\d.]+', quartiles) and float(ratio) > 0


@pytest.mark.parametrize('flags, counted', [([], False), (['--count-padding'], True)])
def test_macs_are_those_of_the_shape_batch_and_convention(flags, counted):
    backbone = build_backbone(load_config(str(CONFIG)))
    _, table = table_of('--shape', 420, 300, '--batch-size', 2, '--sparsity', '0.6', *flags)
    macs = [backbone_macs(backbone, (420, 300), 2, s, counted) for s in (0, .6)]
    assert [row[0] for row in table.values()] == [f'{m / 1e9:.2f} G' for m in macs]
    assert macs[0] != backbone_macs(backbone, (420, 300), 2, 0, not counted)


def test_images_that_share_a_budget_are_measured_by_the_batch():
    """A bare backbone is told no group size: the batch is the group unless the config names one."""
    given = ['--shape', 64, 64, '--sparsity', '0.6', '--batch-size', 3]
    _, alone = table_of(*given)
    _, table = table_of(*given, model__backbone__scope='group')
    assert [row[0] for row in table.values()] == [row[0] for row in alone.values()]
    message = refused('measure_latency', CONFIG, *QUICK, *given, model__backbone__scope='group',
                      model__backbone__group_size=2)
    assert 'a batch of 3 images' in message and 'group size, 2' in message


def test_setting_is_in_the_title_and_the_shape_is_the_test_pipelines():
    text, _ = table_of('--sparsity', '0.5', '--dtype', 'bf16')
    assert 'batch 1 of 192x192, bf16' in ' '.join(text.split())


def test_captured_execution_without_cuda_is_refused():
    assert 'captured execution needs CUDA' in refused(
        'measure_latency', CONFIG, *QUICK, '--device', 'cpu', '--execution', 'captured')


def test_configurations_may_be_given_in_any_form():
    _, table = table_of('--shape', 64, 64, '--sparsity', '0.5', '[[.2,.2],[0,0],[0,0],[0,0]]',
                        '[.1,.1,.1,.1]')
    assert len(table) == 4 and {'dense', 'uniform 0.5', 'uniform 0.1'} < set(table)


def test_config_with_a_sparsity_of_its_own_shows_it():
    config = ROOT / 'configs/sparsevit/mask_rcnn_sparsevit_cfg2.py'
    _, table = table_of('--shape', 32, 32, config=config)
    assert list(table)[0] == 'dense' and len(table) == 5
    assert any(label.startswith('0.6 | 0 |') for label in table)


def test_toolkits_config_without_a_sparse_backbone_is_refused_with_its_backbones():
    message = refused('measure_latency', 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    assert 'model.backbone (ResNet)' in message


@pytest.mark.parametrize('arguments, named', [
    (['--sparsity', '1.2'], 'stage 0, block 0'), (['--shape', 0, 5], 'shape'),
    (['--rounds', 0], 'rounds'), (['--device', 'abacus'], 'abacus')])
def test_unusable_arguments_are_refused_by_name(arguments, named):
    assert named in refused('measure_latency', CONFIG, *arguments)


def test_unknown_dtype_is_a_usage_error():
    outcome = run_tool('measure_latency', CONFIG, '--dtype', 'int8')
    assert outcome.code == 2 and 'int8' in outcome.error


def quick_table(monkeypatch):
    """Real forward passes, of which the budget sees a second for each look at the clock."""
    monkeypatch.setattr(runs, 'clock', itertools.count().__next__)
    monkeypatch.setattr(runs, 'FITS', 8)
    monkeypatch.setattr(runs, 'CHECKS', 4)


def test_table_is_measured_shown_and_written_over_no_file_unasked(tmp_path, monkeypatch):
    quick_table(monkeypatch)
    path = tmp_path / 'table.json'
    path.write_text('mine')
    arguments = [CONFIG, *QUICK, '--shape', 112, 112, '--table', path, '--budget', 60]
    message = refused('measure_latency', *arguments)
    assert str(path) in message and '--overwrite' in message
    assert path.read_text() == 'mine'
    outcome = run_tool('measure_latency', *arguments, '--overwrite')
    assert outcome.code == 0, outcome.error
    table = LatencyTable.load(path)
    table.require(build_backbone(load_config(str(CONFIG))),
                  LatencySetting((112, 112), num_threads=1))
    assert f'check {table.check}' in outcome.output
    assert f'dense {table.dense:.2f} ms' in outcome.output
    rows = [line for line in outcome.output.splitlines() if line.startswith('│')]
    assert len(rows) == len(table.choices)
    assert f'{table.predict([0, .8, 0, 0]):.2f}' in rows[-1]
    assert 'plateaus of stage 3' in outcome.output


def test_measurement_that_fails_or_is_killed_leaves_no_file(tmp_path, monkeypatch):
    arguments = [CONFIG, *QUICK, '--shape', 112, 112, '--table', tmp_path / 'table.json']
    assert '0.01 s are not enough for' in refused('measure_latency', *arguments,
                                                  '--budget', .01)
    killed = mock.Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr('sparsevit_mm.cost.latency.LatencyMeter.once', killed)
    with pytest.raises(KeyboardInterrupt):
        run_tool('measure_latency', *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('arguments, named', [
    (['--budget', 0], 'budget is 0'), (['--budget', 'nan'], 'budget is nan'),
    (['--shape', 32, 32], 'fewer than 20 configurations differ')])
def test_table_that_can_not_be_measured_is_refused(tmp_path, arguments, named):
    assert named in refused('measure_latency', CONFIG, *QUICK, '--shape', 112, 112,
                            '--table', tmp_path / 'table.json', *arguments)


def test_table_without_a_folder_to_go_to_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / 'none' / 'table.json'):
        assert f'--table {path}' in refused('measure_latency', CONFIG, *QUICK, '--table', path)
