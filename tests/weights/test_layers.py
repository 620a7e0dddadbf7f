import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from sparsevit_mm.weights import maskable_weights


def model(**more):
    return nn.ModuleDict(dict(
        stem=nn.Conv2d(3, 4, 3), up=nn.ConvTranspose2d(4, 2, 2), norm=nn.BatchNorm2d(4),
        attention=nn.MultiheadAttention(8, 2), table=nn.Embedding(5, 8), head=nn.Linear(8, 5),
        **more))


def test_the_weights_of_linear_layers_and_convolutions_and_no_others_are_found():
    made = model()
    found = maskable_weights(made)
    assert list(found) == ['stem.weight', 'up.weight', 'attention.in_proj_weight',
                           'attention.out_proj.weight', 'head.weight']
    for name, weight in found.items():
        assert weight.parameter is made.get_parameter(name)
        assert weight.input_dim == (0 if name == 'up.weight' else 1)
    assert list(maskable_weights(nn.Linear(2, 3))) == ['weight']
    apart = nn.MultiheadAttention(8, 2, kdim=4, vdim=6)
    assert len(maskable_weights(apart)) == 4


@pytest.mark.parametrize('layers, names', [
    ('^stem$', ['stem.weight']), (['head', 'up'], ['up.weight', 'head.weight']),
    (r'^(?!.*attention)', ['stem.weight', 'up.weight', 'head.weight'])])
def test_expressions_choose_layers(layers, names):
    assert list(maskable_weights(model(), layers)) == names


def test_a_layer_under_several_names_counts_once():
    layer = nn.Linear(8, 8)
    assert list(maskable_weights(nn.ModuleList([layer, layer]))) == ['0.weight']


def tied():
    made = model()
    made['table'].weight = made['head'].weight
    return made


@pytest.mark.parametrize('made, layers, message', [
    (model(), 'nowhere', "layers: 'nowhere' matches no linear layer or convolution of ModuleDict"),
    (model(), ['stem', 'norm'], "'norm' matches no linear layer or convolution of ModuleDict; it "
                                "matches norm (BatchNorm2d)"),
    (nn.Sequential(nn.ReLU()), None, 'Sequential has no linear layer or convolution to mask'),
    (model(odd=parametrizations.weight_norm(nn.Linear(2, 2))), None,
     'odd (ParametrizedLinear): its weight is computed from other parameters'),
    (model(odd=weight_norm(nn.Conv1d(2, 2, 1))), None,
     'odd (Conv1d): its weight is computed from other parameters'),
    (model(odd=nn.LazyLinear(2)), None, 'odd (LazyLinear): its weight has no size'),
    (tied(), None, 'head.weight of shape (5, 8) is the same parameter as table.weight')])
def test_what_can_not_be_masked_is_refused_by_name(made, layers, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        maskable_weights(made, layers)


def test_what_can_not_be_masked_may_be_left_out():
    assert 'head.weight' not in maskable_weights(tied(), '^(?!head)')
    assert torch.is_tensor(maskable_weights(tied(), 'stem')['stem.weight'].parameter)
