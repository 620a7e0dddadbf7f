"""Compiled and captured execution: results are those of eager, never stale, never another's."""
import pickle
import warnings
from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from sparsevit_mm.models import execution
from sparsevit_mm.models.execution import Captured
from sparsevit_mm.models.selection.metadata import ToldBatch
from sparsevit_mm.models.selection.ranking import Selection


class FakeCaptured(Captured):
    """Captures on the CPU: a 'graph' runs the forward again on the memory of the input it was
    captured with, and writes to the memory of its outputs, as a CUDA graph does."""

    def serves(self, x):
        return True

    def _capture(self, forward, inputs):
        outs = forward(*inputs)
        captures.append(tuple(inputs[0].shape))

        class Graph:

            def replay(self):
                with torch.inference_mode(False), torch.no_grad():
                    for out, new in zip(outs, forward(*inputs)):
                        out.copy_(new)

        return Graph(), outs


captures = []


@pytest.fixture
def captured(make_swin, monkeypatch):
    """A backbone that captures, and one that does not, of the same weights."""
    monkeypatch.setitem(execution.EXECUTIONS, 'captured', FakeCaptured)
    captures.clear()
    return make_swin(sparsity=.5, execution='captured'), make_swin(sparsity=.5)


def same(model, other, image):
    with torch.no_grad():
        return all(torch.equal(a, b) for a, b in zip(model(image), other(image)))


def test_a_capture_serves_every_input_of_its_shape(captured):
    model, eager = captured
    assert all(same(model, eager, torch.randn(2, 3, 50, 61)) for _ in range(3))
    assert len(captures) == 1


def test_features_outlive_the_next_forward(captured):
    model, eager = captured
    images = torch.randn(2, 1, 3, 40, 40)
    with torch.no_grad():
        first = model(images[0])
        model(images[1])
        assert all(torch.equal(a, b) for a, b in zip(first, eager(images[0])))


def test_configurations_take_turns_without_another_capture(captured):
    model, eager = captured
    image = torch.randn(1, 3, 50, 61)
    for sparsity in (0, .5, [[.3, .3], [0, .5]]) * 2:
        model.sparsity = eager.sparsity = sparsity
        assert same(model, eager, image)
    assert len(captures) == 3


def test_another_shape_or_dtype_is_another_capture(captured):
    model, eager = captured
    for shape in ((1, 3, 40, 40), (2, 3, 40, 40), (1, 3, 40, 44), (1, 3, 40, 40)):
        assert same(model, eager, torch.randn(shape))
    assert len(captures) == 3
    model.half(), eager.half()
    assert same(model, eager, torch.randn(1, 3, 40, 40).half())
    assert len(captures) == 4


@pytest.mark.parametrize('change', [
    lambda m: m.load_state_dict({k: v * 1.1 if v.is_floating_point() else v
                                 for k, v in m.state_dict().items()}),
    lambda m: [p.data.copy_(p.data * .9) for p in m.parameters()],  # as EMAHook does
    lambda m: [setattr(p, 'data', p.data * .9) for p in m.parameters()],
    lambda m: m.stages[0].blocks[0].ffn.layers[1].weight.data.zero_(),
    lambda m: setattr(m.norm1, 'weight', torch.nn.Parameter(m.norm1.weight.data * 2)),
    lambda m: setattr(m.stages[0].blocks[0], 'norm1', torch.nn.LayerNorm(16)),
    lambda m: m.stages[0].blocks[0].attn.w_msa.register_parameter('extra', None),
    lambda m: m.train().eval(),
    lambda m: m.double().float(),
])
def test_weights_changed_after_the_capture_count(captured, change):
    model, eager = captured
    image = torch.randn(1, 3, 50, 61)
    assert same(model, eager, image)
    change(model), change(eager)
    assert same(model, eager, image)
    assert same(model, eager, torch.randn(1, 3, 50, 61))


def test_inference_mode_and_autocast_have_captures_of_their_own(captured):
    model, eager = captured
    image = torch.randn(1, 3, 40, 40)
    for _ in range(2):
        assert same(model, eager, image)
        with torch.inference_mode():
            features = model(image), eager(image)
        assert all(torch.equal(a, b) and a.is_inference() for a, b in zip(*features))
        with torch.autocast('cpu', torch.bfloat16):
            assert same(model, eager, image)
    assert len(captures) == 3


def test_training_and_gradients_are_eager(captured):
    model, _ = captured
    image = torch.randn(1, 3, 40, 40)
    assert model(image)[0].requires_grad
    with torch.no_grad():
        model.train()(image)
    assert not captures


def test_too_many_shapes_run_eagerly_with_one_warning(captured, monkeypatch):
    monkeypatch.setattr(execution, 'MAX_SHAPES', 2)
    model, eager = captured
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for side in (40, 44, 48, 52, 40):
            assert same(model, eager, torch.randn(1, 3, side, side))
    assert len([w for w in caught if 'more than 2 input shapes' in str(w.message)]) == 1
    assert len(captures) == 2


def test_captures_unused_for_long_go(captured, monkeypatch):
    monkeypatch.setattr(execution, 'MAX_KEPT', 2)
    model, eager = captured
    image = torch.randn(1, 3, 40, 40)
    for sparsity in (.1, .2, .1, .3, .1, .2):
        model.sparsity = eager.sparsity = sparsity
        assert same(model, eager, image)
    assert len(captures) == 4  # .1, .2, .3, and .2 again


