import json
import os
import random
import re
import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from helpers import Spy, backbone, toy_config, train_toy, weight_of
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.logging import HistoryBuffer, MessageHub
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import distributed as dist

from sparsevit_mm import Front, SparsityAdaptationHook, SparsityConfig, SparsitySpace
from sparsevit_mm.config.building import build_runner
from sparsevit_mm.budget import FrontPoint

HOOK = dict(type='SparsityAdaptationHook', seed=3)
NONE = HistoryBuffer()
BY_EPOCH = dict(
    train_cfg=dict(by_epoch=True, max_epochs=3),
    default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
    log_processor=dict(by_epoch=True))


class Standing:
    """As much of a Runner as a draw needs."""

    def __init__(self, depths, iteration=0):
        stages = len(depths)
        self.model = backbone(
            depths=depths, num_heads=[1] * stages, strides=[2] * stages, out_indices=(0, ))
        self.iter = iteration
        self.message_hub = MessageHub('standing')


def ready(depths, **arguments):
    hook = SparsityAdaptationHook(**arguments)
    hook.before_run(Standing(depths))
    return hook


depths_of_any_kind = st.lists(st.integers(1, 5), min_size=1, max_size=3)


@settings(max_examples=15, deadline=None)
@given(depths_of_any_kind, st.integers(0, 2**31), st.lists(st.integers(0, 10**6), max_size=4))
def test_draw_is_a_function_of_seed_and_iteration_within_the_space(depths, seed, iterations):
    choices = (0., .25, .5)
    one, other = (ready(depths, seed=seed, choices=choices) for _ in range(2))
    expected = {i: one.draw(i) for i in iterations}
    assert {i: other.draw(i) for i in reversed(iterations)} == expected
    assert all(draw in SparsitySpace(depths, choices) for draw in expected.values())


def test_draws_differ_by_seed_and_iteration_and_reach_every_choice():
    hook, other = ready((2, 2, 6, 2)), ready((2, 2, 6, 2), seed=1)
    draws = [hook.draw(i) for i in range(200)]
    assert len(set(draws)) > 150
    assert draws != [other.draw(i) for i in range(200)]
    assert {r for d in draws for stage in d.ratios for r in stage} == {i / 10 for i in range(9)}


@st.composite
def neighbourhoods(draw):
    """(space, a few of its configurations)."""
    choices = draw(st.sampled_from([(.3, ), (0., .5), (0., .25, .5), (.1, .2, .3, .4, .6)]))
    space = SparsitySpace(tuple(draw(depths_of_any_kind)), choices)
    seeds = draw(st.lists(st.integers(0, 2**31), min_size=1, max_size=4))
    return space, [space.sample(np.random.default_rng(seed)) for seed in seeds]


@settings(max_examples=30)
@given(neighbourhoods(), st.integers(0, 2**31))
def test_draws_around_a_list_are_in_the_space_and_a_step_or_less_a_pair_from_one_of_it(case, seed):
    space, around = case
    hook = ready(space.depths, seed=seed, choices=space.choices,
                 around=[config.to_list() for config in around])
    centres = np.array([space.encode(config) for config in around])
    for i in range(30):
        genes = space.encode(hook.draw(i))  # raises outside the space
        assert (abs(centres - genes).max(axis=1) <= 1).any()
        assert all(list(stage) == sorted(stage) for stage in space.by_stage(genes))


@pytest.mark.parametrize('depths', [(2, ), (2, 2), (2, 2, 6, 2), (2, 2, 18, 2)])
def test_half_of_the_draws_are_of_the_list_each_as_often_as_the_others(depths):
    """At both ends of the choices, and between, nine choices apart."""
    centres = [SparsityConfig(ratio, depths) for ratio in (0, .4, .8)]
    hook = ready(depths, around=centres)
    draws = [hook.draw(i) for i in range(2000)]
    shares = [draws.count(centre) / len(draws) for centre in centres]
    assert shares == pytest.approx([1 / 6] * 3, abs=.03)
    nearest = [min(centres, key=lambda c: abs(c.mean - draw.mean)) for draw in draws]
    assert [nearest.count(c) / len(draws) for c in centres] == pytest.approx([1 / 3] * 3, abs=.03)


def test_each_pair_steps_up_as_often_as_down_and_stays_with_the_probability_stated():
    """Stages of one pair each, which sorting can't mix."""
    hook, pairs = ready((2, 1, 2), around=[[.3, .3, .5]]), 3
    space = SparsitySpace((2, 1, 2))
    steps = np.array([space.encode(hook.draw(i)) for i in range(2000)]) - (3, 3, 5)
    move = 1 - .5**(1 / pairs)
    for pair in range(pairs):
        shares = [np.mean(steps[:, pair] == step) for step in (-1, 0, 1)]
        assert shares == pytest.approx([move / 2, 1 - move, move / 2], abs=.03)
    assert np.corrcoef(abs(steps).T)[np.triu_indices(pairs, 1)] == pytest.approx(0, abs=.06)


