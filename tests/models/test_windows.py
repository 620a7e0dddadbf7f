import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevit_mm.models.windows import num_windows, partition

CPU = torch.device('cpu')


@st.composite
def geometries(draw):
    """(height, width, window size, shift), also smaller than a window."""
    window = draw(st.integers(1, 7))
    side = st.integers(1, 23)
    shift = draw(st.sampled_from(sorted({0, window // 2})))
    return draw(side), draw(side), window, shift


def windows_of(grid, window_size, shift):
    """(H, W) of a padded map -> (nW, N), by roll and partition as Swin does it."""
    rolled = torch.roll(grid, (-shift, -shift), (0, 1))
    rows, cols = (side // window_size for side in grid.shape)
    tiles = rolled.reshape(rows, window_size, cols, window_size).transpose(1, 2)
    return tiles.reshape(rows * cols, window_size**2)


def padded_sides(height, width, window_size):
    return tuple(math.ceil(side / window_size) * window_size for side in (height, width))


@settings(max_examples=100)
@given(geometries())
def test_the_table_is_pad_roll_and_partition(geometry):
    height, width, window_size, shift = geometry
    tall, wide = padded_sides(height, width, window_size)
    tokens = torch.arange(height * width).reshape(height, width)
    tokens = F.pad(tokens, (0, wide - width, 0, tall - height), value=height * width)
    made = partition(*geometry, CPU)
    expected = windows_of(tokens, window_size, shift)
    assert torch.equal(made.table, expected)
    assert made.num_windows == len(expected) == num_windows(height, width, window_size)


@settings(max_examples=100)
@given(geometries())
def test_the_inverse_inverts_the_table(geometry):
    made = partition(*geometry, CPU)
    tokens = torch.arange(geometry[0] * geometry[1])
    assert torch.equal(made.table.flatten()[made.inverse], tokens)


@settings(max_examples=100)
@given(geometries())
def test_padding_is_marked_and_absent_where_windows_fit(geometry):
    height, width, window_size, _ = geometry
    made = partition(*geometry, CPU)
    fits = (height, width) == padded_sides(height, width, window_size)
    assert (made.padded is None) == fits
    if not fits:
        assert torch.equal(made.padded, made.table == height * width)


@settings(max_examples=100)
@given(geometries())
def test_masks_part_what_the_roll_brought_together(geometry):
    """Two tokens of a window may attend to each other if the roll moved both or neither of them
    across the map's edge, in height and in width."""
    height, width, window_size, shift = geometry
    made = partition(*geometry, CPU)
    if shift == 0:
        assert made.masks is None and made.mask_index is None
        return
    y, x = (torch.arange(side) for side in padded_sides(height, width, window_size))
    wrapped = 2 * (y < shift)[:, None] + 1 * (x < shift)[None, :]
    regions = windows_of(wrapped, window_size, shift)
    expected = torch.where(regions[:, :, None] == regions[:, None, :], 0., -100.)
    assert made.masks.dtype == torch.float32
    assert torch.equal(made.masks[made.mask_index], expected)


@settings(max_examples=100)
@given(geometries())
def test_interior_windows_are_those_without_padding_and_mask(geometry):
    made = partition(*geometry, CPU)
    plain = torch.ones(made.num_windows, dtype=torch.bool)
    if made.padded is not None:
        plain &= ~made.padded.any(1)
    if made.masks is not None:
        plain &= ~made.masks[made.mask_index].any(-1).any(-1)
    assert made.interior.tolist() == plain.nonzero().flatten().tolist()
    assert sorted([*made.interior.tolist(), *made.edge.tolist()]) == list(range(len(plain)))


@settings(max_examples=100)
@given(geometries())
def test_token_bounds_are_what_the_fullest_windows_hold(geometry):
    height, width, *_ = geometry
    made = partition(*geometry, CPU)
    counts = sorted(((made.table < height * width).sum(1)).tolist(), reverse=True)
    assert list(made.token_bounds) == [sum(counts[:k]) for k in range(len(counts) + 1)]


def test_a_partition_is_made_once():
    assert partition(9, 5, 4, 2, CPU) is partition(9, 5, 4, 2, CPU)
    assert partition(9, 5, 4, 2, CPU) is not partition(5, 9, 4, 2, CPU)


def test_a_partition_made_in_inference_mode_serves_training():
    with torch.inference_mode():
        made = partition(11, 13, 4, 2, CPU)
    weight = torch.ones(4, requires_grad=True)
    (made.masks[:, :4, :4] * weight).sum().backward()
    assert not any(t.is_inference() for t in (made.table, made.inverse, made.padded, made.masks,
                                              made.mask_index))


@pytest.mark.parametrize('shift', [0, 2])
def test_a_partition_lies_on_the_device_asked_for(shift):
    made = partition(9, 5, 4, shift, torch.device('meta'))
    tensors = [made.table, made.inverse, made.padded, made.masks, made.mask_index,
               made.interior, made.edge]
    assert {t.device.type for t in tensors if t is not None} == {'meta'}
