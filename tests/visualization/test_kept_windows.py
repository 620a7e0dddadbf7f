"""The windows that ran, laid over the image: counts, alignment, figures."""
import numpy as np
import pytest
import torch
from helpers import backbone
from hypothesis import given
from hypothesis import strategies as st

from sparsevit_mm.sparsity import kept_windows
from sparsevit_mm.visualization.overlay import (Counts, check_folder, draw_panel, draw_stages,
                                                sum_of, write_png)
from sparsevit_mm.visualization.windows import Placement, count_blocks

sizes = st.tuples(st.integers(5, 40), st.integers(5, 40))


def run(model, height, width, batch=1):
    with torch.no_grad(), model.recording() as maps:
        model(torch.randn(batch, 3, height, width))
    return maps


def counted(token, side, shape, placement, grid=(8, 8)):
    """Where a pixel counts the one token (y, x) of a stage that ran."""
    model, maps = backbone(patch_size=side, strides=(side, 2)), []
    for _ in model.stages:
        one = torch.zeros(1, *grid, dtype=torch.bool)
        one[0][token] = True
        maps.append([one, one])
    return count_blocks(model, maps, shape, placement)[0].run == 2


@given(sizes, st.sampled_from([.3, .5, .8]))
def test_counts_of_an_image_at_network_size_are_those_recorded(size, ratio):
    model = backbone(sparsity=ratio).eval()
    maps = run(model, *size, batch=2)
    for index in (0, 1):
        counts = count_blocks(model, maps, size, Placement(size), index)
        for stage, blocks, side in zip(counts, maps, (2, 4)):
            expected = sum(block[index].numpy().astype(int) for block in blocks)
            for y in range(size[0]):
                for x in range(size[1]):
                    assert stage.run[y, x] == expected[y // side, x // side]
            assert stage.share == pytest.approx(stage.run.mean() / len(blocks), rel=1e-5)


@given(sizes, sizes)
def test_at_zero_sparsity_every_pixel_counts_all_blocks(network, image):
    model = backbone(depths=(2, 3)).eval()
    counts = count_blocks(model, run(model, *network), image, Placement(network))
    assert [(c.run == c.blocks).all() for c in counts] == [True, True]
    assert [c.blocks for c in counts] == [2, 3] and (sum_of(counts).run == 5).all()
    assert sum_of(counts).run.shape == image and sum_of(counts).share == 1


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([.2, .5, .9]))
def test_the_total_of_a_stage_is_that_of_the_windows_kept(rows, cols, ratio):
    size = 8 * rows, 8 * cols  # windows of 2x2 tokens of 2, then 4 pixels fit both stages
    model = backbone(sparsity=ratio).eval()
    counts = count_blocks(model, run(model, *size), size, Placement(size))
    for stage, side in zip(counts, (2, 4)):
        window = (2 * side)**2
        total = size[0] * size[1] // window
        assert stage.run.sum() == stage.blocks * kept_windows(total, ratio) * window


def test_a_token_is_found_at_its_pixels_after_resizing():
    hit = counted((1, 3), 4, (16, 8), Placement((32, 32)))  # each pixel was 2x4 in the network
    assert np.argwhere(hit).tolist() == [[2, 3], [3, 3]]


@pytest.mark.parametrize('flip, rows, cols', [
    (None, (4, 8), (12, 16)), ('horizontal', (4, 8), (4, 8)), ('vertical', (12, 16), (12, 16)),
    ('diagonal', (12, 16), (4, 8))])
def test_a_token_is_found_in_the_mirrored_image_and_padding_is_cut_away(flip, rows, cols):
    placement = Placement((20, 20), flip)
    hit = counted((1, 3), 4, (20, 20), placement)
    expected = np.zeros((20, 20), dtype=bool)
    expected[slice(*rows), slice(*cols)] = True
    assert (hit == expected).all()
    assert not counted((6, 2), 4, (20, 20), placement).any()


@pytest.mark.parametrize('metainfo, size', [
    (dict(ori_shape=(30, 50), img_shape=(60, 100)), (60, 100)),
    (dict(ori_shape=(30, 50, 3), img_shape=(60, 100, 3), scale_factor=(2., 2.)), (60, 100)),
    (dict(ori_shape=(30, 50), img_shape=(128, 128), scale_factor=(2., 2.)), (60, 100)),
    (dict(ori_shape=(3, 7), img_shape=(8, 8), scale_factor=(5 / 7, 5 / 3)), (5, 5)),
    (dict(ori_shape=(30, 50), img_shape=(60, 100), scale_factor=np.array([2, 2, 2, 2.])),
     (60, 100))])
def test_placement_tells_the_image_from_its_padding(metainfo, size):
    assert Placement.from_metainfo(metainfo) == (size, None)
    flipped = dict(metainfo, flip=True, flip_direction='vertical')
    assert Placement.from_metainfo(flipped) == (size, 'vertical')
    assert Placement.from_metainfo(dict(flipped, flip=False)) == (size, None)


def test_token_sides_follow_the_strides(make_swin):
    assert make_swin().token_sides() == [4, 8]
    assert backbone().token_sides() == [2, 4]


def test_none_or_several_passes_are_refused():
    model = backbone().eval()
    with torch.no_grad(), model.recording() as maps:
        for passes in ('0', '2'):
            with pytest.raises(ValueError, match=f'{passes} times'):
                count_blocks(model, maps, (8, 8), Placement((8, 8)))
            model(torch.zeros(1, 3, 8, 8)), model(torch.zeros(1, 3, 8, 8))


def test_recording_leaves_execution_its_recordings_and_no_hook():
    model = backbone(execution='compiled')
    executor = model._executor
    run(model.eval(), 8, 8)
    assert model.execution == 'compiled' and model._executor is executor is not None
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize('shape', [(30, 40), (90, 9)])
def test_figures_are_of_one_width_and_tell_counts_by_colour(shape):
    image = np.full((*shape, 3), 128, dtype=np.uint8)
    counts = [Counts(f'stage {i}', np.full(shape, i), 4) for i in range(3)]
    drawn = draw_stages(image, counts, 'a title ' * 30)
    other = draw_stages(image, counts[::-1], 'a title ' * 30)
    panel = draw_panel(image, counts, dict(prediction=image, truth=image), '$a')
    assert drawn.shape[1] == panel.shape[1] == 1000 and drawn.dtype == panel.dtype == np.uint8
    assert drawn.shape == other.shape and not np.array_equal(drawn, other)
    below = drawn[-drawn.shape[0] // 3::2, ::2].reshape(-1, 3)
    colors = np.unique(below[np.ptp(below, axis=1) > 40], axis=0)
    assert len(colors) >= 6  # of the overlays, and of the bars


def test_a_picture_that_can_not_be_written_leaves_the_former(tmp_path):
    write_png(tmp_path / 'a.png', np.zeros((2, 2, 3), dtype=np.uint8))
    former = (tmp_path / 'a.png').read_bytes()
    with pytest.raises(ValueError):
        write_png(tmp_path / 'a.png', np.zeros(3))
    assert (tmp_path / 'a.png').read_bytes() == former
    with pytest.raises(FileExistsError, match='a.png'):
        check_folder(tmp_path / 'a.png' / 'b')
    check_folder(tmp_path / 'c')
