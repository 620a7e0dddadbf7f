import math

import numpy as np
import pytest
import torch
from encode import head_config, make_head
from hypothesis import given
from hypothesis import strategies as st
from mmdet3d.structures import LiDARInstance3DBoxes
from shapely import affinity
from shapely.geometry import Polygon
from shapely.geometry import box as rectangle

from sparsevit_mm.models.bevdet.scale_nms import (TaskNMS, circle_nms, read_task_nms, rotated_nms,
                                                  scale_nms)

TASKS = [[name for name in task.class_names] for task in head_config().tasks]
UNSCALED = TaskNMS('rotate', .2, (1., 1.))


def polygon(x, y, length, width, yaw):
    """Seen from above with x to the right and y up; shapely turns counterclockwise."""
    shape = rectangle(-length / 2, -width / 2, length / 2, width / 2)
    shape = affinity.rotate(shape, yaw, origin=(0, 0), use_radians=True)
    return affinity.translate(shape, x, y)


def iou(a, b):
    shared = a.intersection(b).area
    return shared / (a.area + b.area - shared)


def greedy(scores, are_rivals):
    kept = []
    for i in np.argsort(-np.asarray(scores)).tolist():
        if not any(are_rivals(i, j) for j in kept):
            kept.append(i)
    return kept


def boxes_of(bev):
    """(N, 5) to (N, 9), heights and velocities as they come."""
    x, y, length, width, yaw = torch.as_tensor(bev, dtype=torch.float32).unbind(1)
    zero = torch.zeros_like(x)
    return torch.stack([x, y, zero - 1, length, width, zero + 2, yaw, zero, zero], 1)


def select(bev, scores, labels=None, nms=UNSCALED, pre=1000, post=83):
    labels = torch.zeros(len(scores), dtype=torch.long) if labels is None else torch.tensor(labels)
    scores = torch.as_tensor(scores, dtype=torch.float32)
    return scale_nms(boxes_of(bev), scores, labels, nms, pre, post).tolist()


@pytest.mark.parametrize('yaw', [-2.5, -.5, 0., .5, 1.2, 3.])
def test_the_box_of_the_oracle_is_the_box_of_mmdet3d(yaw):
    bev = [3., 4., 6., 1., yaw]
    boxes = LiDARInstance3DBoxes(boxes_of([bev]), 9)
    bottom = Polygon(boxes.corners[0, [0, 3, 7, 4], :2].tolist())
    assert iou(bottom, polygon(*bev)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize('shift, rivals', [(30., True), (-30., False)])
def test_yaw_turns_from_x_to_y(shift, rivals):
    """Long thin boxes at 30 degrees: shifted along their axis they overlap, along its mirror image
    they do not, and the other way round if yaw were read clockwise."""
    a = [0., 0., 10., 1., math.radians(30)]
    b = [3 * math.cos(math.radians(shift)), 3 * math.sin(math.radians(shift)), *a[2:]]
    assert (iou(polygon(*a), polygon(*b)) > .2) == rivals
    assert select([a, b], [.9, .8]) == ([0] if rivals else [0, 1])


def test_thin_boxes_that_cross_share_little():
    a, b = ([0., 0., 10., 1., math.radians(yaw)] for yaw in (30, -30))
    overlap = iou(polygon(*a), polygon(*b))
    assert .05 < overlap < .07
    for threshold, kept in ((overlap - .01, [0]), (overlap + .01, [0, 1])):
        assert select([a, b], [.9, .8], nms=TaskNMS('rotate', threshold, (1., ))) == kept


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1., 1.), (.4, .55), (4.5, 9.)]))
def test_rotate_drops_what_the_overlap_of_scaled_polygons_says(seed, factors):
    rng = np.random.default_rng(seed)
    n, threshold = 25, .3
    bev = np.stack([*rng.uniform(-5, 5, (2, n)), *rng.uniform(.5, 6, (2, n)) / np.mean(factors),
                    rng.uniform(-math.pi, math.pi, n)], 1).astype(np.float32)
    scores, labels = rng.permutation(n) / n, rng.integers(0, 2, n)
    scaled = bev.copy()
    scaled[:, 2:4] *= np.array(factors)[labels, None]
    polygons = [polygon(*map(float, b)) for b in scaled]
    overlaps = np.array([[iou(p, q) for q in polygons] for p in polygons])
    expected = greedy(scores, lambda i, j: overlaps[i, j] > threshold)
    assert select(bev, scores, labels, TaskNMS('rotate', threshold, factors)) == expected


