import json
import os
import re
import socket

import pytest
import torch
import torch.multiprocessing as mp
from mmengine.hooks import Hook
from sparse_toy import (ADAMW, EMA, HOOK, OPTIMIZERS, check_laws, config, equal,
                        masked_hook, state_of, train)
from torch import distributed as dist

from sparsevit_mm import SparseTrainingHook
from sparsevit_mm.config.building import build_runner
from sparsevit_mm.weights import drop_and_grow, drop_fraction

LAYERS = ['conv.weight', 'fc1.weight', 'fc2.weight', 'head.weight']
def log_of(runner, key):
    return runner.message_hub.get_scalar(f'train/{key}').data[0].tolist()


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
@pytest.mark.parametrize('custom_hooks', [[HOOK], [EMA, dict(HOOK, interval=1)],
                                          [dict(HOOK, density=None, pattern='2:4')]],
                         ids=['plain', 'averaged', '2:4'])
def test_what_is_outside_the_masks_is_zero_after_every_step_and_counts_stay(
        tmp_path, optimizer, custom_hooks):
    runner, steps = train(tmp_path, optim_wrapper=OPTIMIZERS[optimizer], custom_hooks=custom_hooks)
    check_laws(steps)
    assert not equal(steps[0]['masks'], steps[-1]['masks'])
    if 'pattern' in custom_hooks[-1]:
        masks = steps[-1]['masks']
        assert masks['conv.weight'].all()  # of 3 inputs
        assert all((masks[name].unflatten(1, (-1, 4)).sum(2) == 2).all() for name in LAYERS[1:])


@pytest.mark.parametrize('distribution', ['erk', 'uniform'])
@pytest.mark.parametrize('density', [.05, .5, 1.])
def test_the_density_is_the_one_asked_for(tmp_path, distribution, density):
    runner, steps = train(tmp_path, hook=dict(density=density, distribution=distribution))
    masks = steps[-1]['masks']
    assert list(masks) == LAYERS
    sizes = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert kept == pytest.approx(density * sizes, abs=2)
    assert log_of(runner, 'density') == [kept / sizes] * 4
    for mask in masks.values() if distribution == 'uniform' else ():
        assert int(mask.sum()) == pytest.approx(density * mask.numel(), abs=.5)


