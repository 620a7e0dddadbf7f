import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevit_mm.weights import erk_densities, uniform_densities

# The released code's toy model and densities, from overall ones.
SHAPES = dict(conv=(8, 3, 3, 3), fc1=(64, 32), fc2=(48, 64), fc3=(10, 48))
PUBLISHED = {.5: (.849300, .505833, .393426, 1), .3: (.485238, .289002, .224779, .744982),
             .1: (.161746, .096334, .074926, .248327)}

shapes = st.dictionaries(
    st.text('abc', min_size=1), st.lists(st.integers(1, 40), min_size=2, max_size=4), min_size=1)
some_density = st.floats(.001, 1)


@pytest.mark.parametrize('density', PUBLISHED)
def test_erk_gives_the_densities_of_the_released_code(density):
    assert list(erk_densities(SHAPES, density).values()) == pytest.approx(
        PUBLISHED[density], abs=1e-6)


@given(shapes, some_density)
def test_the_mean_over_all_weights_is_the_density_and_no_layer_passes_1(shapes, density):
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    for distribution in (erk_densities, uniform_densities):
        densities = distribution(shapes, density)
        assert densities.keys() == shapes.keys()
        assert all(0 < d <= 1 for d in densities.values())
        kept = sum(densities[name] * size for name, size in sizes.items())
        assert kept == pytest.approx(density * sum(sizes.values()), rel=1e-9)


@given(shapes, some_density)
def test_layers_that_are_not_dense_share_one_eps(shapes, density):
    densities = erk_densities(shapes, density)
    eps = [densities[name] * math.prod(shape) / sum(shape)
           for name, shape in shapes.items() if densities[name] < 1]
    assert eps == pytest.approx(eps[:1] * len(eps))
    assert all(max(eps, default=math.inf) * sum(shape) >= math.prod(shape) * (1 - 1e-9)
               for name, shape in shapes.items() if densities[name] == 1)


def test_at_density_1_all_is_dense():
    assert set(erk_densities(SHAPES, 1).values()) == {1}
    assert uniform_densities(SHAPES, .3) == dict.fromkeys(SHAPES, .3)


@pytest.mark.parametrize('density', [0, -.1, 1.01, float('nan')])
@pytest.mark.parametrize('distribution', [erk_densities, uniform_densities])
def test_a_density_outside_0_and_1_is_refused(distribution, density):
    with pytest.raises(ValueError, match=r'density is .*: .*\(0, 1\]'):
        distribution(SHAPES, density)
