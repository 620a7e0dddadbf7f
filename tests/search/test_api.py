"""The search as a Python function."""
import json
import os
import re

import pytest
from helpers import toy_config
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import save_checkpoint

from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost.latency import LatencySetting
from sparsevit_mm.evaluation.evaluator import Evaluation
from sparsevit_mm.report.console import show_search
from sparsevit_mm.report.source import read_search
from sparsevit_mm.search import SearchResult, Watch, api, search
from sparsevit_mm.search.limits import Limits

SETTING = LatencySetting((16, 16), num_threads=1)
FEW = dict(metric='toy/output', rounds=1, num_trials=12, setting=SETTING)


class Heard(Watch):

    def __init__(self):
        self.calls = []

    def __getattribute__(self, name):
        if name in vars(Watch) and not name.startswith('_'):
            return lambda *_: self.calls.append(name)
        return super().__getattribute__(name)


@pytest.fixture
def toy(tmp_path):
    """Path of a config and of a checkpoint."""
    cfg = toy_config(tmp_path / 'work')
    cfg.dump(tmp_path / 'toy.py')
    save_checkpoint(dict(state_dict=MODELS.build(cfg.model).state_dict()),
                    str(tmp_path / 'toy.pth'))
    return str(tmp_path / 'toy.py'), str(tmp_path / 'toy.pth')


def test_it_returns_what_the_tool_prints(toy, tmp_path):
    watch = Heard()
    result = search(*toy, '500%', work_dir=tmp_path / 's', watch=watch, **FEW)
    assert isinstance(result, SearchResult) and result.work_dir == tmp_path / 's'
    assert result.winner.name == 'winner' and result.winner.measured <= result.limits.max_latency
    assert len(result.summary.evaluated) == 12 and result.summary.dense.config.is_dense
    written = Config.fromfile(result.configs['winner']).model.backbone
    assert MODELS.build(written).sparsity == result.winner.candidate.config
    assert {'say', 'prepared', 'candidate', 'ended'} <= set(watch.calls)
    more = search(*toy, '500%', work_dir=tmp_path / 's', resume=True, overwrite=True,
                  **{**FEW, 'num_trials': 14})
    assert len(more.summary.evaluated) == 14


def test_a_config_as_it_was_read_is_its_file(toy, tmp_path):
    cfg = Config.fromfile(toy[0])
    result = search(cfg, toy[1], 1e6, work_dir=tmp_path / 's', **FEW)
    assert result.configs['winner'].is_file()
    cfg.model.backbone.importance = 'l2'
    with pytest.raises(ValueError, match=f'Config.*{cfg.filename}.*options'):
        search(cfg, toy[1], 1e6, work_dir=tmp_path / 't', **FEW)
    with pytest.raises(ValueError, match='the Config .*Config.dump'):
        search(Config(cfg.to_dict()), toy[1], 1e6, work_dir=tmp_path / 't', **FEW)


@pytest.mark.parametrize('limits, of', [
    (dict(max_latency='30ms'), 'model'), (dict(max_latency='70%'), 'backbone'),
    (dict(pareto=True, points=['70%']), 'backbone'), (dict(pareto=True, points=['30']), 'model'),
    (dict(pareto=True, points=['70%'], max_latency=30), 'model'),
    (dict(pareto=True, points=['70%'], min_latency='10ms'), 'model'),
    (dict(pareto=True, points=['70%'], max_latency='90%', min_latency='0'), 'backbone')])
def test_milliseconds_are_of_the_whole_model(toy, tmp_path, monkeypatch, limits, of):
    monkeypatch.setattr(api, '_run', lambda cfg, request, watch: request)
    assert search(*toy, work_dir=tmp_path / 's', **{**FEW, **limits}).setting.of == of


def test_what_makes_no_search_is_refused(toy, tmp_path):
    with pytest.raises(ValueError, match='max_latency'):
        search(*toy, work_dir=tmp_path / 's', **FEW)
    with pytest.raises(ValueError, match="'nan' is neither"):
        search(*toy, 'nan', work_dir=tmp_path / 's', **FEW)


@pytest.mark.parametrize('given, expected', [
    (dict(num_trials=None, num_samples=None), (40, 200)), (dict(num_trials=7), (7, 200))])
def test_a_calibration_has_its_own_numbers_unless_told(toy, monkeypatch, given, expected):
    asked = []
    monkeypatch.setattr(api, '_run', lambda cfg, request, watch: asked.append(request))
    search(*toy, calibrate=True, setting=SETTING, **given)
    request, = asked
    assert request.pareto and (request.num_trials, request.num_samples) == expected


