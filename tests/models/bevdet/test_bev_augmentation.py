import itertools

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet3d')
from mmcv.transforms.utils import cache_random_params  # noqa: E402
from mmdet3d.structures import LiDARInstance3DBoxes  # noqa: E402

from sparsevit_mm.models.bevdet.bev_augmentation import BEVAugmentation  # noqa: E402

FLIPS = list(itertools.product([0., 1.], repeat=2))


def make_boxes(count=20, seed=0):
    """Random boxes with velocities, (count, 9)."""
    rng = np.random.default_rng(seed)
    return LiDARInstance3DBoxes(
        np.c_[rng.uniform(-50, 50, (count, 2)), rng.uniform(-3, 1, count),
              rng.uniform(.5, 8, (count, 3)), rng.uniform(-4, 4, count),
              rng.normal(scale=5, size=(count, 2))], box_dim=9)


def augmented(boxes, **kwargs):
    results = BEVAugmentation(**kwargs)(dict(gt_bboxes_3d=boxes, token='t0ken'))
    return results['gt_bboxes_3d'], results['bev_aug_matrix']


def move(matrix, points):
    """Points (..., 3) moved by a (4, 4) matrix."""
    return points.double().numpy() @ matrix[:3, :3].T + matrix[:3, 3]


@pytest.mark.parametrize('flip_x, flip_y', FLIPS)
@pytest.mark.parametrize('seed', range(5))
def test_corners_move_as_the_matrix_says(flip_x, flip_y, seed):
    before = make_boxes(seed=seed)
    np.random.seed(seed)
    after, matrix = augmented(before, flip_x=flip_x, flip_y=flip_y)
    expected, found = move(matrix, before.corners), after.corners.double().numpy()
    # A flip gives the corners another order: match them, each to exactly one.
    distances = np.linalg.norm(expected[:, :, None] - found[:, None], axis=-1)
    assert (distances.min(1) < 1e-4).all() and (distances.min(2) < 1e-4).all()


@pytest.mark.parametrize('flip_x, flip_y', FLIPS)
@pytest.mark.parametrize('seed', range(5))
def test_headings_and_velocities_move_by_the_linear_part(flip_x, flip_y, seed):
    before = make_boxes(seed=seed)
    np.random.seed(seed)
    after, matrix = augmented(before, flip_x=flip_x, flip_y=flip_y)
    linear = matrix[:2, :2]

    def headings(boxes):
        return torch.stack([boxes.yaw.cos(), boxes.yaw.sin()], 1).double().numpy()

    turn = linear / np.sqrt(abs(np.linalg.det(linear)))
    # Front and back are told apart here, which the corners of a box do not.
    assert np.allclose(headings(after), headings(before) @ turn.T, atol=1e-5)
    assert np.allclose(after.tensor[:, 7:], before.tensor[:, 7:].double().numpy() @ linear.T,
                       atol=1e-4)


@pytest.mark.parametrize('flip_x, flip_y', FLIPS)
def test_rotation_scale_and_flips_come_in_this_order(flip_x, flip_y):
    augmentation = BEVAugmentation(flip_x=flip_x, flip_y=flip_y)
    with cache_random_params(augmentation):
        draw = augmentation.draw()
        matrix = augmentation(dict(gt_bboxes_3d=make_boxes(), token='t0ken'))['bev_aug_matrix']
    cos, sin = np.cos(draw.rotate) * draw.scale, np.sin(draw.rotate) * draw.scale
    sign_x, sign_y = 1 - 2 * flip_x, 1 - 2 * flip_y
    assert np.allclose(matrix, [[sign_x * cos, -sign_x * sin, 0, 0],
                                [sign_y * sin, sign_y * cos, 0, 0],
                                [0, 0, draw.scale, 0],
                                [0, 0, 0, 1]])
    assert matrix.dtype == np.float64


@pytest.mark.parametrize('kwargs, signs', [
    (dict(flip_x=1., flip_y=0.), [-1, 1, 1]), (dict(flip_x=0., flip_y=1.), [1, -1, 1])])
def test_flip_x_negates_x_and_flip_y_negates_y(kwargs, signs):
    before = make_boxes()
    after, matrix = augmented(before, rotate=0., scale=(1., 1.), **kwargs)
    assert np.array_equal(matrix, np.diag([*signs, 1]))
    assert torch.allclose(after.center, before.center * torch.tensor(signs), atol=1e-5)


def test_sizes_scale():
    before = make_boxes()
    after, matrix = augmented(before, scale=(1.05, 1.05))
    assert torch.allclose(after.dims, 1.05 * before.dims)
    assert matrix[2, 2] == 1.05


def test_draws_fill_the_published_ranges():
    augmentation = BEVAugmentation()
    draws = np.array([augmentation.draw() for _ in range(2000)], dtype=float)
    for values, low, high in [(draws[:, 0], -.3925, .3925), (draws[:, 1], .95, 1.05)]:
        assert low <= values.min() < low + .01 * (high - low)
        assert high >= values.max() > high - .01 * (high - low)
    assert np.abs(draws[:, 2:].mean(0) - .5).max() < .06
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < .08


def test_boxes_given_are_left_as_they_are():
    before = make_boxes()
    kept = before.tensor.clone()
    after, _ = augmented(before)
    assert torch.equal(before.tensor, kept) and not torch.equal(after.tensor, kept)


def test_a_frame_without_boxes_has_a_matrix():
    after, matrix = augmented(LiDARInstance3DBoxes(torch.zeros(0, 9), box_dim=9))
    assert after.tensor.shape == (0, 9) and abs(np.linalg.det(matrix)) > .8


def test_boxes_without_velocity_move_alike():
    with_velocity = make_boxes()
    without = LiDARInstance3DBoxes(with_velocity.tensor[:, :7])
    moved = []
    for boxes in (with_velocity, without):
        np.random.seed(2)
        moved.append(augmented(boxes)[0].tensor[:, :7])
    assert torch.equal(*moved)


def test_unknown_velocities_stay_unknown():
    boxes = make_boxes(2)
    boxes.tensor[0, 8] = np.nan
    after, _ = augmented(boxes)
    assert after.tensor[0, 7:].isnan().all()
    assert after.tensor[:, :7].isfinite().all() and after.tensor[1].isfinite().all()


@pytest.mark.parametrize('column, value', [
    *[(column, np.nan) for column in range(7)], (0, np.inf), (3, 0.), (4, -1.), (7, np.inf)])
def test_a_broken_box_is_refused_and_named(column, value):
    boxes = make_boxes(4)
    boxes.tensor[2, column] = value
    with pytest.raises(ValueError, match='sample t0ken: ground truth box 2 is not finite or has'):
        augmented(boxes)


@pytest.mark.parametrize('kwargs', [
    dict(flip_x=1.1), dict(flip_y=-.1), dict(scale=(1.1, .9)), dict(scale=(0., 1.)),
    dict(scale=(1., ))])
def test_bad_arguments_are_refused(kwargs):
    with pytest.raises(ValueError, match='must be'):
        BEVAugmentation(**kwargs)
