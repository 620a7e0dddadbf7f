"""A backbone on the first heads and neurons of its blocks."""
import copy

import pytest
import torch
from helpers import backbone
from mmengine.registry import MODELS

from sparsevit_mm.models import execution
from sparsevit_mm.models.swin.kernels import cpu
from sparsevit_mm.weights.compaction import cut
from sparsevit_mm.widths import StageWidths, parse_widths

SWIN = dict(embed_dims=16, num_heads=(4, 4), window_size=3)
VIT = dict(type='EvoVisionTransformer', img_size=24, patch_size=4, embed_dims=24, num_layers=3,
           num_heads=3, sparsity=0.)
MAKE = dict(swin=lambda **c: backbone(**{**SWIN, **c}), vit=lambda **c: MODELS.build({**VIT, **c}))
NARROW = dict(swin=dict(heads=[.5, .25], ffn=[.3, .6]), vit=dict(heads=.7, ffn=.3))
SPARSE = dict(swin=.6, vit=[[0, .5, .5]])
IMAGE = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=MAKE)
def kind(request):
    return request.param


@pytest.fixture
def model(kind, randomise):
    return randomise(MAKE[kind]()).eval()


def smaller(kind, model):
    """The ordinary model that runs as this one does."""
    made = cut(model)
    new = MAKE[kind](block_heads=made.block_heads, ffn_widths=made.ffn_widths).eval()
    new.load_state_dict(made.state)
    new.sparsity = model.sparsity
    return new


@torch.no_grad()
def run(model, image=IMAGE):
    return model(image)


def check_equal(one, other):
    for first, second in zip(one, other):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('sparse', [False, True])
@pytest.mark.parametrize('training', [False, True])
def test_it_equals_the_model_without_the_others(kind, model, sparse, training):
    model.widths = NARROW[kind]
    model.sparsity = SPARSE[kind] if sparse else None
    new = smaller(kind, model)
    check_equal(run(model.train(training)), run(new.train(training)))
    check_equal(run(model, IMAGE[..., :20]), run(new, IMAGE[..., :20]))
    assert model.macs((24, 24), model.sparsity) == new.macs((24, 24), new.sparsity)
    one, other = model.identity(), new.identity()
    assert {k for k in one if one[k] != other[k]} == {'parameters'}


def test_blocks_run_by_chunks_too(model, kind, monkeypatch):
    model.widths = NARROW[kind]
    expected = run(model)
    monkeypatch.setattr('sparsevit_mm.models.chunks.pays', lambda x: True)
    monkeypatch.setattr(cpu, 'MIN_TOKENS', 20)
    check_equal(expected, run(model))


def test_at_full_width_the_path_is_the_one_before(model, monkeypatch):
    expected = run(model)
    calls = []
    for module in ('models.narrow', 'models.swin.attention', 'models.vit.block'):
        monkeypatch.setattr(f'sparsevit_mm.{module}.take_first', lambda *a: calls.append(a))
    model.widths = dict(heads=1, ffn=1.)
    assert all(map(torch.equal, run(model), expected)) and not calls
    assert model.widths.is_full and not any(map(any, model.running_units()))


