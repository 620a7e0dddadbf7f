import pytest
import sparse_toy
import torch
import unit_toy
from helpers import build_runner, toy_config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

VIT = dict(type='EvoVisionTransformer', img_size=16, patch_size=4, embed_dims=8, num_layers=3,
           num_heads=2, sparsity=.5, importance='selector', fast='copy', reselect='stage',
           stages=(), dense_layers=0)
SWIN = dict(type='SparseSwinTransformer', embed_dims=8, depths=(2, 2), num_heads=(2, 2),
            strides=(2, 2), patch_size=2, window_size=2, out_indices=(0, 1), sparsity=.5,
            importance='selector')
HOOK = dict(type='TokenSelectorHook')


class Watch(Hook):
    priority = 'LOWEST'

    def __init__(self):
        self.taus, self.weights = [], []

    def after_train_iter(self, runner, *_, **__):
        found = [m for m in runner.model.modules() if type(m).__name__ == 'TokenSelector']
        self.taus.append({m.tau for m in found})
        self.weights.append(torch.cat([m.weight.detach().clone() for m in found]))


def train(work_dir, backbone=VIT, hooks=(HOOK, ), **changes):
    runner, watch = build_runner(toy_config(work_dir, **{
        'model': dict(type='ToyModel', backbone=backbone), 'custom_hooks': list(hooks),
        **changes})), Watch()
    runner.register_hook(watch)
    runner.train()
    return runner, watch


@pytest.mark.parametrize('backbone', [VIT, SWIN], ids=['vit', 'swin'])
def test_tau_falls_linearly_and_the_task_moves_the_selector(tmp_path, backbone):
    _, watch = train(tmp_path, backbone)
    expected = [10 - 9.9 * i / 5 for i in range(6)]
    assert [next(iter(taus)) for taus in watch.taus] == pytest.approx(expected)
    assert all(len(taus) == 1 for taus in watch.taus)
    assert not torch.equal(watch.weights[0], watch.weights[-1])


def test_a_resumed_training_goes_on_at_its_tau(tmp_path):
    runner = build_runner(toy_config(
        tmp_path, model=dict(type='ToyModel', backbone=VIT), custom_hooks=[HOOK],
        train_cfg=dict(by_epoch=False, max_iters=3, val_interval=3)))
    runner.train()
    _, watch = train(tmp_path, resume=True)
    assert [next(iter(taus)) for taus in watch.taus] == pytest.approx(
        [10 - 9.9 * i / 5 for i in (3, 4, 5)])


def test_another_score_is_refused_before_the_first_iteration(tmp_path):
    with pytest.raises(ValueError, match="the backbone has 'magnitude'"):
        train(tmp_path, dict(VIT, importance='magnitude'))


@pytest.mark.parametrize('changes', [dict(last=0), dict(first=.05)])
def test_temperatures_that_do_not_fall_to_above_0_are_refused(changes):
    with pytest.raises(ValueError, match='tau falls from'):
        HOOKS.build({**HOOK, **changes})


def test_with_sparse_weights_a_resumed_training_is_the_unbroken_one_bit_by_bit(tmp_path):
    """Noise of the choice included: the states of the random generators are in the checkpoint."""
    hooks = [HOOK, dict(type='SparseTrainingHook', density=.5, interval=2)]

    def run(folder, **changes):
        return sparse_toy.watched(unit_toy.config(
            tmp_path / folder, backbone=VIT, custom_hooks=hooks, **changes))[1]

    steps = run('whole')
    torch.manual_seed(7)
    resumed = run('resumed', resume=True, load_from=str(tmp_path / 'whole' / 'iter_4.pth'))
    assert len(resumed) == len(steps) - 4
    assert all(map(sparse_toy.equal, resumed, steps[4:]))
    assert not torch.equal(*(step['weights']['backbone.selector.weight']
                             for step in (steps[0], steps[-1])))
