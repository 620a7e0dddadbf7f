"""The learned score's heads: what they rank by, how they travel, and how the task trains them."""
import re

import pytest
import torch
from helpers import BACKBONE, backbone
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from sparsevit_mm import SparseSwinTransformer
from sparsevit_mm.models.selection.head import ImportanceHead
from sparsevit_mm.models.selection.importance import TOKEN_SCORES, MapInfo
from sparsevit_mm.models.selection.ranking import Batch, Selection, rank_windows, valid_windows
from sparsevit_mm.models.swin.kernels import reference
from sparsevit_mm.models.windows import num_windows, partition
from sparsevit_mm.sparsity import kept_windows

LEARNED = dict(importance='learned')
HEADS = ['stages.0.importance.weight', 'stages.1.importance.weight']
IMAGE = torch.randn(2, 3, 50, 61, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_head_as_built_scores_and_ranks_as_variation(make_swin):
    x = torch.randn(2, 63, 16)
    torch.testing.assert_close(
        TOKEN_SCORES['learned'](x, MapInfo((7, 9), head=ImportanceHead(16))),
        TOKEN_SCORES['variation'](x, MapInfo((7, 9))), atol=0, rtol=1e-5)
    model = make_swin(sparsity=[.3, .6], importance='variation')
    expected = model(IMAGE)
    model.selection = Selection('learned')
    assert all(map(torch.equal, model(IMAGE), expected))


def test_heads_that_are_set_score_by_these_weights():
    head, weights = ImportanceHead(4), torch.randn(7)
    head.set(weights)
    torch.testing.assert_close(head.weight * 10, weights)


def strictly(model, state):
    model.load_state_dict(state, strict=True)


def as_mmengine(model, state):
    load_state_dict(model, state, strict=True)


def in_a_model(model, state):
    whole = nn.ModuleDict(dict(backbone=model, head=nn.Linear(1, 1)))
    whole.load_state_dict({**{f'backbone.{key}': value for key, value in state.items()},
                           **{f'head.{k}': v for k, v in whole.head.state_dict().items()}})


loads = pytest.mark.parametrize('load', [strictly, as_mmengine, in_a_model])


@loads
def test_dense_checkpoints_load_strictly_and_leave_the_heads(make_swin, load):
    dense, model = make_swin(), make_swin(seed=1, **LEARNED)
    before = {key: model.state_dict()[key].clone() for key in HEADS}
    load(model, dense.state_dict())
    state = model.state_dict()
    assert state.keys() - dense.state_dict().keys() == set(HEADS)
    assert all(torch.equal(state[k], v) for k, v in (dense.state_dict() | before).items())


@loads
@pytest.mark.parametrize('built', [LEARNED, {}], ids=['with heads', 'without'])
@torch.no_grad()
def test_checkpoints_with_heads_load_into_any_backbone(make_swin, load, built):
    source = make_swin(sparsity=.5, **LEARNED)
    model = make_swin(seed=1, sparsity=.5, **built)
    load(model, source.state_dict())
    assert model.selection.importance == built.get('importance', 'variation')
    assert all(torch.equal(model.state_dict()[k], v) for k, v in source.state_dict().items())
    model.selection = Selection('learned')
    assert all(map(torch.equal, model(IMAGE), source(IMAGE)))


@loads
@pytest.mark.parametrize('built', [LEARNED, {}], ids=['with heads', 'without'])
@pytest.mark.parametrize('change, named', [
    (lambda s: s.update({HEADS[0]: torch.zeros(9)}), [HEADS[0], '(9,)', '(19,)']),
    (lambda s: s.pop(HEADS[1]), [HEADS[1], 'missing', '(35,)']),
    (lambda s: s.update({'stages.2.importance.weight': torch.zeros(67)}),
     ['stages.2.importance.weight', '(67,)', 'not a stage'])])
def test_heads_that_do_not_fit_are_refused_by_key(make_swin, load, built, change, named):
    state = dict(make_swin(**LEARNED).state_dict())
    change(state)
    with pytest.raises(ValueError, match='.*'.join(map(re.escape, named))) as refused:
        load(make_swin(**built), state)
    assert sum(key in str(refused.value) for key in HEADS) <= 1, 'only what differs'


def trained(model, sparsity):
    model.sparsity = sparsity
    model.train()(IMAGE)
    return model.eval()


@loads
def test_without_fitted_heads_a_loaded_model_prunes_in_training_only(make_swin, load):
    model = make_swin(**LEARNED)
    load(model, make_swin().state_dict())
    model(IMAGE)  # dense
    trained(model, 0)
    model.sparsity = .5
    for _ in range(2):
        with pytest.raises(ValueError, match='tools/fit_importance.py'):
            model(IMAGE)
    model.selection = Selection()
    model(IMAGE)
    model.selection = Selection('learned')
    trained(model, .5)(IMAGE)
    load(model, make_swin().state_dict())
    with pytest.raises(ValueError, match='fit_importance'):
        model(IMAGE)
    load(model, make_swin(seed=1, **LEARNED).state_dict())
    model(IMAGE)


def test_a_score_chosen_after_loading_lacks_heads_too(make_swin):
    model = make_swin(sparsity=.5)
    model.load_state_dict(make_swin().state_dict())
    model.selection = Selection('learned')
    with pytest.raises(ValueError, match='fit_importance'):
        model(IMAGE)


def test_a_model_of_random_weights_runs(make_swin):
    assert make_swin(sparsity=.5, **LEARNED)(IMAGE)[0].isfinite().all()


@pytest.mark.parametrize('toolkit', ['mmdet', 'mmseg'])
def test_names_are_the_toolkits_until_it_trains_pruned(make_swin, narrow, toolkit):
    swin = pytest.importorskip(f'{toolkit}.models.backbones.swin')
    theirs = swin.SwinTransformer(**narrow()).state_dict().keys()
    model = make_swin(sparsity=.5)
    model(IMAGE)
    trained(model, 0)
    assert model.state_dict().keys() == theirs
    trained(model, .5)
    assert model.state_dict().keys() - theirs == {'adapted_to.importance'}


@pytest.mark.parametrize('changes', [
    {}, dict(scope='group', group_size=2), dict(with_cp=True)])
def test_the_gate_changes_no_bit_of_the_features(make_swin, monkeypatch, changes):
    model = make_swin(sparsity=[[0, .5], [.5, .8]], **LEARNED, **changes).train()
    gated, gates = model(IMAGE), []
    monkeypatch.setattr(reference, 'gate_update',
                        lambda before, after, gate: gates.append(gate) or after)
    assert all(map(torch.equal, gated, model(IMAGE)))
    assert len(gates) == 3 and all(gate.requires_grad for gate in gates)
    assert all(gate.std() > 0 for gate in gates), 'its value is not 1'


def by_the_formula(stage, x, hw, ratios, selection, batch):
    """``x + g * (block(x) - x)`` on the windows that run, g being 1 plus the share less its value;
    autograd does the rest. Blocks run dense, since a window knows no other."""
    gates, length = {}, x.shape[1]
    for block, ratio in zip(stage.blocks, ratios):
        windows = partition(*hw, stage.window_size, block.shift, x.device)
        dense = block(x, windows)
        if not ratio:
            x = dense
            continue
        if not gates:
            scores = TOKEN_SCORES['learned'](
                x.detach(), MapInfo(hw, batch.sizes, head=stage.importance))
        if block.shift not in gates:
            energies = torch.stack([torch.stack([
                sum(image[t]**2 for t in tokens.tolist() if t < length)
                for tokens in windows.table]) for image in scores])
            valid = None if batch.sizes is None else valid_windows(windows, batch.sizes)
            with torch.no_grad():
                order = rank_windows(energies.sqrt(), valid, batch.group)
            share = torch.cat([e / e.mean() for e in energies.split(batch.group)])
            gates[block.shift] = order, 1 + share - share.detach()
        order, gate = gates[block.shift]
        kept = kept_windows(num_windows(*hw, stage.window_size), ratio) * batch.group
        factor = torch.zeros(gate.numel())
        for group, places in enumerate(order[:, :kept]):
            chosen = group * batch.group * windows.num_windows + places
            factor[chosen] = gate.flatten()[chosen]
        factor = factor.reshape(gate.shape)
        of_token = torch.stack([factor[:, w] for w in _window_of(windows, length)], 1)
        x = x + of_token[..., None] * (dense - x)
    return x


def _window_of(windows, length):
    owner = {t: w for w, tokens in enumerate(windows.table.tolist()) for t in tokens}
    return [owner[t] for t in range(length)]


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('selection, batch', [
    (Selection('learned'), Batch()),
    (Selection('learned'), Batch(sizes=torch.tensor([[7, 9], [4, 9], [7, 3], [2, 2]]))),
    (Selection('learned', 'group', 2), Batch(2)),
    (Selection('learned', 'group', 4),
     Batch(4, torch.tensor([[7, 9], [4, 9], [7, 3], [2, 2]])))])
@pytest.mark.parametrize('ratios', [[.3, .3, .6, .6], [0, .4, .4, .7]])
def test_gradients_are_those_of_the_formula(randomise, with_cp, selection, batch, ratios):
    """Of the head, of every other parameter and of the input; windows of 2 on a map of 7 x 9."""
    model = randomise(backbone(depths=(4, ), num_heads=(2, ), strides=(2, ), out_indices=(0, ),
                               with_cp=with_cp, **LEARNED)).train()
    stage, hw = model.stages[0], (7, 9)
    grads, x, weight = [], torch.randn(4, 63, 8), torch.randn(4, 63, 8)
    for run in (stage, lambda *args: by_the_formula(stage, *args)):
        stage.zero_grad()
        leaf = x.clone().requires_grad_()
        (run(leaf, hw, ratios, selection, batch) * weight).sum().backward()
        grads.append([leaf.grad] + [p.grad.clone() for p in stage.parameters()
                                    if p.grad is not None])
    assert stage.importance.weight.grad.abs().max() > 1e-3
    assert len(grads[0]) == len(grads[1])
    for got, expected in zip(*grads):
        largest = float(expected.abs().max())  # up to 5000, of the head
        torch.testing.assert_close(got, expected, atol=max(2e-6, 2e-6 * largest), rtol=2e-4)


def test_heads_get_no_gradient_in_eval(make_swin):
    model = make_swin(sparsity=.5, **LEARNED)
    sum(f.sum() for f in model(IMAGE)).backward()
    assert [stage.importance.weight.grad for stage in model.stages] == [None, None]
    assert model.norm0.weight.grad is not None


@pytest.mark.parametrize('sparsity, trains', [
    ([[0, 0], [.5, .5]], [False, True]), ([[0, .5], 0], [True, False]), (0, [False, False])])
@pytest.mark.parametrize('dtype', [None, torch.bfloat16])
def test_a_stage_that_does_not_prune_gives_its_head_a_zero_gradient(
        make_swin, sparsity, trains, dtype):
    model = make_swin(sparsity=sparsity, **LEARNED).train()
    with torch.autocast('cpu', dtype, enabled=dtype is not None):
        features = model(IMAGE)
    sum(f.float().sin().sum() for f in features).backward()
    grads = [stage.importance.weight.grad for stage in model.stages]
    assert all(g is not None and g.isfinite().all() for g in grads)
    assert [bool(g.any()) for g in grads] == trains


def test_heads_take_their_stage_s_device_and_dtype(make_swin):
    model = make_swin(sparsity=.5).double()
    model.selection = Selection('learned')
    assert {stage.importance.weight.dtype for stage in model.stages} == {torch.float64}
    model(IMAGE.double())
    heads = [stage.importance for stage in model.stages]
    model.selection = Selection('learned', 'group')
    assert [stage.importance for stage in model.stages] == heads, 'they are kept'


def test_the_smallest_backbone_has_heads_in_the_width_of_its_stages():
    config = {k: v for k, v in BACKBONE.items() if k != 'type'}
    model = SparseSwinTransformer(**config, **LEARNED)
    assert [len(stage.importance.weight) for stage in model.stages] == [8 + 3, 16 + 3]