def test_captures_outlive_the_cache_of_partitions(captured, monkeypatch):
    from sparsevit_mm.models import windows
    model, eager = captured
    image = torch.randn(1, 3, 50, 61)
    same(model, eager, image)
    recording, = model._executor._recordings.values()
    held = recording.__kwdefaults__['held']
    made = [windows.partition(13, 16, 4, shift, torch.device('cpu')) for shift in (0, 2)]
    assert all(any(h is m for h in held) for m in made) and not windows._holders


def test_copies_and_pickles_start_without_captures(captured, monkeypatch):
    model, eager = captured
    image = torch.randn(1, 3, 40, 40)
    same(model, eager, image)
    copy = deepcopy(model)
    copy.sparsity = eager.sparsity = 0
    assert same(copy, eager, image) and len(captures) == 2
    assert copy._executor is not model._executor
    monkeypatch.setitem(execution.EXECUTIONS, 'captured', Captured)
    model.execution = 'captured'
    assert pickle.loads(pickle.dumps(model)).execution == 'captured'


def test_without_cuda_a_captured_backbone_runs_eagerly_with_one_warning(make_swin):
    model = make_swin(execution='captured')
    image = torch.randn(1, 3, 40, 40)
    with pytest.warns(UserWarning, match='needs? CUDA'):
        same(model, model, image)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert same(model, make_swin(), image)


def test_hooks_of_the_visualiser_see_every_block(captured):
    model, _ = captured
    with torch.no_grad():
        model(torch.randn(1, 3, 40, 40))
        with model.recording() as maps:
            model(torch.randn(1, 3, 40, 40))
    assert [len(stage) for stage in maps] == [2, 2] and model.execution == 'captured'


def test_an_unknown_execution_is_named(make_swin):
    with pytest.raises(ValueError, match="'fast' .*eager, compiled, captured"):
        make_swin(execution='fast')


@pytest.mark.slow
def test_compiled_equals_eager_and_follows_the_weights(make_swin):
    model, eager = make_swin(sparsity=.5, execution='compiled'), make_swin(sparsity=.5)
    image = torch.randn(2, 3, 50, 61)
    for _ in range(2):
        with torch.no_grad():
            for got, expected in zip(model(image), eager(image)):
                torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        for parameter in [*model.parameters(), *eager.parameters()]:
            parameter.data.mul_(.9)


@pytest.mark.slow
def test_more_configurations_compile_than_one_function_recompiles_for(make_swin, monkeypatch):
    """Without a graph break; traced only, since generating code for each takes minutes."""
    monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend='aot_eager'))
    model, eager = make_swin(execution='compiled'), make_swin()
    image = torch.randn(1, 3, 64, 64)
    for i in [*range(10), 0]:
        model.sparsity = eager.sparsity = i / 11
        with torch.no_grad():
            for got, expected in zip(model(image), eager(image)):
                torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert len(model._executor._recordings) == 10


@pytest.mark.slow
@pytest.mark.parametrize('importance', ['magnitude', 'variation', 'distinct', 'learned'])
def test_torch_compile_takes_the_whole_backbone(make_swin, importance):
    model, image = make_swin(sparsity=.5, importance=importance), torch.randn(1, 3, 50, 61)
    with torch.no_grad():
        expected = model(image)
        for got, feature in zip(torch.compile(model, fullgraph=True)(image), expected):
            torch.testing.assert_close(got, feature, atol=1e-5, rtol=1e-5)


def test_each_score_has_a_capture_of_its_own_and_follows_its_heads(captured):
    model, eager = captured
    image = torch.randn(2, 3, 50, 61)
    for importance in ('magnitude', 'variation', 'distinct', 'learned') * 2:
        model.selection = eager.selection = Selection(importance)
        assert same(model, eager, image)
    before = model(image)
    for stages in zip(model.stages, eager.stages):
        for stage in stages:
            stage.importance.set(-torch.arange(len(stage.importance.weight.data)) % 7 - 3.)
    assert same(model, eager, image)
    assert not torch.equal(model(image)[0], before[0])


def test_a_selection_and_a_group_size_have_captures_of_their_own(captured):
    model, eager = captured
    image = torch.randn(4, 3, 50, 61) * torch.arange(1, 5)[:, None, None, None]
    selections = [Selection(), Selection(scope='group', group_size=2),
                  Selection(scope='group', group_size='batch')]
    seen = []
    for selection in selections * 2:
        model.selection = eager.selection = selection
        assert same(model, eager, image)
        with torch.no_grad():
            seen.append(model(image)[0])
    assert len(captures) == 3
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


@pytest.mark.parametrize('mode', [
    pytest.param('compiled', marks=pytest.mark.slow), 'captured'])
@torch.no_grad()
def test_a_recording_heeds_each_image_s_padding(captured, mode):
    """One recording without padding, one with any."""
    model, eager = captured
    model.execution = mode
    image = torch.randn(1, 3, 64, 64)
    for size in ((64, 64), (40, 64), (64, 30), (40, 64)):
        sample = SimpleNamespace(metainfo=dict(img_shape=size))
        model.told = eager.told = ToldBatch(tuple(image.shape), [sample])
        for got, expected in zip(model(image), eager(image)):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert len(model._executor._recordings) == 2
