"""Heads of the learned score are fitted by passes that leave the model as it was."""
from types import SimpleNamespace

import pytest
import torch
from helpers import BACKBONE, ToyModel, backbone

from sparsevit_mm.evaluation.scores.fit import NoLoss, fit_importance
from sparsevit_mm.models.selection.fit import ImportanceFitter
from sparsevit_mm.models.selection.ranking import Selection


class Sampled(ToyModel):
    """Called with data samples, as the toolkits' models are."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return super().forward(inputs, mode)


def make_model(randomise, kind=ToyModel, **changes):
    return randomise(kind(dict(BACKBONE, **changes))).eval()


def batches(number=2, size=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [dict(inputs=torch.randn(size, 3, 16, 16, generator=generator)) for _ in range(number)]


def heads_of(model):
    return [stage.importance.weight.detach().clone() for stage in model.backbone.stages]


def assert_near(one, other, **tolerance):
    for a, b in zip(one, other):
        torch.testing.assert_close(a, b, **tolerance)


def test_model_stays_as_it_was_but_for_the_heads(randomise):
    model = make_model(randomise, frozen_stages=1)
    model.backbone.sparsity, model.backbone.selection = .5, Selection('l2', 'group', 'batch')
    model.backbone.execution = 'compiled'
    model.train()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    wanted = [p.requires_grad for p in model.parameters()]
    model.backbone.make_heads()
    done = []
    fits = fit_importance(model, batches(), held_out=batches(1), on_batch=lambda: done.append(1))
    assert [fit.images for fit in fits] == [4, 4] and len(done) == 3
    assert all(-1 <= figure <= 1 for fit in fits for figure in fit[1:])
    held = model.backbone
    assert (held.sparsity.mean, held.selection.importance, held.execution) == (
        .5, 'l2', 'compiled')
    assert all(torch.equal(model.state_dict()[key], value) for key, value in weights.items())
    heads = {id(stage.importance) for stage in held.stages}
    assert [m.training for m in model.modules() if id(m) not in heads] == modes
    weights = {id(stage.importance.weight) for stage in held.stages}
    assert [p.requires_grad for p in model.parameters() if id(p) not in weights] == wanted
    assert all(p.grad is None for p in model.parameters())
    assert not held.watched and 'learned' not in held.lacking
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in held.modules())


@pytest.mark.parametrize('targets', ['gradient', 'update'])
def test_frozen_stages_and_checkpointed_blocks_get_the_same_heads(randomise, targets):
    heads = []
    for changes in ({}, dict(frozen_stages=2), dict(with_cp=True)):
        model = make_model(randomise, **changes)
        fit_importance(model, batches(), targets)
        heads.append(heads_of(model))
    assert_near(heads[1], heads[0])
    assert_near(heads[2], heads[0])


def test_targets_differ_and_low_precision_serves(randomise):
    model = make_model(randomise)
    fit_importance(model, batches(), 'update')
    by_update = heads_of(model)
    fit_importance(model, batches())
    by_gradient = heads_of(model)
    assert not any(map(torch.allclose, by_update, by_gradient))
    model = model.bfloat16()
    low = [dict(inputs=batch['inputs'].bfloat16()) for batch in batches()]
    fit_importance(model, low, 'update')
    assert all(head.dtype == torch.bfloat16 for head in heads_of(model))
    assert_near([head.float() for head in heads_of(model)], by_update, atol=.03, rtol=.3)


@pytest.mark.parametrize('targets', ['gradient', 'update'])
def test_padding_is_not_fitted_to(randomise, targets):
    model = make_model(randomise, Sampled)
    model.backbone.make_heads()
    batch, = batches(1)
    samples = [SimpleNamespace(metainfo=dict(img_shape=shape)) for shape in ((16, 16), (8, 10))]
    fits = fit_importance(model, [dict(batch, data_samples=samples)], targets)
    assert [fit.images for fit in fits] == [2, 2]
    fitter = ImportanceFitter(model.backbone)
    with torch.no_grad():
        model(**batch, data_samples=samples)
    fitter.take()
    fitter.close()
    assert [int(stage.sums.count) for stage in fitter.stages] == [64 + 20, 16 + 6]
    model(**batch, data_samples=[SimpleNamespace(metainfo=dict(img_shape=(99, 99)))] * 2)


def test_a_second_pass_before_the_backward_one_counts_alone(randomise):
    model = make_model(randomise)
    model.backbone.make_heads()
    first, last = (batch['inputs'] for batch in batches())
    sums = []
    for inputs in ([last], [first, last]):
        fitter = ImportanceFitter(model.backbone)
        sum(model(x, 'loss')['loss'] for x in inputs).backward()
        fitter.take()
        fitter.close()
        sums.append([stage.sums.products for stage in fitter.stages])
    assert_near(*sums)


def test_constant_images_are_passed_over_and_alone_refused(randomise):
    model = make_model(randomise)
    constant = dict(inputs=torch.ones(2, 3, 16, 16))
    fits = fit_importance(model, [constant, *batches()], 'update')
    heads = heads_of(model)
    assert [fit.images for fit in fits] == [4, 4] and fits[0].learned is None
    fit_importance(model, batches(), 'update')
    assert_near(heads_of(model), heads)
    for bad in (torch.ones(1, 3, 16, 16), torch.full((1, 3, 16, 16), torch.nan)):
        with pytest.raises(ValueError, match='nothing to fit'):
            fit_importance(model, [dict(inputs=bad)], 'update')
        assert_near(heads_of(model), heads)


def test_a_stage_that_the_loss_ignores_ranks_as_variation(randomise):
    model = make_model(randomise, out_indices=(0, ))
    fits = fit_importance(model, batches())
    assert [fit.images for fit in fits] == [4, 0]
    fresh = backbone(importance='learned').stages[1].importance.weight
    assert torch.equal(model.backbone.stages[1].importance.weight, fresh)


def test_what_is_wrong_is_told(randomise):
    model = make_model(randomise)
    with pytest.raises(ValueError, match="targets 'both' .* gradient, update"):
        fit_importance(model, batches(), 'both')
    model.forward = lambda inputs, mode: dict(loss=torch.zeros(()))
    with pytest.raises(NoLoss, match='does not depend on its backbone'):
        fit_importance(model, batches())
    model.forward = lambda inputs, mode: inputs.truth
    with pytest.raises(NoLoss, match="AttributeError: 'Tensor' object has no attribute 'truth'"):
        fit_importance(model, batches())
    assert not model.backbone.watched