def test_nothing_is_kept_between_passes(model, kind):
    full = run(model)
    model.widths = NARROW[kind]
    before = run(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(.9)
    after = run(model)
    assert not torch.allclose(after[-1], before[-1])
    check_equal(after, run(smaller(kind, model)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.div_(.9)
    model.widths = None
    check_equal(run(model), full)


def test_the_others_get_no_gradient(model, kind):
    model.widths = NARROW[kind]
    model.train()
    sum(out.square().sum() for out in model(IMAGE)).backward()
    block = model.attention_blocks()[0]
    widen, narrow = block.ffn.layers[0][0], block.ffn.layers[1]
    kept = model.running_units()[0][0].neurons
    for gradient in (widen.weight.grad, widen.bias.grad, narrow.weight.grad.t()):
        assert gradient[:kept].flatten().ne(0).any() and not gradient[kept:].any()
    assert all(p.grad is not None for p in block.parameters() if p.requires_grad)


def test_recordings_follow(kind, model, monkeypatch):
    """Each width has a recording of its own, and that one is found again."""
    made = []

    class Counted(execution.Executor):
        def serves(self, x):
            return True

        def record(self, forward, inputs):
            made.append(model.widths)
            outs = forward(*inputs)
            return lambda *_: outs

    monkeypatch.setitem(execution.EXECUTIONS, 'compiled', Counted)
    model.execution = 'compiled'
    outs = []
    for widths in (None, NARROW[kind], None, NARROW[kind]):
        model.widths = widths
        outs.append(run(model))
    assert len(made) == 2
    assert torch.equal(outs[0][-1], outs[2][-1]) and torch.equal(outs[1][-1], outs[3][-1])
    assert not torch.allclose(outs[0][-1], outs[1][-1])


def test_one_unit_stays(kind, model):
    model.widths = dict(heads=.01, ffn=.001)
    assert {w for stage in model.unit_numbers() for w in stage} == {(1, 1)}
    check_equal(run(model), run(smaller(kind, model)))


def test_configs_give_them(kind):
    model = MAKE[kind](widths=NARROW[kind])
    assert model.widths == StageWidths.of(NARROW[kind], len(model.depths))
    assert copy.deepcopy(model).widths == model.widths


@pytest.mark.parametrize('value, message', [
    (dict(heads=0), 'width of heads of stage 0 is 0'), (dict(ffn=1.5), 'ffn of stage 0 is 1.5'),
    (dict(ffn=float('nan')), 'is nan'), (dict(heads=True), 'is True'),
    (dict(heads=[1, 1, 1, 1]), 'one for each of'), (dict(neurons=.5), 'widths of neurons'),
    (dict(heads='1'), 'neither one share')])
def test_bad_widths_are_refused(model, value, message):
    with pytest.raises(ValueError, match=message):
        model.widths = value
    assert model.widths.is_full


def test_a_backbone_without_such_blocks_refuses_them():
    model = MODELS.build(dict(type='EvoLeViT', arch='128s'))
    with pytest.raises(ValueError, match='EvoLeViT has no blocks'):
        model.widths = dict(heads=.5)
    with pytest.raises(TypeError, match='widths 0.5 .*dict'):
        model.widths = .5
    with pytest.raises(ValueError, match='FFN of 3 layers'):
        MAKE['vit'](num_fcs=3, widths=dict(ffn=.5))


def test_stages_of_a_vit(randomise):
    model = randomise(MAKE['vit'](reselect='stage')).eval()
    model.widths = dict(ffn=[1, .5, .25])
    assert [w.neurons for stage in model.unit_numbers() for w in stage] == [96, 48, 24]
    with pytest.raises(ValueError, match='1 stages.* 3'):
        model.reselect = 'layer'
    model.widths = None
    model.reselect = 'layer'
    model.widths = dict(ffn=[.5])


def test_texts():
    assert parse_widths(['heads=.5,1', 'ffn=1']) == dict(heads=(1., .5), ffn=(1., ))
    for text in ('heads', 'heads=', 'heads=a', 'tails=1', 'heads=0', 'heads=1,1'):
        with pytest.raises(ValueError):
            parse_widths([text])
    with pytest.raises(ValueError, match='twice'):
        parse_widths(['heads=1', 'heads=.5'])


def test_scores_are_watched_at_part_of_the_width(kind, model):
    """Hooks on stages and blocks see what they saw."""
    model.widths = NARROW[kind]
    names = model.scores_for(model.space.config(SPARSE[kind]))[:2]
    with model.watching(names) as take:
        run(model)
        seen = take()
    assert seen and all(set(one.scores) <= {*names} for one in seen)
    model.sparsity = SPARSE[kind]
    with model.recording() as maps:
        run(model)
    assert [len(stage) for stage in maps] == list(model.depths)
