"""Heads and neurons that are out, taken out for real."""
import copy

import pytest
import torch
from helpers import backbone
from mmengine.registry import MODELS

from sparsevit_mm.weights import compact, unit_groups

SWIN = dict(embed_dims=16, num_heads=(4, 4), window_size=3)
VIT = dict(type='EvoVisionTransformer', img_size=24, patch_size=4, embed_dims=24, num_layers=3,
           num_heads=3, sparsity=0.)
MAKE = dict(swin=lambda **c: backbone(**{**SWIN, **c}), vit=lambda **c: MODELS.build({**VIT, **c}))


@pytest.fixture(params=MAKE)
def kind(request):
    return request.param


def draw_masks(model, density=.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, group in unit_groups(model).items():
        mask = torch.rand(group.number, generator=generator) < density
        mask[int(torch.randint(group.number, (1, ), generator=generator))] = True
        masks[name] = mask
    return masks


@torch.no_grad()
def take_out(model, masks, side):
    """As our hook leaves units: output weights of zero; as the released code leaves heads: value
    weights of zero, biases kept."""
    for name, mask in masks.items():
        group = unit_groups(model)[name]
        if side == 'outputs':
            group.output.parameter.index_fill_(1, group.output.index(~mask), 0.)
            continue
        made = group.inputs[0]
        index = made.index(~mask)
        made.parameter.index_fill_(0, index[len(index) * (made.copies - 1) // made.copies:], 0.)


def smaller(kind, made, **changes):
    model = MAKE[kind](block_heads=made.block_heads, ffn_widths=made.ffn_widths, **changes)
    model.load_state_dict(made.state)
    return model.eval()


def check_equal(one, other, image):
    with torch.no_grad():
        for first, second in zip(one(image), other(image)):
            torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('side', ['outputs', 'inputs'])
@pytest.mark.parametrize('told', [True, False])
def test_outputs_equal_those_of_the_masked_model(kind, side, told, randomise):
    model = randomise(MAKE[kind]()).eval()
    masks = draw_masks(model)
    take_out(model, masks, side)
    before = copy.deepcopy(model.state_dict())
    made = compact(model, masks if told else None)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    counts = [int(mask.sum()) for mask in masks.values()]
    assert (made.block_heads, made.ffn_widths) == (counts[::2], counts[1::2])
    new = smaller(kind, made)
    check_equal(model, new, torch.randn(2, 3, 24, 24))
    check_equal(model, new, torch.randn(2, 3, 20, 28))  # padded, and a grid of another size
    if side == 'inputs':  # there was something to fold
        bias = next(key for key in made.state if key.endswith('proj.bias') and 'patch' not in key)
        assert not torch.equal(made.state[bias], before[bias])
    assert new.macs((24, 24), new.space.config(0)) < model.macs((24, 24), model.space.config(0))


def test_windows_are_pruned_alike(randomise):
    model = randomise(MAKE['swin'](skipped='linear')).eval()
    masks = draw_masks(model)
    take_out(model, masks, 'outputs')
    new = smaller('swin', compact(model, masks), skipped='linear')
    model.sparsity = new.sparsity = .5
    check_equal(model, new, torch.randn(2, 3, 24, 24) * torch.rand(1, 1, 24, 24))


@pytest.mark.parametrize('importance', ['class_attention', 'received'])
def test_patches_are_chosen_alike(importance, randomise):
    """Heads that are out have a query and a key, and no say."""
    model = randomise(MAKE['vit'](importance=importance)).eval()
    masks = draw_masks(model)
    take_out(model, masks, 'outputs')
    new = smaller('vit', compact(model, masks), importance=importance)
    model.sparsity = new.sparsity = [0, .6, .6]
    check_equal(model, new, torch.randn(2, 3, 24, 24))


def test_without_biases(randomise):
    for kind, changes in (('swin', dict(qkv_bias=False)), ('vit', dict(qkv_bias=False))):
        model = randomise(MAKE[kind](**changes)).eval()
        masks = draw_masks(model)
        take_out(model, masks, 'inputs')
        check_equal(model, smaller(kind, compact(model, masks), **changes),
                    torch.randn(1, 3, 24, 24))


def test_compacting_twice_and_only_a_part(kind, randomise):
    model = randomise(MAKE[kind]()).eval()
    first = {name: mask for name, mask in draw_masks(model).items() if 'heads' in name}
    take_out(model, first, 'outputs')
    once = smaller(kind, compact(model, first))
    assert all(group.number == len(unit_groups(model)[name].inputs[0].parameter)
               for name, group in unit_groups(once).items() if 'neurons' in name)
    second = draw_masks(once, .7, seed=1)
    take_out(once, second, 'outputs')
    check_equal(once, smaller(kind, compact(once, second)), torch.randn(1, 3, 24, 24))


def test_one_unit_stays_where_none_adds_anything(kind, randomise):
    model = randomise(MAKE[kind]()).eval()
    nothing = {name: torch.zeros_like(mask) for name, mask in draw_masks(model).items()}
    take_out(model, nothing, 'outputs')
    made = compact(model)
    assert set(made.block_heads) == set(made.ffn_widths) == {1}
    check_equal(model, smaller(kind, made), torch.randn(1, 3, 24, 24))


def test_what_can_not_be_compacted_is_refused(kind, randomise):
    model = randomise(MAKE[kind]()).eval()
    masks = draw_masks(model)
    name = next(iter(masks))
    with pytest.raises(ValueError, match='of the . blocks .* never trained with structured'):
        compact(model)
    with pytest.raises(ValueError, match=f'{name}: . of . masked units'):
        compact(model, {name: torch.arange(len(masks[name])) == 0})
    with pytest.raises(ValueError, match=f'{name}: the mask has 9 units'):
        compact(model, {name: torch.ones(9, dtype=torch.bool)})
    with pytest.raises(ValueError, match=f'{name}: .* none of . units'):
        compact(model, {name: torch.zeros_like(masks[name])})
    with pytest.raises(ValueError, match='no group elsewhere.heads'):
        compact(model, {'elsewhere.heads': masks[name]})
