import json
import os
import socket

import pytest
import torch
import torch.multiprocessing as mp
from helpers import Spy, toy_config, train_toy, weight_of
from mmengine.logging import HistoryBuffer
from standing import ready
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import distributed as dist

from sparsevit_mm import SparsityAdaptationHook, SparsityConfig
from sparsevit_mm.config.building import build_runner

HOOK = dict(type='SparsityAdaptationHook', seed=3)
NONE = HistoryBuffer()
BY_EPOCH = dict(
    train_cfg=dict(by_epoch=True, max_epochs=3),
    default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
    log_processor=dict(by_epoch=True))


@pytest.mark.parametrize('how, around', [({}, None), (BY_EPOCH, [.6, [.1, .3]])], ids=[
    'by iteration, over the space', 'by epoch, around a list'])
def test_resumed_run_draws_what_the_unbroken_one_drew(tmp_path, how, around):
    custom_hooks = [dict(HOOK, around=around)]
    runner, whole = train_toy(tmp_path / 'whole', custom_hooks=custom_hooks, **how)
    checkpoint = sorted((tmp_path / 'whole').glob('*_[13].pth'))[0]
    _, resumed = train_toy(tmp_path / 'resumed', custom_hooks=custom_hooks, resume=True,
                           load_from=str(checkpoint), **how)
    half = {i: whole.draws[i] for i in resumed.draws}
    assert 0 < len(half) < len(whole.draws)
    assert resumed.draws == half
    assert len(set(whole.draws.values())) > 1  # or any draw would do
    assert list(whole.draws.values()) == [ready((2, 2), seed=3, around=around).draw(i)
                                          for i in range(runner.iter)]


LEARNING = dict(distillation=1., dense_share=.3)


def _train_rank(rank, port, folder, learning):
    """One of two processes: trains, then writes what it drew, read and computed."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2',
                      MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    config = toy_config(folder, custom_hooks=[dict(HOOK, **learning)], launcher='pytorch')
    if learning:
        config.model.backbone.importance = 'learned'
    runner, spy = build_runner(config), Spy()
    assert not runner.model.find_unused_parameters
    heads = [p.detach().clone() for name, p in runner.model.named_parameters()
             if 'importance' in name]
    runner.register_hook(spy)
    gradients = []
    update = runner.build_optim_wrapper(runner.optim_wrapper)
    update.optimizer.register_step_pre_hook(lambda optimizer, *_: gradients.append(
        [p.grad.tolist() for group in optimizer.param_groups for p in group['params']]))
    runner.optim_wrapper = update
    runner.train()
    (folder / f'{rank}.json').write_text(json.dumps(dict(
        world_size=dist.get_world_size(), backend=dist.get_backend(),
        draws=[d.to_list() for d in spy.draws.values()], inputs=spy.inputs, gradients=gradients,
        weight=weight_of(runner.model), heads_moved=[not torch.equal(p, old) for p, old in zip(
            (p for name, p in runner.model.named_parameters() if 'importance' in name), heads)],
        taught=len(runner.message_hub.log_scalars.get('train/loss_distillation', NONE).data[0]))))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize('learning', [{}, LEARNING], ids=['plain', 'learned, taught'])
def test_two_processes_draw_the_same_and_step_together(tmp_path, learning):
    """Every parameter has a gradient at every step, as DDP wants it, in dense ones too."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    mp.start_processes(_train_rank, (port, tmp_path, learning), nprocs=2, start_method='spawn')
    first, second = (json.loads((tmp_path / f'{rank}.json').read_text()) for rank in (0, 1))
    assert first['world_size'] == 2 and first['backend'] == 'gloo'
    assert len(first['draws']) == 6 and first['draws'] == second['draws']
    assert not set(first['inputs']) & set(second['inputs'])  # each rank saw its own images
    assert len(first['gradients']) == 6 and first['gradients'] == second['gradients']
    assert first['weight'] == second['weight']
    assert first['heads_moved'] == ([True, True] if learning else [])
    pruned = sum(any(map(any, draw)) for draw in first['draws'])
    assert first['taught'] == second['taught'] == (pruned if learning else 0)
    assert pruned < 6 or not learning


def test_validation_is_dense_unless_told_otherwise(tmp_path):
    _, spy = train_toy(tmp_path, custom_hooks=[HOOK])
    assert [m['toy/sparsity'] for m in spy.metrics] == [0, 0]
    assert all(draw.mean > 0 for draw in spy.draws.values())


def test_validation_runs_at_every_named_configuration_with_the_averaged_weights(tmp_path):
    named = dict(dense=0, middling=[.2, .4], sparse=.6)
    runner, spy = train_toy(tmp_path, custom_hooks=[
        dict(HOOK, val_sparsity=named), dict(type='EMAHook', momentum=.5)])
    ema = weight_of(next(h for h in runner.hooks if type(h).__name__ == 'EMAHook').ema_model.module)
    metrics = spy.metrics[-1]
    sparsities = [metrics[f'{prefix}toy/sparsity'] for prefix in ('', 'middling/', 'sparse/')]
    assert sparsities == pytest.approx([0, .3, .6])
    weights = [metrics[f'{prefix}toy/weight'] for prefix in ('', 'middling/', 'sparse/')]
    assert weights == pytest.approx([ema] * 3, rel=1e-9)
    assert weight_of(runner.model) != pytest.approx(ema, rel=1e-9)
    assert len({metrics[f'{prefix}toy/output'] for prefix in ('', 'middling/', 'sparse/')}) == 3


