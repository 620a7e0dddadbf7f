"""Least squares in parts, over ranks, and heads fitted to what windows are worth."""
import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from helpers import backbone
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed as dist

from sparsevit_mm.models.selection.fit import RIDGE, ImportanceFitter, LeastSquares, _StageFit
from sparsevit_mm.models.selection.head import ImportanceHead, describe
from sparsevit_mm.models.selection.importance import MapInfo, ValidArea
from sparsevit_mm.models.selection.ranking import Batch, Selection

IMAGE = torch.randn(2, 3, 24, 20, generator=torch.Generator().manual_seed(0))


def samples(number, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(number, size, generator=generator),
            torch.randn(number, generator=generator))


def in_one_go(inputs, targets, ridge=RIDGE):
    """Least squares of the samples and one more for each weight, which pulls it to 0."""
    inputs, targets = inputs.double().numpy(), targets.double().numpy()
    pull = (ridge * (inputs**2).sum(0).mean())**.5 * np.eye(inputs.shape[1])
    return np.linalg.lstsq(np.concatenate([inputs, pull]),
                           np.concatenate([targets, np.zeros(len(pull))]), rcond=None)[0]


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 9), st.data())
def test_parts_give_the_solution_of_the_whole(size, number, seed, data):
    inputs, targets = samples(number, size, seed)
    fit = LeastSquares(size)
    cuts = sorted(data.draw(st.lists(st.integers(0, number), max_size=4)))
    for start, end in zip([0, *cuts], [*cuts, number]):
        fit.add(inputs[start:end], targets[start:end])
    np.testing.assert_allclose(fit.solve(), in_one_go(inputs, targets), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fit.solve(.5), in_one_go(inputs, targets, .5), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('where', ['inputs', 'targets'])
def test_a_part_that_is_not_finite_is_left_out(bad, where):
    fit = LeastSquares(3)
    assert fit.solve() is None
    first, broken, last = (samples(9, 3, seed) for seed in range(3))
    broken[where == 'targets'][4] = bad
    fit.add(*broken)
    assert fit.solve() is None
    fit.add(*first), fit.add(*broken), fit.add(*last)
    expected = in_one_go(torch.cat([first[0], last[0]]), torch.cat([first[1], last[1]]))
    np.testing.assert_allclose(fit.solve(), expected, rtol=1e-4)


def test_inputs_that_are_all_0_tell_nothing():
    """As those of an image of one colour, less their mean."""
    fit = LeastSquares(2)
    fit.add(torch.zeros(4, 2), torch.ones(4))
    assert fit.solve() is None
    fit.add(torch.eye(2), torch.ones(2))
    assert fit.solve(0.).tolist() == [1, 1]


def _sum(rank, port, folder):
    """One of two processes: one has two parts, the other one."""
    dist.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    fit = LeastSquares(4)
    for part in ((0, 1), (2, ))[rank]:
        fit.add(*samples(5 + part, 4, part))
    fit.sum_over_ranks()
    torch.save(fit.solve(), folder / f'{rank}.pt')
    dist.destroy_process_group()


def test_ranks_solve_for_the_samples_of_all(tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    mp.start_processes(_sum, (port, tmp_path), nprocs=2, start_method='fork')
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in (0, 1))
    inputs, targets = zip(*(samples(5 + part, 4, part) for part in range(3)))
    np.testing.assert_allclose(first, in_one_go(torch.cat(inputs), torch.cat(targets)), rtol=1e-4)
    assert torch.equal(first, second)


@pytest.fixture
def stage(randomise):
    """Of two blocks, at 9 x 7 tokens."""
    model = randomise(backbone(depths=(2, ), num_heads=(2, ), strides=(2, ), out_indices=(0, ),
                               importance='learned'))
    return model.eval().stages[0]


def logs_of(x, hw, sizes=None):
    """What a head sees, (B, L, C + 3)."""
    valid = ValidArea(x, MapInfo(hw, sizes))
    rows = x.reshape(len(x), *hw, -1)
    return torch.cat(describe(rows, valid, slice(0, hw[0]), valid.mean(x)), -1).flatten(1, 2)


def run_dense(stage, x, hw, sizes=None):
    return stage(x, hw, [0] * len(stage.blocks), Selection('learned'), Batch(sizes=sizes))


class Planted(torch.nn.Module):
    """A block that adds to each token an update whose norm, times its gradient's, is given."""

    def __init__(self, worth):
        super().__init__()
        self.worth, self.shift = worth, 0

    def forward(self, x, windows):
        direction = torch.nn.functional.normalize(torch.ones_like(x), dim=-1)
        return x + self.worth[..., None] * direction


@pytest.mark.parametrize('backward', [False, True])
@pytest.mark.parametrize('sizes', [None, torch.tensor([[9, 7], [5, 7], [9, 2]])])
def test_planted_weights_are_recovered(stage, backward, sizes):
    """The log worth is linear in what a head sees, plus a constant of each image. Normalised tokens
    have mean 0, so that one weight for all channels would count for nothing."""
    hw, x = (9, 7), torch.randn(3, 63, 8)
    inputs, planted = logs_of(x, hw, sizes), torch.randn(11)
    log_worth = inputs @ planted + torch.tensor([[0.], [2.], [-1.]])
    if sizes is not None:  # padding is worth most, and must not count
        inside = ValidArea(x, MapInfo(hw, sizes)).mask.flatten(1)
        log_worth[~inside] = 20.
    steepness = torch.rand(3, 63) + .5 if backward else torch.ones(3, 63)
    stage.blocks = torch.nn.ModuleList([Planted(log_worth.exp() / 2 / steepness)] * 2)
    fit = _StageFit(stage)
    leaf = x.clone().requires_grad_(backward)
    with torch.set_grad_enabled(backward):
        out = run_dense(stage, leaf, hw, sizes)
        if backward:
            (out.sum(-1) / 8**.5 * steepness).sum().backward()
    fit.take()
    planted[:8] -= planted[:8].mean()
    torch.testing.assert_close(fit.sums.solve(1e-9), planted, atol=1e-3, rtol=1e-3)
    assert fit.fit()
    torch.testing.assert_close(stage.importance.weight * 10, fit.sums.solve())


@pytest.mark.parametrize('backward', [False, True])
def test_a_backbone_s_heads_are_fitted_with_and_without_a_backward_pass(randomise, backward):
    model = randomise(backbone(importance='learned')).train(backward)
    fitter = ImportanceFitter(model)
    assert not fitter.fit(), 'nothing was taken in'
    before = [stage.importance.weight.clone() for stage in model.stages]
    with torch.set_grad_enabled(backward):
        features = model(IMAGE)
    if backward:
        sum(f.sin().sum() for f in features).backward()
    fitter.take()
    assert fitter.fit()
    for stage, old in zip(model.stages, before):
        assert stage.importance.weight.isfinite().all()
        assert not torch.equal(stage.importance.weight, old)


def moments(fitter):
    return [float(stage.sums.count) for stage in fitter.stages]


def test_only_dense_passes_that_are_taken_count_and_each_once(randomise):
    model = randomise(backbone(importance='learned')).eval()
    fitter = ImportanceFitter(model)
    with torch.no_grad():
        model(IMAGE)
        fitter.drop()
        fitter.take()
        assert moments(fitter) == [0, 0]
        model(IMAGE)
        fitter.take()
        fitter.take()
        assert moments(fitter) == [2 * 12 * 10, 2 * 6 * 5]
        model.sparsity = .5
        model(IMAGE)
        fitter.take()
        assert moments(fitter) == [2 * 12 * 10, 2 * 6 * 5]
        fitter.close()
        model.sparsity = 0
        model(IMAGE)
        fitter.take()
    assert moments(fitter) == [2 * 12 * 10, 2 * 6 * 5]


@torch.no_grad()
def test_an_image_whose_tokens_are_worth_the_same_is_skipped(stage):
    flat = torch.ones(1, 63, 8)
    x = torch.cat([flat, torch.randn(1, 63, 8)])
    stage.blocks = torch.nn.ModuleList([Planted(torch.stack([torch.ones(63), x[1].norm(dim=-1)]))])
    fit = _StageFit(stage)
    run_dense(stage, x, (9, 7))
    fit.take()
    assert fit.sums.count == 63
    assert fit.fit() and stage.importance.weight.isfinite().all()


@torch.no_grad()
def test_updates_of_0_and_maps_of_one_token_give_nothing_that_is_not_finite(stage):
    fit = _StageFit(stage)
    run_dense(stage, torch.randn(2, 1, 8), (1, 1))
    fit.take()
    assert not fit.sums.count and not fit.fit()
    worth = torch.rand(1, 63)
    worth[0, ::2] = 0
    stage.blocks = torch.nn.ModuleList([Planted(worth)])
    fit = _StageFit(stage)
    run_dense(stage, torch.randn(1, 63, 8), (9, 7))
    fit.take()
    assert fit.fit() and stage.importance.weight.isfinite().all()


def test_fitted_heads_of_two_backbones_are_independent(randomise):
    one, other = (randomise(backbone(importance='learned'), seed) for seed in (0, 1))
    before = [p.clone() for p in other.parameters()]
    fitter = ImportanceFitter(one)
    with torch.no_grad():
        one.eval()(IMAGE)
    fitter.take()
    fitter.fit()
    assert all(map(torch.equal, other.parameters(), before))
    assert isinstance(one.stages[0].importance, ImportanceHead)