def test_masks_move_by_the_rule_with_the_gradient_of_their_step(tmp_path):
    """Steps of the plain optimizer, with the gradients it was given, make the same masks."""
    class Keep(Hook):
        """Gradients as backward left them, of all batches that were accumulated."""

        def __init__(self):
            self.gradients = []

        def before_train(self, runner):
            inner = runner.optim_wrapper.step

            def step(**kwargs):
                self.gradients.append({name: p.grad.clone()
                                       for name, p in runner.model.named_parameters()})
                inner(**kwargs)
            runner.optim_wrapper.step = step

    keep = Keep()
    keep.priority = 'LOW'  # wraps the hook's
    runner, steps = train(tmp_path, keep, custom_hooks=[dict(HOOK, interval=3)], optim_wrapper=dict(
        ADAMW, accumulative_counts=2, clip_grad=dict(type='value', clip_value=1e-4)))
    assert len(keep.gradients) == 5
    moves = []
    for i, (before, after) in enumerate(zip(steps, steps[1:]), 2):
        if equal(before['masks'], after['masks']):
            continue
        moves.append(i)
        for name, mask in after['masks'].items():
            gradient = keep.gradients[i // 2 - 1][name]
            grown = mask & ~before['masks'][name]
            outside = ~mask & ~before['masks'][name]
            if grown.any() and outside.any():
                assert gradient.abs()[grown].min() >= gradient.abs()[outside].max()
    assert moves == [4, 6]  # the first steps at or after iterations 3 and 6


def test_one_update_is_the_pure_function_of_what_the_step_left(tmp_path, monkeypatch):
    seen = []

    def spy(weight, gradient, mask, *args):
        after = drop_and_grow(weight, gradient, mask, *args)
        seen.append((weight.detach().clone(), gradient.clone(), mask.clone(), args, after))
        return after
    monkeypatch.setattr('sparsevit_mm.weights.masking.drop_and_grow', spy)
    runner, steps = train(tmp_path)
    sparse = masked_hook(runner).masks.sparse
    assert 0 < len(sparse) < 4 and len(seen) == 3 * len(sparse)  # the smallest are dense by ERK
    assert [args[0] for _, _, _, args, _ in seen[::len(sparse)]] == [
        drop_fraction(i, 10) for i in (2, 4, 6)]
    for weight, gradient, mask, _, after in seen:
        assert not weight[~mask].any() and gradient[~mask].any()
    for (weight, _, mask, _, after), name in zip(seen, sparse):
        left = mask & after
        assert torch.equal(steps[1]['masks'][name], after)
        assert torch.equal(steps[1]['weights'][name][left], weight[left])


def test_validation_leaves_the_random_draws_of_training_alone(tmp_path):
    _, often = train(tmp_path / 'often', train_cfg=dict(by_epoch=False, max_iters=10,
                                                        val_interval=1))
    _, never = train(tmp_path / 'never', train_cfg=dict(by_epoch=False, max_iters=10,
                                                        val_interval=99))
    assert equal(often[-2], never[-2])


def test_masks_that_never_move(tmp_path):
    runner, steps = train(tmp_path, hook=dict(end=0, interval=99))
    check_laws(steps)
    assert equal(steps[0]['masks'], steps[-1]['masks'])
    assert log_of(runner, 'weights_moved') == [0]


def test_checkpointed_activations_make_no_difference(tmp_path):
    plain, recomputed = (train(tmp_path / str(with_cp), model=dict(with_cp=with_cp, dropout=0.))[1]
                         for with_cp in (False, True))
    assert equal(plain[-1]['masks'], recomputed[-1]['masks'])
    check_laws(recomputed)


def test_the_seed_decides_the_first_masks_and_the_global_state_does_not(tmp_path):
    masks = []
    for i, seed in enumerate((3, 3, 4)):
        torch.manual_seed(i)
        masks.append(train(tmp_path / str(i), hook=dict(seed=seed))[1][0]['masks'])
    assert equal(masks[0], masks[1]) and not equal(masks[0], masks[2])


def test_frozen_layers_and_those_without_a_gradient_stay_and_are_told_of_once(tmp_path, capfd):
    runner, steps = train(tmp_path, model=dict(frozen=True, unused=True), log_level='INFO')
    assert list(steps[0]['masks']) == ['fc1.weight', 'fc2.weight', 'head.weight', 'unused.weight']
    assert steps[0]['weights']['conv.weight'].all()
    assert torch.equal(steps[0]['masks']['unused.weight'], steps[-1]['masks']['unused.weight'])
    output = ''.join(capfd.readouterr())
    assert output.count('1 frozen layers stay as they are: conv.weight') == 1
    assert output.count('layers without a gradient keep their masks: unused.weight') == 1


def test_only_layers_that_match_are_masked(tmp_path):
    _, steps = train(tmp_path, hook=dict(layers=['^fc', 'head']))
    assert list(steps[0]['masks']) == LAYERS[1:]
    check_laws(steps)


def test_what_is_logged(tmp_path):
    runner, steps = train(tmp_path)
    moved = [sum(int((after['masks'][name] & ~before['masks'][name]).sum()) for name in LAYERS)
             for before, after in zip(steps, steps[1:])]
    assert log_of(runner, 'weights_moved') == [0] + [count for count in moved if count]
    first, last = steps[0]['masks'], steps[-1]['masks']
    new = sum(int((last[name] & ~first[name]).sum()) for name in LAYERS)
    kept = sum(int(mask.sum()) for mask in last.values())
    assert log_of(runner, 'mask_new')[-1] == pytest.approx(new / kept)
    lines = map(json.loads, next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines())
    assert {'density', 'weights_moved', 'mask_new'} <= next(lines).keys()


def test_an_update_whose_gradient_is_not_finite_is_left_out_with_a_warning(tmp_path, capfd):
    _, steps = train(tmp_path, model=dict(nan_at=4))
    assert not equal(steps[0]['masks'], steps[1]['masks'])
    assert equal(steps[1]['masks'], steps[-1]['masks'])
    output = ''.join(capfd.readouterr())
    assert re.search(r'iteration 4: masks stay as they are, since gradients or weights of 3 layers '
                     r'are not finite, conv.weight first', output)


@pytest.mark.parametrize('arguments, message', [
    (dict(density=0), 'density is 0: '), (dict(density=1.1), 'density is 1.1'),
    (dict(density=float('nan')), 'density is nan'), (dict(density=None), 'density is None'),
    (dict(distribution='er'), "distribution is 'er': .*erk, uniform"),
    (dict(interval=0), 'interval is 0'), (dict(interval=2.5), 'interval is 2.5'),
    (dict(end=1.1), 'end is 1.1'), (dict(end=float('nan')), 'end is nan'),
    (dict(drop_fraction=1.2), 'drop_fraction falls from 1.2 to 0.005'),
    (dict(drop_fraction=.1, last_drop_fraction=.2), 'drop_fraction falls from 0.1 to 0.2'),
    (dict(layers='(fc'), r"layers: '\(fc' .* regular expression"),
    (dict(pattern='2-4'), "pattern is '2-4'"),
    (dict(pattern='2:4'), 'density is 0.4, but pattern 2:4 keeps 0.5')])
def test_unusable_arguments_are_refused_when_the_hook_is_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        SparseTrainingHook(**{**dict(density=.4, interval=2), **arguments})


@pytest.mark.parametrize('changes, message', [
    (dict(hook=dict(layers='nowhere')), "'nowhere' matches no linear layer or convolution"),
    (dict(hook=dict(layers='norm')), r'it matches norm \(BatchNorm2d\)'),
    (dict(hook=dict(interval=8)), 'interval is 8: no update would take place within 0.8 of 10'),
    (dict(hook=dict(interval=1000)), 'interval is 1000'),
    (dict(model=dict(tied=True)), r'fc2.weight of shape \(16, 16\) .* fc3.weight'),
    (dict(model=dict(frozen=True), hook=dict(layers='conv')), 'all 1 layers .* are frozen'),
    (dict(hook=dict(layers='conv', density=None, pattern='2:4')),
     r'pattern 2:4 fits no layer: .* conv.weight of shape \(8, 3, 3, 3\)')])
def test_what_does_not_fit_is_refused_before_the_first_iteration(tmp_path, changes, message):
    runner = build_runner(config(tmp_path, **changes))
    started = []
    runner.model.register_forward_pre_hook(lambda *_: started.append(1))
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert not started


def test_several_optimizers_are_refused(tmp_path):
    runner = build_runner(config(tmp_path))
    runner.optim_wrapper = None
    with pytest.raises(TypeError, match='OptimWrapper, not NoneType'):
        masked_hook(runner).before_train(runner)


def test_the_optimizer_wrapper_is_as_before_when_training_is_over(tmp_path):
    runner, _ = train(tmp_path)
    assert 'step' not in vars(runner.optim_wrapper)


def _train_rank(rank, port, folder, spoil):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2',
                      MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)

    class Spoil(Hook):

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if spoil and rank == 1 and runner.iter == 1:
                mask = masked_hook(runner).masks.masks['fc1.weight']
                mask.copy_(mask.flip(0))

    error = ''
    try:
        runner, steps = train(folder / 'whole', Spoil(), launcher='pytorch')
        _, more = train(folder / 'more', launcher='pytorch', resume=True,
                        load_from=str(folder / 'whole' / 'iter_5.pth'))
        torch.save(dict(steps=steps, more=more, seen=state_of(runner)), folder / f'{rank}.pt')
    except RuntimeError as raised:
        error = str(raised)
    (folder / f'{rank}.txt').write_text(error)
    dist.destroy_process_group()


