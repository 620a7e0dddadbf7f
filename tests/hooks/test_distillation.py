"""The loss towards the features of the dense model: its value, its gradient, its traces."""
from copy import deepcopy

import pytest
import torch
from helpers import ToyModel, backbone, toy_config, train_toy
from mmengine.model import MMDistributedDataParallel
from torch import nn

from sparsevit_mm.config.building import build_runner
from sparsevit_mm.hooks.distillation import LOSS, Distillation
from sparsevit_mm.models.selection.ranking import Selection

HOOK = dict(type='SparsityAdaptationHook', seed=3)
INPUTS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(randomise):
    """In training, with dropped paths, at sparsity .5."""
    config = toy_config('unused').model
    config.backbone.update(sparsity=.5, drop_path_rate=.3)
    return randomise(ToyModel(config.backbone)).train()


def distil(model, weight=1.):
    return Distillation(model, model.backbone, weight)


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


@pytest.mark.parametrize('importance', ['magnitude', 'learned'])
def test_loss_and_gradient_are_those_of_the_definition(model, importance):
    """The teacher is eval, dense, gets no gradient, and has the first weights."""
    model.backbone.selection = Selection(importance)
    targets = dense_features(model)
    distil(model, weight=3.)
    for parameter in model.parameters():
        parameter.data.mul_(.9)
    expected = towards(model, targets)
    losses = step(model)
    assert losses.keys() == {'loss', LOSS}
    torch.testing.assert_close(losses[LOSS], 3 * expected)
    for got, wanted in zip(gradients(model, losses[LOSS]), gradients(model, 3 * expected)):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-4)


def test_the_teacher_stays_and_gets_no_gradient(model):
    distillation = distil(model)
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


def test_the_task_s_own_loss_is_what_it_is_without(model):
    expected = step(model)['loss']
    distil(model)
    assert torch.equal(step(model)['loss'], expected)


@pytest.mark.parametrize('change', [
    lambda m: setattr(m.backbone, 'sparsity', 0), lambda m: m.eval()], ids=['dense', 'eval'])
def test_dense_passes_and_eval_have_no_such_loss(model, change):
    distil(model)
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


def test_each_parameter_gets_one_gradient_a_step(model):
    distil(model)
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
        Distillation(wrapped, model.backbone, 1.)
        assert LOSS in wrapped(INPUTS, mode='loss')
    finally:
        torch.distributed.destroy_process_group()
    plain = nn.Sequential(backbone(sparsity=.5))
    with pytest.raises(TypeError, match='a Sequential'):
        Distillation(plain, plain[0], 1.)


@pytest.mark.parametrize('weight', [0, 2.])
def test_a_run_logs_the_loss_where_it_draws_sparse_ones_and_ends_as_it_began(tmp_path, weight):
    runner, spy = train_toy(
        tmp_path, custom_hooks=[dict(HOOK, distillation=weight, dense_share=.4)])
    logged = runner.message_hub.log_scalars
    pruned = sum(not draw.is_dense for draw in spy.draws.values())
    assert 0 < pruned < len(spy.draws)
    if not weight:
        assert f'train/{LOSS}' not in logged
    else:
        values, counts = logged[f'train/{LOSS}'].data
        assert counts.sum() == pruned and (values > 0).all()
    assert runner.model.backbone.sparsity.is_dense
    assert LOSS not in runner.model.train()(INPUTS, mode='loss')
    runner.model.backbone.sparsity = .5
    assert LOSS not in runner.model(INPUTS, mode='loss')


def adaptation(tmp_path, **changes):
    return toy_config(tmp_path, custom_hooks=[dict(HOOK, **{'distillation': 2., **changes})])


def test_the_teacher_has_the_weights_that_were_loaded_also_in_a_resumed_run(tmp_path, randomise):
    start = randomise(ToyModel(toy_config(tmp_path).model.backbone))
    torch.save(dict(state_dict=start.state_dict()), tmp_path / 'start.pth')
    config = adaptation(tmp_path)
    config.load_from = str(tmp_path / 'start.pth')
    runner = build_runner(config)
    runner.train()
    path = sorted(tmp_path.glob('*.pth'), key=lambda p: p.stat().st_mtime)[-1]
    resumed = adaptation(tmp_path / 'resumed')
    resumed.load_from, resumed.resume = str(path), True
    runner = build_runner(resumed)
    hook, = (h for h in runner.hooks if hasattr(h, 'teacher_state'))
    runner.train()
    state = start.backbone.state_dict()
    assert hook.teacher_state.keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in hook.teacher_state.items())


@pytest.mark.parametrize('change, named', [
    (dict(distillation=0), 'distillation=2.0 there, 0 here'),
    (dict(dense_share=.5), 'dense_share=0.2 there, 0.5 here'),
    (dict(importance='magnitude'), "importance='variation' there, 'magnitude' here")])
def test_an_adaptation_resumed_with_other_settings_is_refused(tmp_path, change, named):
    build_runner(adaptation(tmp_path)).train()
    path = sorted(tmp_path.glob('*.pth'), key=lambda p: p.stat().st_mtime)[-1]
    change = dict(change)
    importance = change.pop('importance', 'variation')
    resumed = adaptation(tmp_path / 'resumed', **change)
    resumed.model.backbone.importance = importance
    resumed.load_from, resumed.resume = str(path), True
    with pytest.raises(ValueError, match=named):
        build_runner(resumed).train()


def test_class_tokens_beside_the_maps_count_too(randomise):
    config = dict(type='EvoVisionTransformer', img_size=16, patch_size=2, embed_dims=8,
                  num_layers=3, num_heads=2, output_cls_token=True, sparsity=.5, dense_layers=1)

    class Classifier(ToyModel):

        def forward(self, inputs, mode='tensor'):
            (features, token), = self.backbone(inputs)
            return dict(loss=features.mean() + token.mean())

    model = randomise(Classifier(config)).train()
    distil(model)
    losses = step(model)
    (target, target_token), = dense_features(model)
    (features, token), = model.backbone(INPUTS)
    wanted = ((features - target).square().mean() + (token - target_token).square().mean()) / 2
    torch.testing.assert_close(losses[LOSS], wanted)
    assert (features - target).square().mean() != (token - target_token).square().mean()