def test_the_best_checkpoint_of_a_named_configuration_is_kept(tmp_path):
    """The output grows or shrinks as training goes on, so that one rule keeps the first."""
    kept = {}
    for rule in ('greater', 'less'):
        best = dict(type='CheckpointHook', by_epoch=False, interval=3, rule=rule,
                    save_best='sparse/toy/output')
        _, spy = train_toy(tmp_path / rule, default_hooks=dict(checkpoint=best), custom_hooks=[
            dict(HOOK, val_sparsity=dict(dense=0, sparse=.6))])
        kept[rule] = [path.name for path in (tmp_path / rule).glob('best_*')]
    first, last = (metrics['sparse/toy/output'] for metrics in spy.metrics)
    best = dict(greater=3, less=6) if first > last else dict(greater=6, less=3)
    assert kept == {rule: [f'best_sparse_toy_output_iter_{i}.pth'] for rule, i in best.items()}


def test_the_first_configuration_is_scored_as_if_it_were_the_only_one(tmp_path):
    _, several = train_toy(tmp_path / 'several', custom_hooks=[
        dict(HOOK, val_sparsity=dict(a=.5, b=0, c=.7))])
    _, alone = train_toy(tmp_path / 'alone', custom_hooks=[dict(HOOK, val_sparsity=.5)])
    for more, metrics in zip(several.metrics, alone.metrics):
        assert {key: more[key] for key in metrics} == metrics
        assert len(more) == 3 * len(metrics)
    assert several.draws == alone.draws


def test_sparsity_is_restored_after_validation_and_after_training(tmp_path):
    model = toy_config(tmp_path).model
    model.backbone.sparsity = .4
    seen = []

    class AfterVal(Spy):

        def after_val_epoch(self, runner, metrics=None):
            seen.append(runner.model.backbone.sparsity)

    runner = build_runner(toy_config(tmp_path, model=model, custom_hooks=[
        dict(HOOK, val_sparsity=dict(a=0, b=.6))]))
    runner.register_hook(AfterVal())
    runner.train()
    assert seen == [ready((2, 2), seed=3).draw(i) for i in (2, 5)]
    assert runner.model.backbone.sparsity == SparsityConfig(.4, (2, 2))


def test_drawn_sparsity_reaches_message_hub_log_and_tensorboard(tmp_path):
    runner, spy = train_toy(
        tmp_path, custom_hooks=[HOOK],
        visualizer=dict(type='Visualizer', name=f'visualizer_{tmp_path}', vis_backends=[
            dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]))
    means = [draw.mean for draw in spy.draws.values()]
    history = runner.message_hub.get_scalar('train/sparsity').data[0]
    assert history == pytest.approx(means)

    lines = map(json.loads, next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines())
    assert [line['sparsity'] for line in lines if 'sparsity' in line] == pytest.approx(means)

    events = EventAccumulator(str(next(tmp_path.glob('*/vis_data/events*'))))
    events.Reload()
    assert [e.value for e in events.Scalars('sparsity')] == pytest.approx(means)


@pytest.mark.parametrize('arguments', [
    dict(choices=[]), dict(choices=[0, 1]), dict(choices=[-.1]), dict(choices=[float('nan')]),
    dict(val_sparsity={}), dict(around=[]), dict(around=()), dict(around=.6), dict(around={}),
    dict(distillation=-1), dict(distillation=float('nan')), dict(dense_share=1),
    dict(dense_share=-.1),
    dict(dense_share=float('nan'))])
def test_unusable_arguments_are_refused_when_the_hook_is_built(arguments):
    with pytest.raises(ValueError, match='choice|empty dict|around is .* neither a list|'
                                         r'distillation is .*weight|dense_share is .*\[0, 1\)'):
        SparsityAdaptationHook(**arguments)


def test_a_file_that_is_no_front_is_refused_when_the_hook_is_built(tmp_path):
    with pytest.raises(FileNotFoundError, match='front nowhere.json'):
        SparsityAdaptationHook(around='nowhere.json')
    (tmp_path / 'empty.json').write_text('{}')
    with pytest.raises(ValueError, match=f'front {tmp_path}/empty.json'):
        SparsityAdaptationHook(around=tmp_path / 'empty.json')


@pytest.mark.parametrize('val_sparsity', [1.2, [.1], dict(good=0, bad=[[.5, .1], [0, 0]])])
def test_unusable_validation_is_refused_before_training(tmp_path, val_sparsity):
    runner = build_runner(toy_config(tmp_path, custom_hooks=[
        dict(HOOK, val_sparsity=val_sparsity)]))
    spy = Spy()
    runner.register_hook(spy)
    with pytest.raises(ValueError, match='sparsity'):
        runner.train()
    assert not spy.draws
