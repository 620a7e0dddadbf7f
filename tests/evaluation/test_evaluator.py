import multiprocessing
from copy import deepcopy

import pytest
import torch
from helpers import ToyMetric, toy_config, train_toy, unique_name, weight_of
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import METRICS
from mmengine.runner import Runner

from sparsevit_mm.config.building import build_runner
from sparsevit_mm.evaluation.evaluator import Evaluator


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Checkpoint of a run that mmengine wrote, and the weights in it."""
    folder = tmp_path_factory.mktemp('trained')
    runner, _ = train_toy(folder)
    return str(folder / 'iter_6.pth'), weight_of(runner.model)


@pytest.fixture
def evaluator(trained, tmp_path):
    return Evaluator(toy_config(tmp_path, randomness=dict(seed=99)), trained[0])


def test_every_evaluation_has_the_weights_of_the_checkpoint(evaluator, trained):
    weights = [evaluator.evaluate(s)['toy/weight'] for s in (.5, 0, .5)]
    assert weights == pytest.approx([trained[1]] * 3, rel=1e-9)


def test_metrics_are_those_at_the_configuration_in_any_order(evaluator):
    asked = [.5, 0, [[.2, .2], .6], .5, 0]
    metrics = [evaluator.evaluate(s) for s in asked]
    assert [m['toy/sparsity'] for m in metrics] == pytest.approx([.5, 0, .4, .5, 0])
    assert metrics[0] == metrics[3] and metrics[1] == metrics[4]
    assert len({m['toy/output'] for m in metrics}) == 3


def test_metrics_equal_those_of_a_runner_of_its_own(evaluator, trained, tmp_path):
    evaluator.evaluate(.1)
    cfg = toy_config(tmp_path / 'own', load_from=trained[0])
    cfg.model.backbone.sparsity = .6
    assert evaluator.evaluate(.6) == build_runner(cfg).val()


def test_runner_is_built_and_loaded_once(trained, tmp_path, monkeypatch):
    built, loaded = [], []
    load = Runner.load_checkpoint

    def build(cfg):
        built.append(cfg)
        return build_runner(cfg)

    monkeypatch.setattr(Runner, 'load_checkpoint', lambda self, path, *args, **kwargs: (
        loaded.append(path), load(self, path, *args, **kwargs))[1])
    evaluator = Evaluator(toy_config(tmp_path), trained[0], build)
    for sparsity in (0, .3, .6):
        evaluator.evaluate(sparsity)
    assert len(built) == 1 and loaded == [trained[0]]


def fewer(cfg, length=3, **loader):
    """The config with other val data."""
    cfg = deepcopy(cfg)
    cfg.val_dataloader.update(loader)
    cfg.val_dataloader.dataset.length = length
    return cfg


def own_metrics(cfg, checkpoint, sparsity):
    """Of a Runner made for them alone."""
    cfg = deepcopy(cfg)
    cfg.load_from, cfg.experiment_name = checkpoint, unique_name()
    cfg.model.backbone.sparsity = sparsity
    return build_runner(cfg).val()


def test_other_data_score_as_a_run_of_their_own_whichever_comes_first(trained, tmp_path):
    cfg = toy_config(tmp_path)
    small = fewer(cfg)
    expected = dict(main=own_metrics(cfg, trained[0], .6), look=own_metrics(small, trained[0], .6))
    assert expected['main'] != expected['look']
    for turns in (['look', 'main'], ['main', 'look']):
        evaluator = Evaluator(cfg, trained[0])
        evaluate = dict(main=evaluator.evaluate, look=evaluator.on(small))
        for name in turns + turns:
            evaluate[name](0)
            assert evaluate[name](.6) == expected[name]


def test_each_set_of_data_has_a_metric_of_its_own_and_stays_as_it_was_given(trained, tmp_path):
    cfg = toy_config(tmp_path)
    small = fewer(cfg)
    before = deepcopy(small).to_dict()
    evaluator = Evaluator(cfg, trained[0])
    look, other = evaluator.on(small), evaluator.on(small)
    assert small.to_dict() == before
    metrics = [evaluator.metric, look.metric, other.metric]
    assert len(set(map(id, metrics))) == 3
    sizes = {id(metric): [] for metric in metrics}
    for metric in metrics:
        metric.compute_metrics = lambda results, key=id(metric): (
            sizes[key].append(len(results)), {})[1]
    small.val_dataloader.dataset.length = 5  # too late
    evaluator.evaluate(0), look(0), look(0), evaluator.evaluate(.5)
    assert list(sizes.values()) == [[8, 8], [3, 3], []]
    assert evaluator.metric is evaluator.runner.val_evaluator.metrics[0]


def test_hooks_see_a_validation_on_the_data_evaluated_and_the_main_ones_after_it(
        trained, tmp_path):
    seen = []

    class Looks(Hook):

        def before_run(self, runner):
            seen.append(['run'])

        def before_val(self, runner):
            seen.append(['before', len(runner.val_dataloader.dataset)])

        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen[-1].append(batch_idx)

        def after_val_epoch(self, runner, metrics=None):
            seen.append(['after', len(runner.val_dataloader.dataset), metrics['toy/sparsity']])

    cfg = toy_config(tmp_path, log_level='INFO')
    evaluator = Evaluator(cfg, trained[0])
    evaluator.runner.register_hook(Looks())
    evaluator.on(fewer(cfg))(.5)
    assert len(evaluator.runner.val_dataloader.dataset) == 8
    evaluator.evaluate(0)
    assert seen == [['run'], ['before', 3, 0, 1], ['after', 3, .5],
                    ['before', 8, 0, 1, 2, 3], ['after', 8, 0]]  # all in one run
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert '[2/2]' in log and '[4/4]' in log


def test_data_that_fail_leave_the_main_ones_in_place(trained, tmp_path):
    cfg = toy_config(tmp_path)
    evaluator = Evaluator(cfg, trained[0])
    broken = evaluator.on(fewer(cfg, sampler=dict(type='NoSuchSampler')))
    expected = evaluator.evaluate(.5)
    with pytest.raises(KeyError, match='NoSuchSampler'):
        broken(0)
    failing = evaluator.on(cfg)
    failing.metric.process = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        failing(0)
    assert evaluator.runner.val_evaluator.metrics[0] is evaluator.metric
    assert evaluator.evaluate(.5) == expected


def test_worker_processes_of_other_data_end_with_each_evaluation(trained, tmp_path):
    cfg = toy_config(tmp_path)
    evaluator = Evaluator(cfg, trained[0])
    look = evaluator.on(fewer(cfg, num_workers=1, persistent_workers=True))
    before = set(multiprocessing.active_children())
    assert look(0)['toy/sparsity'] == 0
    assert set(multiprocessing.active_children()) <= before


def test_every_nuscenes_metric_accepts_any_predictions(trained, tmp_path, monkeypatch):
    accepted = []
    monkeypatch.setattr('sparsevit_mm.evaluation.evaluator.accept_any_predictions', accepted.append)
    cfg = toy_config(tmp_path, val_evaluator=[dict(type='ToyMetric'), dict(type='NuScenesMetric')])
    METRICS.register_module('NuScenesMetric', module=type('NuScenesMetric', (ToyMetric, ), {}))
    try:
        evaluator = Evaluator(cfg, trained[0])
        evaluator.on(cfg)
    finally:
        METRICS.module_dict.pop('NuScenesMetric')
    assert [type(metric).__name__ for metric in accepted] == ['NuScenesMetric'] * 2
    assert accepted[0] is evaluator.runner.val_evaluator.metrics[1] is not accepted[1]


def test_config_given_is_left_alone(trained, tmp_path):
    cfg = toy_config(tmp_path, load_from='other.pth', resume=True)
    before = deepcopy(cfg).to_dict()
    Evaluator(cfg, trained[0]).evaluate(.5)
    assert cfg.to_dict() == before


@pytest.mark.parametrize('change, named', [
    (lambda state: state.pop('backbone.norm0.weight'), ['missing: backbone.norm0.weight']),
    (lambda state: state.update(extra=torch.zeros(1)), ['unexpected: extra']),
    (lambda state: state.update({'backbone.norm0.weight': torch.zeros(5)}),
     ['backbone.norm0.weight: (5,) in the file, (8,) in the model'])])
def test_checkpoint_that_does_not_fit_is_refused_before_any_evaluation(
        trained, tmp_path, change, named):
    checkpoint = torch.load(trained[0])
    change(checkpoint['state_dict'])
    torch.save(checkpoint, tmp_path / 'changed.pth')
    with pytest.raises(ValueError) as error:
        Evaluator(toy_config(tmp_path), str(tmp_path / 'changed.pth'))
    assert all(text in str(error.value) for text in ['changed.pth', *named])


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.pth'):
        Evaluator(toy_config(tmp_path), str(tmp_path / 'nowhere.pth'))


def test_console_is_left_alone_and_the_log_file_is_not(trained, tmp_path, capsys):
    evaluator = Evaluator(toy_config(tmp_path, log_level='INFO'), trained[0])
    capsys.readouterr()
    evaluator.evaluate(.5)
    MMLogger.get_current_instance().info('a line for the file')
    console = ''.join(capsys.readouterr())
    assert 'INFO' not in console and 'toy/' not in console
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'a line for the file' in log and 'toy/sparsity' in log


def test_candidates_leave_no_checkpoint_and_need_no_training_data(trained, tmp_path):
    """Configs of mm save the best model of a training by its validations."""
    best = dict(type='CheckpointHook', by_epoch=False, interval=3, save_best='toy/output',
                rule='greater')
    cfg = toy_config(tmp_path, custom_hooks=[
        dict(type='EarlyStoppingHook', monitor='toy/output'), dict(type='EMAHook')])
    cfg.default_hooks.checkpoint = best
    cfg.train_dataloader.dataset = dict(type='NoSuchDataset')
    evaluator = Evaluator(cfg, trained[0])
    for sparsity in (0, .5, .3):
        assert evaluator.evaluate(sparsity)['toy/sparsity'] == pytest.approx(sparsity)
    assert not list(tmp_path.rglob('*.pth'))
    names = [type(hook).__name__ for hook in evaluator.runner.hooks]
    assert 'EMAHook' in names and 'LoggerHook' in names
