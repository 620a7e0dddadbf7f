import argparse
import json
import sys

import arguments as tool_arguments
import numpy as np
import pytest
import torch
from helpers import BACKBONE, toy_config
from mmengine.config import Config
from mmengine.runner import Runner

from sparsevit_mm import cli
from sparsevit_mm.config import building
from sparsevit_mm.config.data import input_shape
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost.latency import LatencySetting


def test_shape_of(*pipeline, wrapped=0, split='test'):
    dataset = dict(type='CocoDataset', pipeline=list(pipeline))
    for _ in range(wrapped):
        dataset = dict(type='RepeatDataset', dataset=dataset)
    return input_shape(Config({f'{split}_dataloader': dict(dataset=dataset)}))


test_shape_of.__test__ = False
LOAD = dict(type='LoadImageFromFile')


@pytest.mark.parametrize('split', ['test', 'val'])
@pytest.mark.parametrize('wrapped', [0, 2])
@pytest.mark.parametrize('resize, shape', [
    (dict(scale=(1333, 800)), (800, 1333)),
    (dict(scale=(800, 1333)), (1333, 800)),
    (dict(scale=(1333, 800), keep_ratio=True), (800, 1333)),
    (dict(scale=(800, 1333), keep_ratio=True), (800, 1333)),
    (dict(scale=(672, 672), keep_ratio=False), (672, 672)),
    (dict(scale=640), (640, 640))])
def test_shape_is_what_the_pipeline_resizes_to(resize, shape, wrapped, split):
    assert test_shape_of(LOAD, dict(type='Resize', **resize), dict(type='PackDetInputs'),
                         wrapped=wrapped, split=split) == shape


def test_shape_of_several_cameras_is_what_their_augmentation_makes():
    assert test_shape_of(dict(type='LoadCameras'), dict(
        type='ImageAugmentation', size=(256, 704)), dict(type='Pack3DDetInputs')) == (256, 704)


@pytest.mark.parametrize('pipeline', [[LOAD], [LOAD, dict(type='Resize', scale_factor=.5)]])
def test_pipeline_without_a_size_asks_for_the_shape(pipeline):
    with pytest.raises(ValueError, match='--shape'):
        test_shape_of(*pipeline)
    with pytest.raises(ValueError, match='--shape'):
        input_shape(Config({}))


def latency_setting(*arguments, cfg=None):
    parser = argparse.ArgumentParser()
    tool_arguments.add_latency_arguments(parser)
    return cli.latency_setting(parser.parse_args(arguments), Config(cfg or {}))


def test_shape_given_stands_in_for_the_pipeline():
    setting = latency_setting('--shape', '64', '96', '--batch-size', '3', '--dtype', 'bf16',
                              '--device', 'cpu', '--threads', '1')
    assert (setting.shape, setting.batch_size, setting.dtype, setting.num_threads) == (
        (64, 96), 3, 'bf16', 1)


@pytest.mark.parametrize('arguments, named', [
    ([], '--shape'),
    (['--shape', '0', '64'], 'shape .0, 64. is not two positive'),
    (['--shape', '64', '64', '--batch-size', '0'], 'batch size 0'),
    (['--shape', '64', '64', '--threads', '-1'], '-1 threads'),
    (['--shape', '64', '64', '--device', 'abacus'], "device 'abacus'")])
def test_unusable_latency_setting_is_a_value_error(arguments, named):
    with pytest.raises(ValueError, match=named):
        latency_setting(*arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without CUDA')
def test_cuda_and_amp_are_refused_where_there_is_no_cuda():
    with pytest.raises(ValueError, match='device cuda: .*no CUDA'):
        latency_setting('--shape', '64', '64', '--device', 'cuda')
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper')))
    with pytest.raises(ValueError, match='AmpOptimWrapper.*CPU'):
        building.use_amp(cfg)
    assert cfg.optim_wrapper.type == 'OptimWrapper'


def test_amp_asks_for_mmengines_wrapper_with_dynamic_loss_scale(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper', optimizer=dict(lr=1))))
    building.use_amp(cfg)
    assert cfg.optim_wrapper == dict(
        type='AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(lr=1))


def test_faults_of_the_program_keep_their_traceback():
    with pytest.raises(KeyError), cli.clear_errors():
        raise KeyError('bug')


def config_from(tmp_path, *arguments, text='model = dict(a=1)', launcher=True):
    (tmp_path / 'name.py').write_text(text)
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    tool_arguments.add_runner_arguments(parser, launcher)
    return cli.config_from(parser.parse_args([str(tmp_path / 'name.py'), *arguments]))


def test_work_dir_is_the_flag_then_the_config_then_its_name(tmp_path):
    own = "work_dir = 'own'"
    assert config_from(tmp_path, '--work-dir', 'flag', text=own).work_dir == 'flag'
    assert config_from(tmp_path, text=own).work_dir == 'own'
    assert config_from(tmp_path).work_dir == 'work_dirs/name'


def test_options_and_launcher_reach_the_config(tmp_path, monkeypatch):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    cfg = config_from(tmp_path, '--cfg-options', 'model.a=[2,3]', 'new.b=x', '--launcher',
                      'pytorch', '--local-rank', '4')
    assert cfg.model.a == [2, 3] and cfg.new.b == 'x' and cfg.launcher == 'pytorch'
    assert cli.os.environ['LOCAL_RANK'] == '4'
    assert 'launcher' not in config_from(tmp_path, launcher=False)


def test_backbone_is_built_alone_and_without_its_pretrained_weights():
    node = dict(BACKBONE, sparsity=.5, init_cfg=dict(type='Pretrained', checkpoint='nowhere'))
    cfg = Config(dict(model=dict(type='Unknown', parts=[dict(backbone=node)])))
    backbone = building.build_backbone(cfg)
    assert backbone.depths == (2, 2) and backbone.sparsity.mean == .5
    assert backbone.init_cfg is None and cfg.model.parts[0].backbone.init_cfg is not None


def test_runner_type_of_the_config_is_respected(tmp_path):
    from mmengine.registry import RUNNERS

    @RUNNERS.register_module(force=True)
    class OwnRunner(Runner):
        pass

    assert type(building.build_runner(toy_config(tmp_path))) is Runner
    assert type(building.build_runner(toy_config(tmp_path, runner_type='OwnRunner'))) is OwnRunner
    assert 'torch.distributed' in sys.modules and not torch.distributed.is_initialized()


def meant(kind=ValueError):
    raise kind('--rounds 0: at least one is needed')


@pytest.mark.parametrize('raises', [
    lambda: LatencySetting((0, 1)), lambda: load_config('nowhere.py')])
def test_what_the_package_raises_is_one_line(raises):
    with pytest.raises(SystemExit) as ended, cli.clear_errors():
        raises()
    assert str(ended.value).startswith('error: ') and '\n' not in str(ended.value)
    with pytest.raises((ValueError, FileNotFoundError)), cli.clear_errors(show_traceback=True):
        raises()


@pytest.mark.parametrize('raises', [
    lambda: torch.zeros(2).unflatten(0, (3, -1)).tolist(), lambda: np.zeros(3).reshape(2, 2),
    lambda: int('x'), lambda: open('nowhere'), lambda: json.loads('{'), meant])
def test_what_others_raise_or_nobody_meant_keeps_its_trace(raises):
    with pytest.raises((ValueError, RuntimeError, FileNotFoundError)), cli.clear_errors():
        raises()