@pytest.mark.parametrize('latency', ['30ms', '30', 30, 30.])
def test_latencies_are_text_or_numbers(toy, monkeypatch, latency):
    asked = []
    monkeypatch.setattr(api, '_run', lambda cfg, request, watch: asked.append(request))
    search(*toy, latency, setting=SETTING)
    assert asked[0].limits.max_latency == 30


def test_a_work_directory_behind_a_link(toy, tmp_path, monkeypatch):
    (tmp_path / 'proj').mkdir()
    (tmp_path / 'disk/deep/er').mkdir(parents=True)
    monkeypatch.chdir(tmp_path / 'proj')
    (tmp_path / 'proj/work_dirs').symlink_to('../disk/deep/er')
    os.rename(toy[0], tmp_path / 'proj/toy.py')
    result = search('toy.py', toy[1], '500%', work_dir='work_dirs/s1', **FEW)
    winner = load_config(str(result.configs['winner']))
    assert winner.model.backbone.sparsity == result.winner.candidate.config.to_list()
    winners = json.loads((tmp_path / 'proj/work_dirs/s1/search.json').read_text())['winners']
    assert os.path.isfile(os.path.join('work_dirs/s1', winners['winner']))


@pytest.mark.parametrize('name', ['a?b', *(
    pytest.param(name, marks=pytest.mark.slow) for name in ('a%20b', 'a b', 'a#b', '{a}'))])
def test_a_work_directory_of_any_name_has_its_own_study(toy, tmp_path, name):
    for folder in ('a b', 'a'):  # what a pasted URL would lead to
        (tmp_path / folder).mkdir(exist_ok=True)
    result = search(*toy, '500%', work_dir=tmp_path / name, **FEW)
    assert {p.name for p in tmp_path.rglob('*.db')} == {'search.db'}
    assert [p.parent.name for p in tmp_path.rglob('search.db')] == [name]
    assert read_search(tmp_path / name).summary.study == result.summary.study


def test_a_misspelt_metric_is_told_before_anything_is_evaluated(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(Evaluation, '__call__', lambda *_: pytest.fail('evaluated'))
    with pytest.raises(ValueError, match="'toy/outptu', .*toy/sparsity"):
        search(*toy, '500%', work_dir=tmp_path / 's', **{**FEW, 'metric': 'toy/outptu'})
    assert not list(tmp_path.rglob('search.json'))


def test_a_config_without_a_training_part_gets_its_winner(toy, tmp_path):
    """As a deployment's."""
    cfg = Config.fromfile(toy[0])
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        cfg.pop(key)
    cfg.dump(tmp_path / 'deploy.py')
    result = search(str(tmp_path / 'deploy.py'), toy[1], '500%', work_dir=tmp_path / 's', **FEW)
    winner = load_config(str(result.configs['winner']))
    assert winner.model.backbone.sparsity == result.winner.candidate.config.to_list()
    assert '# no schedule' in result.configs['winner'].read_text()


def test_a_model_that_pruning_slows_down_is_told_so():
    with pytest.raises(ValueError, match='--max-latency 1 ms: .*11.2 ms .*13.0 ms: pruning saves '
                                         'nothing'):
        Limits(max_latency=1).check_reachable(13., 11.2, 0)


@pytest.mark.parametrize('dtype, evaluated, said', [
    ('bf16', 'fp32', True), ('bf16', None, False), ('fp32', None, False)])
def test_the_metric_is_of_the_precision_of_the_latency_or_another_is_said(
        toy, tmp_path, capsys, dtype, evaluated, said):
    setting = LatencySetting((16, 16), dtype=dtype, num_threads=1)
    result = search(*toy, '500%', work_dir=tmp_path / 's', eval_dtype=evaluated,
                    **{**FEW, 'setting': setting})
    show_search(result)
    text = 'bf16, eager; toy/output was evaluated in fp32, eager'
    assert (text in capsys.readouterr().out) == said
    assert f'evaluated in {evaluated or dtype}' in result.configs['winner'].read_text()


def test_where_the_time_of_a_search_went_is_said(toy, tmp_path, capsys):
    result = search(*toy, '500%', work_dir=tmp_path / 's', **FEW)
    spent = result.spent
    assert min(spent['evaluation'], spent['latency']) > 0
    assert spent['evaluation'] + spent['latency'] < spent['all']
    show_search(result)
    shares = re.search(r'the candidates took \d+ s: evaluation ([\d.]+)%, latency ([\d.]+)%, '
                       r'the rest ([\d.]+)%', capsys.readouterr().out).groups()
    assert sum(map(float, shares)) == pytest.approx(100, abs=.2)


def test_a_precision_that_is_none_is_refused(toy, tmp_path):
    with pytest.raises(ValueError, match="--eval-dtype 'fp8' .*fp32, fp16, bf16"):
        search(*toy, '500%', work_dir=tmp_path / 's', eval_dtype='fp8', **FEW)
