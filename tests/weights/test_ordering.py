"""Heads and neurons in the order of their importance."""
import pytest
import torch
from helpers import backbone
from mmengine.registry import MODELS

from sparsevit_mm.models.checkpoints import check_fits
from sparsevit_mm.weights import order_units, unit_groups, unit_norms

SWIN = dict(embed_dims=16, num_heads=(4, 4), window_size=3)
VIT = dict(type='EvoVisionTransformer', img_size=24, patch_size=4, embed_dims=24, num_layers=3,
           num_heads=3, sparsity=0.)
MAKE = dict(swin=lambda **c: backbone(**{**SWIN, **c}), vit=lambda **c: MODELS.build({**VIT, **c}))
IMAGE = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=MAKE)
def kind(request):
    return request.param


@pytest.fixture
def model(kind, randomise):
    return randomise(MAKE[kind]()).eval()


@torch.no_grad()
def run(model):
    return model(IMAGE)


def norms(group):
    return unit_norms(group.number, ((part.parameter, part.dim, part.copies)
                                     for part in group.weights))


def test_outputs_stay_and_weights_are_sorted(model):
    before = run(model)
    assert any(norms(group).diff().gt(0).any() for group in unit_groups(model).values())
    order_units(model)
    for one, other in zip(run(model), before):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert all(norms(group).diff().le(0).all() for group in unit_groups(model).values())


def test_given_importance_decides(model):
    """A unit alone in its prefix is the one named."""
    name, group = list(unit_groups(model).items())[0]
    column = group.output.parameter.detach()[:, -1].clone()
    order_units(model, {name: torch.arange(group.number).float()})
    first = group.output.parameter.shape[1] // group.number - 1
    assert torch.equal(group.output.parameter[:, first], column)


def test_the_first_units_are_the_best_to_keep(model, randomise):
    """Where later units are next to nothing, leaving them out after ordering is too."""
    with torch.no_grad():
        for group in unit_groups(model).values():
            weak = torch.arange(group.number) % 2 == 0
            for part in group.weights:
                index = part.index(weak)
                part.parameter.index_copy_(
                    part.dim, index, part.parameter.index_select(part.dim, index) * 1e-6)
    full = run(model)
    model.widths = dict(heads=.5, ffn=.5)
    far = (run(model)[-1] - full[-1]).abs().max()
    order_units(model)
    near = (run(model)[-1] - full[-1]).abs().max()
    assert near < .8 * far


def test_state_dicts_say_so(model, kind, tmp_path):
    assert not model.unit_order and 'unit_order.by_importance' not in model.state_dict()
    with pytest.raises(ValueError, match='--widths: .*order_units.py CONFIG CHECKPOINT'):
        model.unit_order.require('--widths')
    order_units(model)
    new = MAKE[kind]()
    new.load_state_dict(model.state_dict())
    assert new.unit_order
    new.unit_order.require('--widths')
    torch.save(model.state_dict(), tmp_path / 'ordered.pth')
    check_fits(MAKE[kind](), str(tmp_path / 'ordered.pth'))
    new.load_state_dict(MAKE[kind]().state_dict())
    assert not new.unit_order


@pytest.mark.parametrize('importance, message', [
    ({'nothing': torch.ones(4)}, 'no group nothing'), (torch.ones(7), '7 values'),
    (torch.full((4, ), float('nan')), 'not finite')])
def test_bad_importance_changes_nothing(model, importance, message):
    names = list(unit_groups(model))
    if not isinstance(importance, dict):
        if importance.isnan().any():
            importance = importance[:unit_groups(model)[names[-2]].number]
        importance = {names[-2]: importance}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        order_units(model, importance)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
