import time

import numpy as np
import pytest
import torch
from helpers import backbone
from hypothesis import given
from hypothesis import strategies as st

from sparsevit_mm.cost import latency
from sparsevit_mm.cost.latency import Latency, LatencyMeter, LatencySetting
from sparsevit_mm.sparsity import SparsityConfig

SETTING = LatencySetting((16, 24), batch_size=2, num_threads=1)
CONFIGS = [0, .5, [[.2, .2], 0]]


def meter_with_clock(milliseconds, rounds):
    """A meter on which run number n takes ``milliseconds(n, config)``, and the runs so far."""
    meter, runs = LatencyMeter(backbone(), SETTING, rounds), []

    def run(config):
        runs.append(config)
        return milliseconds(len(runs) - 1, config)

    meter._run = run
    return meter, runs


def test_configurations_run_in_turn_after_a_round_of_warm_up():
    meter, runs = meter_with_clock(lambda n, config: 1., rounds=4)
    meter.measure(CONFIGS)
    assert runs == 5 * [SparsityConfig(c, (2, 2)) for c in CONFIGS]


def test_warm_up_leaves_no_trace():
    meter, _ = meter_with_clock(lambda n, config: 1e6 if n < 3 else 7., rounds=5)
    assert meter.measure(CONFIGS) == 3 * [Latency(7., 7., 7., 1.)]


def test_ratios_are_to_the_first_and_do_not_see_the_machine_slow_down():
    """Each round is slower than the last, the dense model twice as slow as the others."""
    meter, _ = meter_with_clock(
        lambda n, config: (2. if config.is_dense else 1.) * (1 + n // 3)**2, rounds=7)
    dense, one, other = meter.measure(CONFIGS)
    assert dense.ratio == 1 and one.ratio == other.ratio == .5
    assert dense.median == 2 * one.median == 2 * 5**2  # rounds 2 to 8: the middle one is 5


@given(st.lists(st.floats(.1, 100), min_size=1, max_size=9))
def test_median_and_quartiles_are_those_of_the_rounds(times):
    meter = LatencyMeter(backbone(), SETTING, rounds=len(times))
    turns = iter([1., *times])
    meter._run = lambda config: next(turns)
    measured = meter.measure([0])[0]
    assert [measured.low, measured.median, measured.high] == pytest.approx(
        np.quantile(times, (.25, .5, .75)))
    assert measured.ratio == 1


@pytest.mark.parametrize('dtype', ['fp32', 'bf16', 'fp16'])
def test_model_it_came_from_is_untouched(dtype):
    model = backbone(sparsity=.3).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    threads = torch.get_num_threads()
    setting = LatencySetting((16, 24), dtype=dtype, num_threads=threads + 1)
    meter = LatencyMeter(model, setting, rounds=1)
    measured = meter.measure([0, .6])
    assert all(0 < m.low <= m.median <= m.high for m in measured)
    assert meter.backbone.patch_embed.projection.weight.dtype == latency.DTYPES[dtype]
    assert model.sparsity == SparsityConfig(.3, (2, 2)) and model.training
    after = model.state_dict()
    assert all(after[name].dtype == tensor.dtype and torch.equal(after[name], tensor)
               for name, tensor in before.items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.get_num_threads() == threads


def test_what_runs_is_the_configuration_at_the_setting():
    meter = LatencyMeter(backbone(in_channels=5), SETTING, rounds=1)
    seen = []
    meter.backbone.register_forward_hook(lambda module, inputs, output: seen.append(
        (module.sparsity, tuple(inputs[0].shape), torch.get_num_threads(),
         torch.is_inference_mode_enabled(), module.training)))
    meter.measure(CONFIGS)
    assert seen == 2 * [(SparsityConfig(c, (2, 2)), (2, 5, 16, 24), 1, True, False)
                        for c in CONFIGS]


def test_the_backbone_measured_runs_by_the_execution_of_the_setting(monkeypatch):
    model = backbone()
    monkeypatch.setattr('sparsevit_mm.models.execution.Compiled.record',
                        lambda self, forward, x: ran.append(self) or forward)
    ran = []
    meter = LatencyMeter(model, LatencySetting((16, 24), execution='compiled'), rounds=1)
    meter.measure([0, .6, .6])
    assert len(ran) == 2 and meter.backbone.execution == 'compiled'
    assert model.execution == 'eager'


def test_pruning_most_windows_takes_less_time(monkeypatch):
    """Of the processor: what else the machine does in between counts for nothing."""
    monkeypatch.setattr(latency, 'timer', time.thread_time)
    model = backbone(embed_dims=32, window_size=4)
    meter = LatencyMeter(model, LatencySetting((128, 128), num_threads=1), rounds=5)
    dense, sparse = meter.measure([0, .8])
    assert sparse.ratio < .9 and sparse.median < dense.median


@pytest.mark.parametrize('arguments, named', [
    (dict(shape=(0, 8)), 'shape'), (dict(shape=(8, 8, 8)), 'shape'),
    (dict(shape=(8, 8), batch_size=0), 'batch size'), (dict(shape=(8, 8), dtype='int8'), 'int8'),
    (dict(shape=(8, 8), device='nothing'), 'nothing'),
    (dict(shape=(8, 8), num_threads=-2), '-2 threads'),
    (dict(shape=(8, 8), execution='fast'), "execution 'fast' .*eager, compiled"),
    (dict(shape=(8, 8), execution='captured'), 'captured execution needs CUDA')])
def test_unusable_setting_is_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        LatencySetting(**arguments)


@pytest.mark.parametrize('rounds', [0, -1])
def test_no_rounds_are_refused(rounds):
    with pytest.raises(ValueError, match='rounds'):
        LatencyMeter(backbone(), SETTING, rounds)


def test_setting_says_all_that_latency_depends_on():
    settings = [LatencySetting((16, 24), 2, 'fp32', 'cpu', 3)] + [
        LatencySetting(*changed) for changed in (
            ((24, 16), 2, 'fp32', 'cpu', 3), ((16, 24), 1, 'fp32', 'cpu', 3),
            ((16, 24), 2, 'bf16', 'cpu', 3), ((16, 24), 2, 'fp32', 'cpu', 1),
            ((16, 24), 2, 'fp32', 'cpu', 3, 'compiled'))]
    assert len(set(map(str, settings))) == 6
    assert torch.__version__ in str(settings[0])
    assert str(LatencySetting([16, 24])) == str(
        LatencySetting((16, 24), num_threads=torch.get_num_threads()))
