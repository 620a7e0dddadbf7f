import pytest
import torch
from helpers import backbone

from sparsevit_mm.models.selection.worth import StageWorth


@pytest.fixture
def watched():
    torch.manual_seed(0)
    model = backbone().eval()
    watch = StageWorth(model.stages[1])
    yield model, watch
    watch.close()


def test_updates_and_gains_are_sums_over_the_blocks_of_a_stage(watched):
    model, watch = watched
    x, streams = torch.randn(2, 3, 16, 16), []
    for block in model.stages[1].blocks:
        block.register_forward_hook(lambda _, args, out: streams.append((args[0], out)))
    outputs = model(x)
    for _, out in streams:
        out.retain_grad()
    outputs[-1].square().sum().backward()
    updates = [(after - before).norm(dim=-1) for before, after in streams]
    gains = [after.grad.norm(dim=-1) * update for (_, after), update in zip(streams, updates)]
    last = watch.last
    torch.testing.assert_close(last.update, sum(updates).detach())
    torch.testing.assert_close(last.gain, sum(gains).detach())
    assert last.worth is last.gain and last.info.hw_shape == (4, 4)
    torch.testing.assert_close(last.x, streams[0][0].detach())


def test_without_gradients_the_worth_is_the_update(watched):
    model, watch = watched
    with torch.no_grad():
        model(torch.randn(1, 3, 16, 16))
    assert watch.last.gain is None and watch.last.worth is watch.last.update
    assert (watch.last.update > 0).all()


def test_frozen_stages_have_gains_and_pruned_passes_nothing(watched):
    model, watch = watched
    model.requires_grad_(False)
    model(torch.randn(1, 3, 16, 16))[-1].sum().backward()
    assert (watch.last.gain > 0).any()
    model.sparsity = .5
    model(torch.randn(1, 3, 16, 16))
    assert watch.last is None