@given(st.integers(0, 2**32 - 1))
def test_circle_drops_by_squared_distance_and_knows_no_size(seed):
    rng = np.random.default_rng(seed)
    bev, scores = rng.uniform(.1, 9, (40, 5)).astype(np.float32), rng.permutation(40) / 40
    distance = np.linalg.norm(bev[:, None, :2] - bev[:, :2], axis=2)
    expected = greedy(scores, lambda i, j: distance[i, j]**2 <= 4.)
    assert select(bev, scores, nms=TaskNMS('circle', 4., (9., ))) == expected
    scores = torch.tensor(scores, dtype=torch.float32)
    assert circle_nms(torch.tensor(bev[:, :2]), scores, 4.).tolist() == expected


@given(st.integers(0, 2**32 - 1), st.floats(0, 1e-3), st.booleans())
def test_a_duplicate_is_dropped_however_close(seed, distance, turned):
    """Where edges all but coincide mmcv's fp32 intersection can be empty."""
    g = torch.Generator().manual_seed(seed)
    bev = torch.rand(50, 5, generator=g) * torch.tensor([80., 80., 8., 3., 6.28]) + .5
    bev[:, :2] += 20 * torch.arange(50)[:, None]  # none of the originals touch
    other = bev + distance * torch.randn(50, 5, generator=g)
    other[:, 4] += math.pi * turned
    scores = torch.linspace(1, .1, 100)
    assert sorted(rotated_nms(torch.cat([bev, other]), scores, .5).tolist()) == list(range(50))


def test_pedestrians_are_enlarged_and_trucks_shrunk():
    pedestrians = [[0., 0., .7, .7, 0.], [.9, 0., .7, .7, 0.]]
    trucks = [[0., 0., 8., 3., 0.], [0., 1.9, 8., 3., 0.]]
    settings = read_task_nms(head_config().test_cfg, TASKS)
    assert select(pedestrians, [.9, .8], nms=settings[5]._replace(factors=(1., 1.))) == [0, 1]
    assert select(pedestrians, [.9, .8], nms=settings[5]) == [0]
    assert select(trucks, [.9, .8], nms=settings[1]._replace(factors=(1., 1.))) == [0]
    assert select(trucks, [.9, .8], nms=settings[1]) == [0, 1]


def test_classes_of_a_task_compete():
    assert select([[0., 0., 4., 2., 0.]] * 2, [.5, .6], [0, 1]) == [1]


def test_the_best_are_looked_at_and_the_best_stay():
    bev = [[10. * i, 0., 4., 2., 0.] for i in range(5)]
    scores = [.1, .5, .3, .4, .2]
    assert select(bev, scores) == [1, 3, 2, 4, 0]
    assert select(bev, scores, post=2) == [1, 3]
    bev[3] = bev[1]
    assert select(bev, scores, pre=3, post=3) == [1, 2]
    assert select(bev, scores, pre=3, post=3, nms=TaskNMS('circle', 1., (1., ))) == [1, 2]


@pytest.mark.parametrize('nms_type', ['rotate', 'circle'])
def test_no_box_is_no_detection(nms_type):
    assert select(torch.zeros(0, 5), torch.zeros(0), nms=TaskNMS(nms_type, .2, (1., 1.))) == []


def test_the_published_settings_are_read():
    settings = read_task_nms(head_config().test_cfg, TASKS)
    assert [s.nms_type for s in settings] == ['rotate'] * 3 + ['circle'] + ['rotate'] * 2
    assert [s.threshold for s in settings] == [.2, .2, .2, 1., .2, .5]
    assert [s.factors for s in settings] == [(1., ), (.7, .7), (.4, .55), (1.1, ), (1., 1.),
                                             (4.5, 9.)]


@pytest.mark.parametrize('key, value, named', [
    ('nms_type', 'rotate', r'\[truck, construction_vehicle\]'),
    ('nms_type', ['rotate'] * 4 + ['square', 'rotate'], r'\[motorcycle, bicycle\].*square'),
    ('nms_thr', [.2] * 5, r'nms_thr.*\[car\].*\[pedestrian, traffic_cone\]'),
    ('nms_thr', .2, 'nms_thr'),
    ('nms_rescale_factor', [1., [.7], 1., 1., 1., 1.], r'\[truck, construction_vehicle\]'),
    ('nms_rescale_factor', [1., [.7, .7, .7], 1., 1., 1., 1.], r'\[truck, construction_vehicle\]'),
    ('nms_rescale_factor', [1.] * 7, 'nms_rescale_factor'),
    ('min_radius', None, r'min_radius.*\[barrier\]'),
])
def test_settings_that_do_not_fit_the_tasks_are_refused(key, value, named):
    with pytest.raises(ValueError, match=named):
        make_head(test_cfg={key: value})