def run_two(folder, spoil):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    mp.start_processes(_train_rank, (port, folder, spoil), nprocs=2, start_method='spawn')
    return [(folder / f'{rank}.txt').read_text() for rank in (0, 1)]


@pytest.mark.slow
def test_two_processes_have_equal_masks_and_resume_bit_by_bit_with_dropout_of_each(tmp_path):
    assert run_two(tmp_path, spoil=False) == ['', '']
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in (0, 1))
    for one, other in zip(first['steps'], second['steps']):
        assert equal(one['masks'], other['masks'])
    check_laws(first['steps'])
    for held in (first, second):
        assert len(held['more']) == 5
        for step in held['more'] + held['steps']:  # of each rank, and the checkpoint is the first's
            for key in ('running_mean', 'running_var'):
                step['weights'].pop(f'norm.{key}')
        assert all(map(equal, held['more'], held['steps'][5:]))


@pytest.mark.slow
def test_ranks_whose_masks_differ_are_told_at_the_end_of_the_epoch(tmp_path):
    errors = run_two(tmp_path, spoil=True)
    assert all(re.search(r'iteration \d+: the masks of ranks \[1\] differ', e) for e in errors)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='AmpOptimWrapper needs a GPU')
def test_automatic_mixed_precision(tmp_path):
    _, steps = train(tmp_path, optim_wrapper=dict(ADAMW, type='AmpOptimWrapper'))
    check_laws(steps)
    assert not equal(steps[0]['masks'], steps[-1]['masks'])
