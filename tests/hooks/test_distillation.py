"""The loss towards the dense configuration's features: its value, its gradient, its traces."""
from copy import deepcopy

import pytest
import torch
from helpers import ToyModel, backbone, toy_config, train_toy
from mmengine.model import MMDistributedDataParallel
from torch import nn

from sparsevit_mm.cli import build_runner
from sparsevit_mm.hooks.distillation import LOSS, Distillation
from sparsevit_mm.models.selection import Selection

HOOK = dict(type='SparsityAdaptationHook', seed=3, teacher_weight=2.)
INPUTS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
frozen_or_online = pytest.mark.parametrize('frozen', [False, True], ids=['online', 'frozen'])


@pytest.fixture
def model(randomise):
    """In training, with dropped paths, at sparsity .5."""
    config = toy_config('unused').model
    config.backbone.update(sparsity=.5, drop_path_rate=.3)
    return randomise(ToyModel(config.backbone)).train()


def distil(model, frozen=False, weight=1.):
    return Distillation(model, model.backbone, frozen, weight)


def step(model, seed=5, **kwargs):
    torch.manual_seed(seed)  # of dropped paths
    return model(INPUTS, **{'mode': 'loss', **kwargs})


def dense_features(model):
    teacher = deepcopy(model.backbone).eval()
    teacher.sparsity = 0
    with torch.no_grad():
        return teacher(INPUTS)


def towards(model, targets):
    """The loss by its definition: the mean over stages of the mean squared difference."""
    torch.manual_seed(5)
    return sum((a - b).square().mean() for a, b in zip(model.backbone(INPUTS), targets)) / 2


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


@frozen_or_online
@pytest.mark.parametrize('importance', ['magnitude', 'learned'])
def test_loss_and_gradient_are_those_of_the_definition(model, frozen, importance):
    """The teacher is eval, dense, and gets no gradient; of the present weights, or the first."""
    model.backbone.selection = Selection(importance)
    first = dense_features(model)
    distil(model, frozen, weight=3.)
    for parameter in model.parameters():
        parameter.data.mul_(.9)
    targets = first if frozen else dense_features(model)
    expected = towards(model, targets)
    losses = step(model)
    assert losses.keys() == {'loss', LOSS}
    torch.testing.assert_close(losses[LOSS], 3 * expected)
    for got, wanted in zip(gradients(model, losses[LOSS]), gradients(model, 3 * expected)):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-4)


def test_the_frozen_teacher_stays_and_gets_no_gradient(model):
    distillation = distil(model, frozen=True)
    before = deepcopy(distillation.teacher.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), .1)
    for _ in range(2):
        sum(step(model).values()).backward()
        optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in distillation.teacher.state_dict().items())
    assert all(p.grad is None for p in distillation.teacher.parameters())
    assert not any(torch.equal(p, before[k]) for k, p in model.backbone.named_parameters())
    assert len(list(model.parameters())) == len(before) - sum(
        'index' in k for k in before), 'it is no part of the model'


@frozen_or_online
def test_the_task_s_own_loss_is_what_it_is_without(model, frozen):
    expected = step(model)['loss']
    distil(model, frozen)
    assert torch.equal(step(model)['loss'], expected)


@frozen_or_online
@pytest.mark.parametrize('change', [
    lambda m: setattr(m.backbone, 'sparsity', 0), lambda m: m.eval()], ids=['dense', 'eval'])
def test_dense_passes_and_eval_have_no_such_loss(model, frozen, change):
    distil(model, frozen)
    change(model)
    assert step(model).keys() == {'loss'}


def test_passes_without_gradients_or_losses_leave_nothing_for_the_next(model):
    distil(model)
    with torch.no_grad():
        assert step(model).keys() == {'loss'}
    expected = step(model)[LOSS]
    step(model, mode='tensor')
    assert torch.equal(step(model)[LOSS], expected)


def test_a_pass_that_failed_leaves_nothing_for_the_next(model):
    distil(model)
    expected = step(model)[LOSS]

    class Failing(Exception):
        pass

    def fail(*_):
        raise Failing

    handle = model.backbone.register_forward_hook(fail)  # after the distillation's
    with pytest.raises(Failing):
        step(model)
    handle.remove()
    assert torch.equal(step(model)[LOSS], expected)