def test_draws_around_a_list_are_a_function_of_seed_and_iteration_alone():
    arguments = dict(depths=(2, 2, 6, 2), around=[0, .4, [.2, 0, [.1, .5, .5], .8]])
    hook = ready(**arguments)
    draws = [hook.draw(i) for i in range(100)]
    assert [hook.draw(i) for i in reversed(range(100))] == draws[::-1]
    assert [ready(**arguments).draw(i) for i in (0, 7, 99)] == [draws[i] for i in (0, 7, 99)]
    other = ready(**arguments, seed=1)
    assert [other.draw(i) for i in range(100)] != draws
    assert len(set(draws)) > 30


def test_the_file_of_a_front_counts_as_the_list_of_its_configurations(tmp_path):
    around = [.8, [.4, .2], 0]
    points = [FrontPoint(SparsityConfig(c, (2, 2)), 1. + i, .1 * i) for i, c in enumerate(around)]
    Front(points, 'mAP', {}).save(tmp_path / 'front.json')
    listed = ready((2, 2), around=around)
    for path in (tmp_path / 'front.json', str(tmp_path / 'front.json')):
        hook = ready((2, 2), around=path)
        assert [hook.draw(i) for i in range(50)] == [listed.draw(i) for i in range(50)]


@pytest.mark.parametrize('around, expected', [
    (None, {0: [.7, 0, [.1, .1, .1, .1, .2, .2], .7],
            1: [.8, .2, [.3, .3, .5, .5, .6, .6], .3],
            1000: [.7, .6, [0, 0, .5, .5, .7, .7], 0]}),
    ([.6, [.1, .3, .3, .5]], {0: [.1, .3, .3, .5], 1: [.1, .4, .3, .5], 7: [.2, .3, .3, .5]})])
def test_draws_are_those_of_earlier_versions(around, expected):
    """A run that was begun with one goes on with the same."""
    hook = ready((2, 2, 6, 2), seed=3, around=around)
    assert {i: hook.draw(i) for i in expected} == {
        i: SparsityConfig(config, (2, 2, 6, 2)) for i, config in expected.items()}


@pytest.mark.parametrize('around', [None, [.6, [.1, .3]]])
@pytest.mark.parametrize('share', [.1, .3, .8])
def test_a_share_of_the_draws_is_dense_and_the_others_are_what_they_were(around, share):
    with_dense, without = (ready((2, 2), choices=[.1, .2, .3, .5, .6, .7], around=around,
                                 dense_share=s) for s in (share, 0))
    draws = [with_dense.draw(i) for i in range(1000)]
    dense = [draw.is_dense for draw in draws]
    assert np.mean(dense) == pytest.approx(share, abs=.04)
    assert all(is_dense or draw == without.draw(i)
               for i, (draw, is_dense) in enumerate(zip(draws, dense)))
    assert [with_dense.draw(i) for i in reversed(range(1000))] == draws[::-1]
    other = ready((2, 2), seed=1, dense_share=share)
    assert [other.draw(i).is_dense for i in range(1000)] != dense


def test_global_random_states_neither_steer_a_draw_nor_are_used_up():
    drawn = []
    for seed in range(3):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        runner = Standing((2, 2), iteration=17)
        hook = SparsityAdaptationHook()
        hook.before_run(runner)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        hook.before_train_iter(runner, 0)
        assert random.getstate() == before[0]
        assert np.random.get_state()[1].tolist() == before[1]
        assert torch.equal(torch.get_rng_state(), before[2])
        drawn.append(runner.model.sparsity)
    assert drawn == [drawn[0]] * 3


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


def test_configurations_that_the_choices_do_not_make_up_are_all_named():
    around = [.5, .3, [0, [0, .5]], [.5, 0]]
    with pytest.raises(ValueError, match=re.escape(
            '[[0.3, 0.3], [0.3, 0.3]], [[0, 0], [0, 0.5]]')) as refused:
        ready((2, 2), choices=[0, .5], around=around)
    assert '[[0.5, 0.5], [0.5, 0.5]]' not in str(refused.value)
    with pytest.raises(ValueError, match='depths'):
        ready((2, 2), around=[[.1, .2, .3]])


@pytest.mark.parametrize('val_sparsity', [1.2, [.1], dict(good=0, bad=[[.5, .1], [0, 0]])])
def test_unusable_validation_is_refused_before_training(tmp_path, val_sparsity):
    runner = build_runner(toy_config(tmp_path, custom_hooks=[
        dict(HOOK, val_sparsity=val_sparsity)]))
    spy = Spy()
    runner.register_hook(spy)
    with pytest.raises(ValueError, match='sparsity'):
        runner.train()
    assert not spy.draws
