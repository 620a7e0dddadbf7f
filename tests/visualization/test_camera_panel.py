"""Boxes in camera images and from above: they land where the cameras and the car put them."""
import numpy as np
import pytest
import torch
from mmdet3d.structures import LiDARInstance3DBoxes

from sparsevit_mm.visualization.camera_panel import (EDGES, GROUND_TRUTH, NEAR, PREDICTION, View,
                                                     draw_frame, draw_from_above, draw_view,
                                                     project_edges)
from sparsevit_mm.visualization.overlay import Counts, add_axes, new_figure, pixels_of

SIZE = 80, 100
# Looks along x of the frame of the boxes from its origin: to its right is -y, below it -z.
AHEAD = np.array([[100., 0, 50], [0, 100, 40], [0, 0, 1]]) @ np.array(
    [[0., -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]])


def corners_of(*boxes):
    """(N, 8, 3) of centre, length, width, height, yaw."""
    boxes = LiDARInstance3DBoxes(torch.tensor(boxes).reshape(-1, 7), origin=(.5, .5, .5))
    return boxes.corners.double().numpy()


def view(camera='CAM', lidar2img=AHEAD):
    image = np.full((*SIZE, 3), 128, dtype=np.uint8)
    return View(camera, image, [Counts('stage 0', np.zeros(SIZE, dtype=int), 4)], lidar2img)


def drawn(draw, width, height, *arguments):
    """What a function draws in axes of a size in inches; the title's line is cut off."""
    figure, top = new_figure('', height, width)
    draw(add_axes(figure, 0, top, width, height), *arguments)
    return pixels_of(figure)[-100 * height:].astype(int)


def white(picture):
    """Where lines of ground truth are; they may fill pixels in part."""
    return picture.min(-1) > 175


def has_line(picture, row, column):
    """Whether a line of ground truth runs through a place or beside it."""
    return white(picture)[row - 1:row + 2, column - 1:column + 2].any()


def test_an_edge_joins_the_corners_of_one_side_of_a_box():
    corners, = corners_of([3., 4, 1, 5, 2, 1, .3])
    lengths = np.linalg.norm(np.diff(corners[EDGES], axis=1), axis=-1)
    assert sorted(np.round(lengths.ravel(), 4)) == [1] * 4 + [2] * 4 + [5] * 4
    assert len(set(map(tuple, np.sort(EDGES)))) == 12


def test_ends_of_edges_are_where_the_matrices_put_the_corners():
    corners = corners_of([10., 2, 1, 4, 2, 2, 0], [20., -3, 0, 4, 2, 2, 1])
    augment = np.array([[.5, .1, 3], [-.1, .5, 4], [0, 0, 1]])
    edges = project_edges(corners, augment @ AHEAD)
    assert edges.shape == (24, 2, 2)
    for box, found in zip(corners, edges.reshape(2, 12, 2, 2)):
        for ends, pixels in zip(EDGES, found):
            for corner, pixel in zip(ends, pixels):
                x, y, z = box[corner]
                u, v = 50 - 100 * y / x, 40 - 100 * z / x
                assert pixel == pytest.approx([.5 * u + .1 * v + 3, -.1 * u + .5 * v + 4])


def test_an_edge_is_cut_where_it_passes_behind_the_camera():
    corners = corners_of([0., 2, 1, 10, 2, 1, 0])  # from 5 m behind to 5 m ahead
    edges = project_edges(corners, AHEAD)
    assert len(edges) == 8 and np.isfinite(edges).all()  # the four at the back are gone
    ends = {tuple(np.round(end, 6)) for end in edges.reshape(-1, 2)}
    expected = {(round(50 - 100 * y / x, 6), round(40 - 100 * z / x, 6))
                for x in (NEAR, 5) for y in (1, 3) for z in (.5, 1.5)}
    assert ends == expected


def test_a_box_behind_the_camera_draws_nothing():
    behind, ahead = corners_of([-10., 0, 0, 4, 2, 2, 0]), corners_of([10., 0, 0, 4, 2, 2, 0])
    assert project_edges(behind, AHEAD).shape == project_edges(behind[:0], AHEAD).shape == (0, 2, 2)
    empty = drawn(draw_view, 5, 4, view(), {})
    assert np.array_equal(drawn(draw_view, 5, 4, view(), {GROUND_TRUTH: behind}), empty)
    assert not np.array_equal(drawn(draw_view, 5, 4, view(), {GROUND_TRUTH: ahead}), empty)


def test_a_box_is_drawn_at_the_pixels_of_its_corners():
    picture = drawn(draw_view, 5, 4, view(), {GROUND_TRUTH: corners_of([12., 1, 0, 4, 2, 2, 0])})
    for y, z in ((0, -1), (0, 1), (2, -1), (2, 1)):  # the back of the box, 10 m ahead
        u, v = 50 - 10 * y, 40 - 10 * z
        assert has_line(picture, round((v + .5) * 5), round((u + .5) * 5))
    assert not has_line(picture, 100, 300)


@pytest.mark.parametrize('place, row, column', [
    ((0., 10), 100, 200), ((-5., 0), 200, 150), ((10., -15), 350, 300)])
def test_from_above_ahead_is_up_and_left_is_left(place, row, column):
    area = (-20, 20), (-20, 20)
    boxes = {GROUND_TRUTH: corners_of([*place, 0, 2, 2, 2, 0.])}
    rows, columns = np.nonzero(white(drawn(draw_from_above, 4, 4, boxes, area)))
    assert (rows.min() + rows.max()) / 2 == pytest.approx(row, abs=2)
    assert (columns.min() + columns.max()) / 2 == pytest.approx(column, abs=2)
    assert np.ptp(rows) == pytest.approx(20, abs=3) == np.ptp(columns)


def test_from_above_a_box_points_where_it_heads():
    boxes = {GROUND_TRUTH: corners_of([0., 10, 0, 8, 4, 2, np.pi])}  # to the left
    picture = drawn(draw_from_above, 4, 4, boxes, ((-20, 20), (-20, 20)))
    assert has_line(picture, 100, 180) and not has_line(picture, 100, 220)
    assert has_line(picture, 80, 220) and has_line(picture, 120, 220)  # the sides


@pytest.mark.parametrize('number, across, down', [(6, 3, 2), (2, 2, 1)])
def test_images_stand_in_rows_of_three_in_their_order(number, across, down):
    boxes = {GROUND_TRUTH: corners_of([12., 0, 0, 4, 2, 2, 0]), PREDICTION: corners_of()}
    area = (-20, 20), (-20, 20)
    nowhere = -AHEAD  # sees what is behind the first camera
    views = [view(f'{i}', nowhere) for i in range(number)]
    empty = draw_frame(views, boxes, area, 'title').astype(int)
    side = down * (.27 + 4) - .27
    width, height = .3 + across * 5.15 + side, .24 * 1.3 + down * 4.27 + .55
    assert empty.shape == pytest.approx((100 * height, 100 * width, 3), abs=1)
    for index in range(number):
        views[index] = view(f'{index}')
        picture = draw_frame(views, boxes, area, 'title').astype(int)
        rows, columns = np.nonzero(np.abs(picture - empty).sum(-1))
        views[index] = view(f'{index}', nowhere)
        row, column = divmod(index, across)
        assert rows.mean() == pytest.approx(100 * (.312 + row * 4.27 + .27 + 2), abs=5)
        assert columns.mean() == pytest.approx(100 * (.15 + column * 5.15 + 2.5), abs=5)
