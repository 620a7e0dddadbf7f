"""A budget set at run time gives what a fresh model of that sparsity gives."""
import json
import math
import warnings

import pytest
import torch
from helpers import backbone
from torch import nn

from sparsevit_mm import Front, SparsityConfig, set_latency_budget
from sparsevit_mm.cost.additive import Stage
from sparsevit_mm.cost.latency import device_name
from sparsevit_mm.cost.table import Check, LatencyTable, backbone_identity
from sparsevit_mm.budget import FrontPoint
from sparsevit_mm.models import execution, get_sparse_backbone
from sparsevit_mm.models.checkpoints import fingerprint

CONFIGS = [SparsityConfig(c, (2, 2)) for c in (.8, [.6, .2], [[.2, .2], 0], 0)]
FRONT = Front([FrontPoint(config, 5. * (i + 1), .1 * i) for i, config in enumerate(CONFIGS)],
              'mAP', {})
BUDGETS = {5.: 0, 12.: 1, 19.9: 2, 20.: 3, 1e9: 3}



def table(**changes):
    """Of a device that takes 20 ms where nothing is pruned, and 4 ms less for each block that keeps
    one window of ten."""
    stages = [Stage(10, [1, 9], [-4., -.5], 0.)] * 2
    check = Check(.01, .02, 1., .01, .02, 5, 2)
    return LatencyTable({}, backbone_identity(backbone(**changes)), (0., .1, .9), 20., stages,
                        check)


def detector(randomise, seed=0, **changes):
    """A model that holds a backbone somewhere; equal seeds give equal weights."""
    return nn.Sequential(nn.Identity(), randomise(backbone(**changes), seed)).eval()


def outputs(model, image):
    with torch.no_grad():
        return model(image)


@pytest.mark.parametrize('mode', ['eager', 'captured'])
def test_budgets_in_turn_give_what_a_fresh_model_of_that_sparsity_gives(
        randomise, monkeypatch, mode):
    captured = capture_on_the_cpu(monkeypatch)
    model, image = detector(randomise, execution=mode), torch.randn(2, 3, 20, 28)
    seen = []
    for ms in [*BUDGETS, *reversed(BUDGETS)]:
        expected = CONFIGS[BUDGETS[ms]]
        assert set_latency_budget(model, ms, FRONT) == expected == model[1].sparsity
        fresh = detector(randomise, sparsity=expected)
        seen.append(outputs(model, image))
        assert all(map(torch.equal, seen[-1], outputs(fresh, image)))
    assert not torch.equal(seen[0][1], seen[3][1])
    assert len(captured) == (0 if mode == 'eager' else len(CONFIGS))


def capture_on_the_cpu(monkeypatch):
    """Stands in for a CUDA graph: one recording for each configuration, listed as made, that can
    run no other."""

    class Recorded(execution.Captured):

        def serves(self, x):
            return True

        def record(self, forward, inputs):
            backbone = forward.func.__self__
            made.append(sparsity := backbone.sparsity)

            def replay(*inputs):
                assert backbone.sparsity == sparsity
                return forward(*inputs)

            return replay

    made = []
    monkeypatch.setitem(execution.EXECUTIONS, 'captured', Recorded)
    return made


def test_a_front_in_a_file_counts_as_the_front(randomise, tmp_path):
    FRONT.save(tmp_path / 'front.json')
    model = detector(randomise)
    for path in (tmp_path / 'front.json', str(tmp_path / 'front.json')):
        model[1].sparsity = 0
        assert set_latency_budget(model, 12, path) == CONFIGS[1] == model[1].sparsity
    with pytest.raises(FileNotFoundError, match='front nowhere.json'):
        set_latency_budget(model, 12, 'nowhere.json')


@pytest.mark.parametrize('ms, best', [(10, 0), (18, 1), (19, 2), (20, 3)])
def test_latencies_of_a_table_take_the_place_of_the_front_s(randomise, ms, best):
    assert set_latency_budget(detector(randomise), ms, FRONT, table()) == CONFIGS[best]


@pytest.mark.parametrize('ms, other, named', [
    (4.9, None, r'4.9 ms or less.*\[0.8.*5.000 ms'),
    (5, table(), r'5 ms or less.*\[0.8.*5.750 ms'),
    (math.nan, None, 'must be positive, not nan ms'), (-1, None, 'must be positive, not -1 ms'),
    (1e9, table(depths=(2, 4), embed_dims=16), r'depths: \[2, 4\] in the table, \[2, 2\] here; '
     r'channels: \[16, 32\] in the table, \[8, 16\] here')])
def test_a_budget_that_can_not_be_met_leaves_the_model_as_it_was(randomise, ms, other, named):
    model = detector(randomise, sparsity=.4)
    with pytest.raises(ValueError, match=named):
        set_latency_budget(model, ms, FRONT, other)
    assert model[1].sparsity == SparsityConfig(.4, (2, 2))


def test_a_front_of_another_backbone_is_refused(randomise):
    model = detector(randomise, depths=(2, 4), sparsity=.4)
    with pytest.raises(ValueError, match=r'depths \(2, 2\), .* \(2, 4\)'):
        set_latency_budget(model, 1e9, FRONT)
    assert model[1].sparsity == SparsityConfig(.4, (2, 4))


def test_a_model_without_a_sparse_backbone_is_refused():
    with pytest.raises(ValueError, match='holds 0 sparse backbones'):
        set_latency_budget(nn.Linear(1, 1), 5, FRONT)


def test_a_front_of_another_device_or_checkpoint_is_said_once(randomise, tmp_path):
    model, other = detector(randomise), detector(randomise, seed=1)
    weights = fingerprint(get_sparse_backbone(model))
    here = dict(device=device_name('cpu'), execution='eager')
    Front(FRONT.points, 'mAP', here, 'abc', weights).save(tmp_path / 'front.json')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        set_latency_budget(model, 12., tmp_path / 'front.json')
        set_latency_budget(model.to(torch.bfloat16), 12., tmp_path / 'front.json')
    with pytest.warns(UserWarning, match='another checkpoint') as said:
        set_latency_budget(other, 12., tmp_path / 'front.json')
    elsewhere = Front(FRONT.points, 'mAP', {**here, 'device': 'A GPU'}, 'abc', weights)
    with pytest.warns(UserWarning, match=f'device A GPU, here {here["device"][:4]}'):
        set_latency_budget(model, 12., elsewhere)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        set_latency_budget(model, 5., elsewhere)
    assert len(said) == 1


def test_a_front_written_before_it_named_its_checkpoint_is_read(tmp_path, randomise):
    FRONT.save(tmp_path / 'front.json')
    record = json.loads((tmp_path / 'front.json').read_text())
    del record['checkpoint'], record['weights']
    (tmp_path / 'front.json').write_text(json.dumps(record))
    assert Front.load(tmp_path / 'front.json') == FRONT
    set_latency_budget(detector(randomise), 12., tmp_path / 'front.json')
