import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevit_mm.weights import drop_and_grow_units, head_importance, unit_norms
from sparsevit_mm.widths import unit_count

PUBLISHED = Path(__file__).parents[3] / 'shared' / 'data' / 'reference' / 'svite.npz'


@pytest.mark.parametrize('number, density, count', [
    (96, .6, 57), (6, .5, 3), (3, .6, 1), (3, .01, 1), (100, .29, 29), (5, 1., 5), (12, .7, 8)])
def test_counts_are_the_whole_part_and_at_least_one(number, density, count):
    assert unit_count(number, density) == count


def test_head_importance_is_the_mean_over_images_of_the_absolute_sum():
    outputs, gradients = torch.randn(2, 3, 5, 4, 6)  # (B, T, H, d) = (3, 5, 4, 6)
    expected = [sum(abs(float((outputs[b, :, h] * gradients[b, :, h]).sum())) for b in range(3)) / 3
                for h in range(4)]
    torch.testing.assert_close(head_importance(outputs, gradients), torch.tensor(expected))


def test_norms_of_units_in_every_layout():
    widen, narrow = torch.randn(6, 4), torch.randn(4, 6)
    expected = [float(widen[j].abs().sum() + narrow[:, j].abs().sum()) for j in range(6)]
    torch.testing.assert_close(unit_norms(6, [(widen, 0, 1), (narrow, 1, 1)]),
                               torch.tensor(expected))
    qkv, proj = torch.randn(3, 2, 5, 8), torch.randn(8, 2, 5)  # two heads of 5 channels
    expected = [float(qkv[:, h].abs().sum() + proj[:, h].abs().sum()) for h in range(2)]
    torch.testing.assert_close(unit_norms(2, [(qkv.reshape(30, 8), 0, 3),
                                              (proj.reshape(8, 10), 1, 1)]), torch.tensor(expected))


values = st.floats(-4, 4, width=16)


@given(st.data(), st.integers(1, 12), st.floats(0, 1))
def test_an_update_drops_the_least_and_grows_the_most_of_the_others(data, number, fraction):
    importance, growth = (torch.tensor(data.draw(st.lists(values, min_size=number,
                                                          max_size=number))) for _ in range(2))
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=number, max_size=number)))
    after = drop_and_grow_units(importance, growth, mask, fraction)
    dropped, grown, left = mask & ~after, after & ~mask, mask & after
    existing = int(mask.sum())
    count = max(0, min(math.ceil(fraction * existing), number - existing, existing - 1))
    assert int(dropped.sum()) == int(grown.sum()) == count
    if dropped.any() and left.any():
        assert importance[dropped].max() <= importance[left].min()
    stays_out = ~mask & ~after
    if grown.any() and stays_out.any():
        assert growth[grown].min() >= growth[stays_out].max()


def test_of_equal_units_the_first_stay_and_the_first_come():
    mask = torch.tensor([True, True, True, False, False, False])
    after = drop_and_grow_units(torch.zeros(6), torch.ones(6), mask, .5)
    assert after.tolist() == [True, False, False, True, True, False]


def test_values_outside_their_place_have_no_say_even_when_not_finite():
    mask = torch.tensor([True, True, False, False])
    nan = float('nan')
    after = drop_and_grow_units(torch.tensor([1., 2., nan, nan]), torch.tensor([nan, nan, 1., 2.]),
                                mask, .5)
    assert after.tolist() == [False, True, False, True]


def weight(name, shape):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return torch.from_numpy((.08 * rng.standard_normal(shape)).astype(np.float32))


@pytest.mark.skipif(not PUBLISHED.is_file(), reason='no values of the released code here')
@pytest.mark.parametrize('run', ['zerobias', 'synthgrad'])
@pytest.mark.parametrize('block', [0, 1])
def test_scores_and_steps_of_the_released_code(run, block):
    file = np.load(PUBLISHED)
    held = {key.split('/')[-1]: torch.from_numpy(file[key]) for key in file.files
            if key.startswith(f'st/{run}/b{block}/')}
    heads = head_importance(held['O'], held['dO'])
    torch.testing.assert_close(heads, held['head_score'], rtol=0, atol=1e-5)
    widen = weight(f'blocks.{block}.mlp.fc1.weight', (96, 48))
    narrow = weight(f'blocks.{block}.mlp.fc2.weight', (48, 96))
    norms = unit_norms(96, [(widen, 0, 1), (narrow, 1, 1)])
    before = held['neurons_before']
    torch.testing.assert_close(norms * before, held['neuron_score'], rtol=0, atol=1e-5)
    growth = unit_norms(96, [(held['fc1_grad'], 0, 1), (held['fc2_grad'], 1, 1)])
    torch.testing.assert_close(growth, held['neuron_grad_all'], rtol=0, atol=1e-5)

    after = drop_and_grow_units(norms, growth, before, .5)
    assert torch.equal(before & after, held['neurons_left_after_death'])
    assert int((after & ~before).sum()) == 29  # none at all, in the released code's zerobias
    if run == 'synthgrad':
        mask = torch.zeros(6, dtype=torch.bool)
        mask[held['heads_before']] = True
        moved = drop_and_grow_units(heads, held['head_gradl1'], mask, .5)
        assert set((mask & ~moved).nonzero().flatten().tolist()) == set(
            held['heads_removed'].tolist())
        assert moved.nonzero().flatten().tolist() == sorted(held['heads_after'].tolist())


def test_units_of_a_block_without_a_gradient_stay():
    """One that no window ran, say: its neurons are no worse than the others."""
    from mmengine.registry import MODELS

    from sparsevit_mm.weights import unit_groups
    from sparsevit_mm.weights.unit_masking import UnitMasks, first_units
    groups = unit_groups(MODELS.build(dict(
        type='EvoVisionTransformer', img_size=16, patch_size=4, embed_dims=8, num_layers=2,
        num_heads=2)))
    masks = UnitMasks(groups, first_units(groups, dict(heads=.5, neurons=.5)))
    before = {name: mask.clone() for name, mask in masks.masks.items()}
    ones = {name: torch.ones(group.number) for name, group in groups.items()}
    growth = {name: ones[name] * ('layers.1' in name) for name in groups}
    assert masks.drop_and_grow(ones, growth, .5) == 8  # of 16; the one head stays
    changed = [name for name in before if not torch.equal(before[name], masks.masks[name])]
    assert changed == ['layers.1.neurons']