def test_a_backbone_that_runs_twice_is_taught_twice(model):
    distil(model)
    once = step(model)[LOSS]
    forward = model.forward

    def twice(inputs, mode):
        torch.manual_seed(5)
        model.backbone(inputs)
        torch.manual_seed(5)
        return forward(inputs, mode)

    model.forward = twice
    torch.testing.assert_close(step(model)[LOSS], 2 * once)


@pytest.mark.parametrize('fails', [False, True])
def test_modes_and_sparsity_are_restored_even_after_an_error(model, fails):
    model.backbone.frozen_stages = 1
    model.train()
    model.backbone.norm1.eval()
    modes = {name: m.training for name, m in model.named_modules()}
    assert len(set(modes.values())) == 2
    sparsity = model.backbone.sparsity
    distil(model)
    seen = []

    def watch(block, args):
        seen.append((block.training, model.backbone.sparsity.is_dense))
        if fails and not block.training:
            raise ArithmeticError

    model.backbone.stages[1].blocks[1].register_forward_pre_hook(watch)
    if fails:
        with pytest.raises(ArithmeticError):
            step(model)
    else:
        step(model)
    assert seen == [(True, False), (False, True)]
    assert {name: m.training for name, m in model.named_modules()} == modes
    assert model.backbone.sparsity == sparsity


@frozen_or_online
def test_each_parameter_gets_one_gradient_a_step(model, frozen):
    distil(model, frozen)
    counts = []
    for index, parameter in enumerate(model.parameters()):
        parameter.register_hook(lambda grad, index=index: counts.append(index))
    sum(step(model).values()).backward()
    assert sorted(counts) == list(range(len(list(model.parameters()))))


def test_removed_it_leaves_no_trace(model):
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    distillation = distil(model)
    assert LOSS in step(model)
    distillation.remove()
    assert step(model).keys() == {'loss'}
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == before


def test_a_wrapped_model_is_taught_and_another_kind_refused(model, tmp_path):
    torch.distributed.init_process_group('gloo', f'file://{tmp_path}/rendezvous', rank=0,
                                         world_size=1)
    try:
        wrapped = MMDistributedDataParallel(model)
        Distillation(wrapped, model.backbone, False, 1.)
        assert LOSS in wrapped(INPUTS, mode='loss')
    finally:
        torch.distributed.destroy_process_group()
    plain = nn.Sequential(backbone(sparsity=.5))
    with pytest.raises(TypeError, match='Sequential is none'):
        Distillation(plain, plain[0], False, 1.)


@pytest.mark.parametrize('teacher', [None, 'online', 'frozen'])
def test_a_run_logs_the_loss_where_it_draws_sparse_ones_and_ends_as_it_began(tmp_path, teacher):
    runner, spy = train_toy(tmp_path, custom_hooks=[dict(HOOK, teacher=teacher, dense_share=.4)])
    logged = runner.message_hub.log_scalars
    pruned = sum(not draw.is_dense for draw in spy.draws.values())
    assert 0 < pruned < len(spy.draws)
    if teacher is None:
        assert f'train/{LOSS}' not in logged
    else:
        values, counts = logged[f'train/{LOSS}'].data
        assert counts.sum() == pruned and (values > 0).all()
    assert runner.model.backbone.sparsity.is_dense
    assert LOSS not in runner.model.train()(INPUTS, mode='loss')
    runner.model.backbone.sparsity = .5
    assert LOSS not in runner.model(INPUTS, mode='loss')


def test_the_frozen_teacher_of_a_run_has_the_weights_that_were_loaded(tmp_path, randomise):
    start = randomise(ToyModel(toy_config(tmp_path).model.backbone))
    torch.save(dict(state_dict=start.state_dict()), tmp_path / 'start.pth')
    runner = build_runner(toy_config(
        tmp_path, load_from=str(tmp_path / 'start.pth'),
        custom_hooks=[dict(HOOK, teacher='frozen')]))
    runner.train()
    hook, = (h for h in runner.hooks if hasattr(h, 'distillation'))
    state = start.backbone.state_dict()
    teacher = hook.distillation.teacher.state_dict()
    assert teacher.keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in teacher.items())
    assert not torch.equal(runner.model.backbone.norm0.weight, state['norm0.weight'])
