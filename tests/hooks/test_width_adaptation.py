"""Adaptation that draws the widths of stages beside the ratios."""
from itertools import product

import pytest
import torch
from helpers import BACKBONE, Spy, backbone, build_runner, toy_config
from standing import Standing

from sparsevit_mm import SparsityAdaptationHook
from sparsevit_mm.hooks.sparsity_adaptation_hook import RECORD
from sparsevit_mm.operating_point import operating_point
from sparsevit_mm.weights import order_units

WIDTHS = dict(heads=[1, .5], ffn=[.25, 1])
HOOK = dict(type='SparsityAdaptationHook', seed=3, widths=WIDTHS)
MODEL = dict(type='ToyModel', backbone=dict(BACKBONE, num_heads=(2, 2)))
FULL = dict(ffn_stage0=1., ffn_stage1=1.)  # of a backbone with one head in each block


def ready(**arguments):
    hook = SparsityAdaptationHook(**{**dict(widths=WIDTHS), **arguments})
    hook.before_run(Standing((2, 2)))
    return hook


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    """A checkpoint whose units are in order."""
    path = tmp_path_factory.mktemp('start') / 'ordered.pth'
    torch.manual_seed(0)
    runner = build_runner(toy_config(path.parent, model=MODEL))
    order_units(runner.model.backbone)
    torch.save(runner.model.state_dict(), path)
    return path


class WidthSpy(Spy):
    """Keeps the widths too, of training and of validation."""

    def __init__(self):
        super().__init__()
        self.widths, self.validated = {}, []

    def after_train_iter(self, runner, *args, **kwargs):
        super().after_train_iter(runner, *args, **kwargs)
        self.widths[runner.iter] = runner.model.backbone.widths

    def after_val_iter(self, runner, *_, **__):
        self.validated.append(runner.model.backbone.widths)


def train(folder, start, hook=HOOK, **changes):
    runner, spy = build_runner(toy_config(folder, model=MODEL, load_from=str(start),
                                          custom_hooks=[hook], **changes)), WidthSpy()
    runner.register_hook(spy)
    runner.train()
    return runner, spy


def test_all_widths_are_drawn_and_the_ratios_are_in_the_space():
    hook = ready()
    draws = [hook.draw(i) for i in range(200)]
    assert draws == [ready().draw(i) for i in range(200)]
    assert {draw.knobs for draw in draws} == {
        operating_point(hook.dense, dict(zip(FULL, values))).knobs
        for values in product([1., .25], repeat=2)}
    assert all(draw in hook.space for draw in draws)


def test_draws_without_widths_are_those_of_before():
    plain, other = ready(widths=None), ready(widths={})
    assert [plain.draw(i) for i in range(20)] == [other.draw(i) for i in range(20)]
    assert plain.draw(0).knobs == () and plain.settings == {
        'importance': 'variation', 'seed': 0, 'distillation': 0., 'dense_share': 0.}


def test_the_dense_draw_has_all_units():
    hook = ready(widths=dict(ffn=[.5, .25]), dense_share=.5)
    dense = [draw for draw in map(hook.draw, range(50)) if draw.is_dense]
    assert dense and all(set(dict(draw.knobs).values()) == {1.} for draw in dense)


def test_draws_around_points_move_widths_by_a_step():
    given = dict(heads_stage0=1., ffn_stage0=.25, ffn_stage1=1.)  # heads are not drawn here
    around = operating_point(backbone().space.config(.4), given)
    centre = operating_point(around, {**FULL, 'ffn_stage0': .25})
    hook = ready(around=[around], choices=[0, .4, .8])
    draws = {hook.draw(i) for i in range(100)}
    assert centre in draws and len(draws) > 10
    assert len({draw.knobs for draw in draws}) == 4


def test_it_trains_at_the_widths_drawn_and_ends_at_its_own(tmp_path, start):
    runner, spy = train(tmp_path, start)
    hook = next(h for h in runner.hooks if isinstance(h, SparsityAdaptationHook))
    own = runner.model.backbone.widths
    assert own.is_full and len(set(spy.widths.values())) > 2
    assert spy.widths == {i: own.at(hook.draw(i)) for i in range(6)}
    assert spy.draws == {i: hook.backbone.space.config(hook.draw(i)) for i in range(6)}
    assert set(spy.validated) == {own}


def test_a_resumed_run_goes_on_as_the_unbroken_one(tmp_path, start):
    hook = dict(HOOK, distillation=1.)
    whole, _ = train(tmp_path / 'whole', start, hook)
    resumed, spy = train(tmp_path / 'parts', tmp_path / 'whole' / 'iter_3.pth', hook, resume=True)
    assert len(spy.widths) == 3
    for one, other in zip(whole.model.state_dict().values(), resumed.model.state_dict().values()):
        assert torch.equal(one, other)
    assert RECORD in torch.load(tmp_path / 'whole' / 'iter_3.pth', weights_only=False)
    for widths in (None, dict(heads=[1, .5])):
        with pytest.raises(ValueError, match='other settings: widths='):
            train(tmp_path / 'other', tmp_path / 'whole' / 'iter_3.pth',
                  dict(hook, widths=widths), resume=True)


def test_the_teacher_runs_at_full_width(tmp_path, start):
    """Also of a backbone whose own widths are narrow."""
    teachers = []

    class Look(Spy):
        def after_train_iter(self, runner, *args, **kwargs):
            super().after_train_iter(runner, *args, **kwargs)
            hook = next(h for h in runner.hooks if isinstance(h, SparsityAdaptationHook))
            teachers.append(hook.distiller.teacher.widths.is_full)

    model = dict(MODEL, backbone=dict(MODEL['backbone'], widths=dict(ffn=.5)))
    runner = build_runner(toy_config(tmp_path, model=model, load_from=str(start), custom_hooks=[
        dict(HOOK, distillation=1., choices=[0])]))
    runner.register_hook(Look())
    runner.train()
    assert teachers == [True] * 6
    assert 'loss_distillation' in str(list(runner.message_hub.log_scalars))


def test_units_must_be_in_order(tmp_path, start):
    state = torch.load(start)
    del state['backbone.unit_order.by_importance']
    torch.save(state, tmp_path / 'plain.pth')
    with pytest.raises(ValueError, match='widths: .*tools/order_units.py'):
        train(tmp_path, tmp_path / 'plain.pth')


def test_bad_widths_are_refused():
    for widths, message in ((dict(tails=[1]), "widths of 'tails'"), (dict(ffn=[0]), 'is 0'),
                            (dict(ffn=[]), r'ffn \[\]'), (dict(ffn=[.5, .5]), r'\[0.5, 0.5\]')):
        with pytest.raises(ValueError, match=message):
            SparsityAdaptationHook(widths=widths)
