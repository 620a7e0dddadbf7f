import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevit_mm.weights import drop_and_grow, drop_fraction, initial_mask, nm_mask
from sparsevit_mm.weights.update import survivors

PUBLISHED = Path(__file__).parents[3] / 'shared' / 'data' / 'reference' / 'svite.npz'
SHAPES = {'conv.weight': (8, 3, 3, 3), 'fc1.weight': (64, 32), 'fc2.weight': (48, 64),
          'fc3.weight': (10, 48)}


# Of conv.weight, as bits: the mask before, and by run the mask after dropping and after growing.
BEFORE = 'dfbffffc367ffffdbd7effef7fffe9fbecddefef7fff7fffffedff'
CONV = {
    'p50': ('88bd10f81627828c152060e676276901e8150ead761710bd382c4b',
            'effffbfe9fffefaf37fdf8e7fff77f3febf5febdfffffffdffeffb'),
    'ties_p50': ('80bd107016268288152060c636272901e8150ead561710b9282c4b',
                 'effffbf69fffefaf37fdfce7fff7bf3febf5fefdfffffff9ffeffb')}


def seeded(kind, name, scale):
    """What the released code was run on."""
    rng = np.random.default_rng(zlib.crc32(f'{kind}:{name}'.encode()))
    return np.float32(scale * rng.standard_normal(SHAPES[name]))


def weight_and_gradient(run, name):
    weight = seeded('w', name, .08)
    if run == 'ties_p50':
        weight = np.float32(np.round(weight / .02) * .02)
    return torch.from_numpy(weight), torch.from_numpy(seeded('g', name, .01))


def mask_of(bits, name):
    flat = np.unpackbits(bits, count=math.prod(SHAPES[name]))
    return torch.from_numpy(flat).bool().view(SHAPES[name])


@pytest.mark.parametrize('run', CONV)
def test_the_masks_of_a_convolution_are_those_of_the_released_code(run):
    before, left, after = (
        mask_of(np.frombuffer(bytes.fromhex(bits), np.uint8), 'conv.weight')
        for bits in (BEFORE, *CONV[run]))
    weight, gradient = weight_and_gradient(run, 'conv.weight')
    assert torch.equal(survivors(weight, before, .5), left)
    assert torch.equal(drop_and_grow(weight, gradient, before, .5), after)


@pytest.mark.skipif(not PUBLISHED.is_file(), reason='no values of the released code here')
@pytest.mark.parametrize('run, fraction', [('p50', .5), ('p0', 0), ('ties_p50', .5)])
@pytest.mark.parametrize('name', SHAPES)
def test_masks_are_those_of_the_released_code_bit_by_bit(run, fraction, name):
    held = np.load(PUBLISHED)
    before, left, after = (mask_of(held[f'us/{run}/{name}/{when}'], name)
                           for when in ('before', 'left_after_death', 'after'))
    weight, gradient = weight_and_gradient(run, name)
    if not before.all():  # it lets a dense layer be without a look at its weights
        assert torch.equal(survivors(weight, before, fraction), left)
    assert torch.equal(drop_and_grow(weight, gradient, before, fraction), after)


def test_the_smallest_go_and_those_of_the_largest_gradient_come():
    mask = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0]).bool()
    weight = torch.tensor([.1, -.5, .2, -.3, 9, 9, 9, 9])
    gradient = torch.tensor([0, 9, 0, 9, .1, -.4, .3, 0])
    assert drop_and_grow(weight, gradient, mask, .5).tolist() == [0, 1, 0, 1, 0, 1, 1, 0]
    gradient[0] = -1.  # just dropped, it returns
    assert drop_and_grow(weight, gradient, mask, .5).tolist() == [1, 1, 0, 1, 0, 1, 0, 0]
    assert torch.equal(drop_and_grow(weight, gradient, mask, 0), mask)


def test_all_that_equal_the_last_to_go_go_with_it_and_of_equal_gradients_the_first_come():
    mask = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0]).bool()
    weight = torch.tensor([.1, .1, -.1, .3, 0, 0, 0, 0])
    assert survivors(weight, mask, .25).tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    gradient = torch.tensor([0, 0, 0, 0, 1., 1, 1, 1])
    assert drop_and_grow(weight, gradient, mask, .25).tolist() == [0, 0, 0, 1, 1, 1, 1, 0]


@given(st.floats(.05, 1), st.floats(0, 1), st.integers(0, 99), st.booleans())
def test_laws_of_an_update(density, fraction, seed, ties):
    generator = torch.Generator().manual_seed(seed)
    mask = initial_mask((6, 5, 3, 2), density, generator)
    weight, gradient = (torch.randn(mask.shape, generator=generator) for _ in range(2))
    if ties:
        weight, gradient = weight.round(), gradient.round()
    before = [x.clone() for x in (weight, gradient, mask)]
    after, left = (drop_and_grow(weight, gradient, mask, fraction), survivors(weight, mask,
                                                                              fraction))
    assert all(map(torch.equal, before, (weight, gradient, mask)))
    assert after.sum() == mask.sum()
    if mask.all():
        assert after.all()
        return
    dropped = int(mask.sum() - left.sum())
    count = math.ceil(fraction * int(mask.sum()))
    assert dropped >= count if ties else dropped == count
    assert (left & ~after).sum() == 0
    grown = after & ~left
    if grown.any() and (~after).any():
        assert gradient.abs()[grown].min() >= gradient.abs()[~after].max()


@given(st.floats(0, 1), st.integers(0, 99), st.sampled_from([(2, 4), (1, 4), (1, 2)]))
def test_groups_keep_their_number(fraction, seed, pattern):
    n, m = pattern
    generator = torch.Generator().manual_seed(seed)
    weight, gradient, score = torch.randn(3, 5, 2 * m, 3, 3, generator=generator)
    mask = nm_mask(score, n, m)
    after = drop_and_grow(weight, gradient, mask, fraction, group=m)
    assert (after.unflatten(1, (2, m)).sum(2) == n).all()
    left = survivors(weight, mask, fraction)
    assert (left & ~after).sum() == 0
    if fraction > .9:
        assert not torch.equal(after, mask)


def test_the_fraction_falls_by_a_cosine_as_in_the_released_code():
    published = {0: .5, 100: .48788649, 250: .42750893, 500: .2525, 750: .07749107,
                 800: .05226829, 1000: .005}
    assert {step: drop_fraction(step, 1000) for step in published} == pytest.approx(
        published, abs=1e-8)
    assert drop_fraction(1200, 1000) == pytest.approx(.005)
