import copy
import math

import numpy as np
import pytest
import torch
from encode import CHANNELS, META, encode, head_config, instances, make_head
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet3d.models.dense_heads import CenterHead

CLASSES = [name for task in head_config().tasks for name in task.class_names]
CAR, TRUCK, PEDESTRIAN, CONE = (CLASSES.index(name) for name in (
    'car', 'truck', 'pedestrian', 'traffic_cone'))
ATTRIBUTES = ['xy', 'z', 'whl', 'yaw', 'vel']
A_CAR = [30., -7., -1., 4., 2., 1.5, .3, 5., -2.]
ALL_ROTATE = dict(nms_type=['rotate'] * 6, nms_rescale_factor=[1.] * 6, nms_thr=[.2] * 6)


@pytest.fixture(scope='module')
def head():
    return make_head()


def random_outputs(samples=1, seed=0, heat=-4., dtype=torch.float32, size=128):
    """Of a head; `heat` is the mean logit."""
    g = torch.Generator().manual_seed(seed)
    sizes = dict(reg=2, height=1, dim=3, rot=2, vel=2)
    return tuple([{**{key: torch.randn(samples, n, size, size, generator=g, dtype=dtype)
                      for key, n in sizes.items()},
                   'heatmap': torch.randn(samples, len(task.class_names), size, size, generator=g,
                                          dtype=dtype) + heat}]
                 for task in head_config().tasks)


def tensors_of(outputs):
    return [value for (task, ) in outputs for value in task.values()]


def round_trip(head, *samples):
    """What is decoded from the outputs that state the truth."""
    return head.predict_by_feat(encode(head.get_targets(list(samples))), [META] * len(samples))


def values(found):
    """(N, 9): as given to `instances`."""
    return torch.cat([found.bboxes_3d.gravity_center, found.bboxes_3d.tensor[:, 3:]], 1)


def test_a_box_lights_the_cell_with_row_from_y_and_column_from_x(head):
    targets = head.get_targets([instances([A_CAR], [CAR])])
    heatmap, boxes, cells, mask = (by_task[0] for by_task in targets)
    row, column = int((-7 + 51.2) / .8), int((30 + 51.2) / .8)
    assert (heatmap[0, 0] == 1).nonzero().tolist() == [[row, column]] == [[55, 101]]
    assert mask.sum() == 1 and cells[0, 0] == 55 * 128 + 101
    torch.testing.assert_close(boxes[0, 0, :2], torch.tensor([.5, .25]), atol=1e-4, rtol=0)


def test_a_lit_cell_is_a_box_at_x_from_the_column_and_y_from_the_row(head):
    outputs = random_outputs(heat=-99.)
    outputs[0][0]['heatmap'][0, 0, 55, 101] = 9.
    outputs[0][0]['reg'][0, :, 55, 101] = torch.tensor([.5, .25])
    outputs[0][0]['height'][0, 0, 55, 101] = -1
    found, = head.predict_by_feat(outputs, [META])
    torch.testing.assert_close(values(found)[:, :3], torch.tensor([[30., -7., -1.]]))


@pytest.mark.parametrize('yaw', np.linspace(-math.pi, math.pi, 17))
def test_yaw_comes_back_over_the_full_circle(head, yaw):
    box = [*A_CAR[:6], yaw, *A_CAR[7:]]
    found, = round_trip(head, instances([box], [CAR]))
    turn = found.bboxes_3d.yaw.item() - yaw
    assert math.remainder(turn, 2 * math.pi) == pytest.approx(0, abs=1e-5)


def test_height_is_of_the_centre_inside_and_of_the_bottom_outside(head):
    found, = round_trip(head, instances([A_CAR], [CAR]))
    assert found.bboxes_3d.tensor[0, 2].item() == pytest.approx(-1 - 1.5 / 2, abs=1e-5)


@st.composite
def scenes(draw):
    """Boxes so far apart that none meet, however they are scaled."""
    sites = [(x, y) for x in range(-42, 50, 21) for y in range(-42, 50, 21)]
    count = draw(st.integers(0, len(sites)))
    g = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    centres = g.permutation(sites)[:count] + g.uniform(-3.5, 3.5, (count, 2))
    labels = g.integers(0, len(CLASSES), count)
    small = np.isin(labels, [PEDESTRIAN, CONE])[:, None]
    boxes = np.concatenate([
        centres, g.uniform(-5, 3, (count, 1)),
        np.where(small, g.uniform(.2, 1, (count, 3)), g.uniform(.5, [11, 4, 4], (count, 3))),
        g.uniform(-math.pi, math.pi, (count, 1)), g.uniform(-20, 20, (count, 2))], 1)
    return instances(boxes, labels)


@settings(max_examples=8)
@given(st.lists(scenes(), min_size=1, max_size=2))
def test_decoding_what_was_encoded_gives_the_boxes_and_their_classes(head, samples):
    for truth, found in zip(samples, round_trip(head, *samples)):
        assert len(found) == len(truth)
        expected = values(truth)
        distance = torch.cdist(expected[:, :2], values(found)[:, :2])
        found = found[distance.argmin(1)] if len(found) else found
        assert torch.equal(found.labels_3d, truth.labels_3d)
        turn = values(found)[:, 6] - expected[:, 6]
        torch.testing.assert_close(torch.cos(turn), torch.ones_like(turn))
        rest = [0, 1, 2, 3, 4, 5, 7, 8]
        torch.testing.assert_close(values(found)[:, rest], expected[:, rest], atol=1e-4, rtol=1e-5)
        assert (found.scores_3d > .99).all()


def test_results_are_of_the_types_that_mmdet3d_expects(head):
    found = round_trip(head, instances([A_CAR], [CAR]), instances([], []))
    assert [len(f) for f in found] == [1, 0]
    for f in found:
        assert type(f.bboxes_3d) is META['box_type_3d']
        assert f.bboxes_3d.tensor.shape == (len(f), 9) and f.bboxes_3d.box_dim == 9
        assert f.scores_3d.dtype == torch.float32 and f.labels_3d.dtype == torch.int64


def test_a_sample_is_decoded_by_itself(head):
    outputs = random_outputs(3, size=40)
    together = head.predict_by_feat(outputs, [META] * 3)
    for i, found in enumerate(together):
        alone, = head.predict_by_feat(
            tuple([{k: v[i:i + 1] for k, v in task.items()}] for task, in outputs), [META])
        assert len(alone) > 50
        assert torch.equal(alone.bboxes_3d.tensor, found.bboxes_3d.tensor)
        assert torch.equal(alone.labels_3d, found.labels_3d)


def test_scaled_boxes_suppress_and_boxes_come_out_unscaled(head):
    """Two pedestrians 1 m apart, whose boxes do not touch, and two trucks whose boxes do."""
    tail = [.6, 1., 0., 0., 0.]
    pedestrians = [[9.9, 10., -1., .7, *tail], [10.9, 10., -1., .7, *tail]]
    trucks = [[-10., y, 0., 8., 3., 3., 0., 0., 0.] for y in (-10., -8.1)]
    truth = instances(pedestrians + trucks, [PEDESTRIAN] * 2 + [TRUCK] * 2)
    unscaled = make_head(test_cfg=dict(nms_rescale_factor=[1.] * 6))
    assert sorted(round_trip(unscaled, truth)[0].labels_3d.tolist()) == [TRUCK] + [PEDESTRIAN] * 2
    found, = round_trip(head, truth)
    assert found.labels_3d.tolist() == [TRUCK] * 2 + [PEDESTRIAN]
    sizes = torch.tensor([[8., 3., 3.]] * 2 + [[.7, .6, 1.]])
    torch.testing.assert_close(found.bboxes_3d.dims, sizes)


@pytest.mark.parametrize('norm_bbox', [True, False])
def test_without_scales_the_result_is_that_of_center_head(norm_bbox):
    config = head_config(test_cfg=ALL_ROTATE, norm_bbox=norm_bbox)
    ours, config = make_head(test_cfg=ALL_ROTATE, norm_bbox=norm_bbox), config._cfg_dict
    config.pop('type')
    config.test_cfg.update(nms_type='rotate', nms_thr=.2)
    theirs = CenterHead(**config)
    outputs = random_outputs(2, heat=-4., size=40)
    expected = theirs.predict_by_feat(copy.deepcopy(outputs), [META] * 2)
    for found, expected in zip(ours.predict_by_feat(outputs, [META] * 2), expected):
        assert len(expected) > 100
        assert torch.equal(found.labels_3d, expected.labels_3d)
        torch.testing.assert_close(found.scores_3d, expected.scores_3d)
        torch.testing.assert_close(found.bboxes_3d.tensor, expected.bboxes_3d.tensor)


def test_no_sample_has_more_boxes_than_nuscenes_allows(head):
    outputs = random_outputs(heat=5., size=40)
    for task, in outputs:
        task['dim'][:] = -6  # so small that no two overlap
    found, = head.predict_by_feat(outputs, [META])
    counts = [sum(CLASSES[label] in task.class_names for label in found.labels_3d)
              for task in head_config().tasks]
    assert counts == [83] * 6
    assert len(found) == 498 <= 500


def test_low_scores_and_centres_beyond_the_limits_are_no_detections():
    """By the head's own settings, here stricter than those of the coder."""
    limits = [-61.2, -61.2, -10., 61.2, 61.2, 8.]
    head = make_head(test_cfg=dict(score_threshold=.3, post_center_limit_range=limits))
    outputs = random_outputs(heat=-99.)
    logits, cells = torch.linspace(-4, 4, 8), torch.arange(0, 128, 16)
    outputs[0][0]['heatmap'][0, 0, 60, cells] = logits
    likely, = head.predict_by_feat(outputs, [META])
    assert len(likely) == (logits.sigmoid() >= .3).sum() < (logits.sigmoid() >= .1).sum()
    outputs[0][0]['height'][0, 0, 60, cells[-1]] = 9.
    within, = head.predict_by_feat(outputs, [META])
    assert len(within) == len(likely) - 1


def test_attribute_losses_add_up_to_the_loss_of_center_head(head):
    config = head_config()._cfg_dict
    config.pop('type')
    theirs, outputs = CenterHead(**config), random_outputs(2)
    truth = [instances([A_CAR, [*A_CAR[:3], 2., 1., 1., -3., 1., 1.]], [CAR, PEDESTRIAN]),
             instances([[-20., 3., 1., .5, .5, 1.8, 2., 0., 1.]], [PEDESTRIAN])]
    expected = theirs.loss_by_feat(copy.deepcopy(outputs), truth)
    losses = head.loss_by_feat(outputs, truth)
    assert set(losses) == {f'task{i}.loss_{name}' for i in range(6)
                           for name in ['heatmap', *ATTRIBUTES]}
    for i in range(6):
        torch.testing.assert_close(losses[f'task{i}.loss_heatmap'],
                                   expected[f'task{i}.loss_heatmap'])
        torch.testing.assert_close(sum(losses[f'task{i}.loss_{name}'] for name in ATTRIBUTES),
                                   expected[f'task{i}.loss_bbox'])
    assert losses['task0.loss_xy'] > 0 and losses['task5.loss_vel'] > 0


@pytest.mark.parametrize('name, key, channels, weight', [
    ('xy', 'reg', 2, 1.), ('z', 'height', 1, 1.), ('whl', 'dim', 3, 1.), ('yaw', 'rot', 2, 1.),
    ('vel', 'vel', 2, .2)])
def test_each_loss_is_of_its_attribute(head, name, key, channels, weight):
    truth = [instances([A_CAR, [-5., -5., *A_CAR[2:]]], [CAR, CAR])]
    outputs = encode(head.get_targets(truth))
    outputs[0][0][key][0, :, 55, 101] += 3
    losses = head.loss_by_feat(outputs, truth)
    for other in ATTRIBUTES:
        expected = .25 * weight * 3 * channels / 2 if other == name else 0
        assert losses[f'task0.loss_{other}'].item() == pytest.approx(expected, rel=1e-3)


def test_an_unknown_velocity_counts_nothing(head):
    """Beside a known one: with none at all mmdet's loss does not look at the targets."""
    outputs = random_outputs()
    for value in tensors_of(outputs):
        value.requires_grad_()
    unknown, other = [*A_CAR[:7], math.nan, math.nan], [-5., -5., *A_CAR[2:]]
    losses = head.loss_by_feat(outputs, [instances([unknown, other], [CAR, CAR])])
    known = head.loss_by_feat(outputs, [instances([A_CAR, other], [CAR, CAR])])
    for name in ATTRIBUTES[:-1]:
        assert losses[f'task0.loss_{name}'] == known[f'task0.loss_{name}'] > 0
    velocity = outputs[0][0]['vel']
    cell = int((-5 + 51.2) / .8)
    error = (velocity[0, :, cell, cell] - torch.tensor(A_CAR[7:])).abs().sum()
    torch.testing.assert_close(losses['task0.loss_vel'], .25 * .2 * error / 2)

    sum(losses.values()).backward()
    assert all(value.grad.isfinite().all() for value in tensors_of(outputs))
    assert not velocity.grad[0, :, 55, 101].any() and velocity.grad[0, :, cell, cell].all()
    assert outputs[0][0]['rot'].grad[0, :, 55, 101].all()


def test_samples_without_boxes_train():
    head = make_head(train_cfg=dict(grid_size=[128, 128, 40])).train()
    features = torch.randn(2, CHANNELS, 16, 16, requires_grad=True)
    losses = head.loss_by_feat(head([features]), [instances([], [])] * 2)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(losses[f'task{i}.loss_{name}'] == 0 for i in range(6) for name in ATTRIBUTES)
    assert features.grad.isfinite().all() and features.grad.any()
    for name, param in head.named_parameters():  # as DDP wants it
        assert param.grad is not None and param.grad.isfinite().all(), name


def test_outputs_stay_as_they_are(head):
    outputs = random_outputs(heat=-6.)
    before = copy.deepcopy(outputs)
    head.loss_by_feat(outputs, [instances([A_CAR], [CAR])])
    head.predict_by_feat(outputs, [META])
    assert [set(task) for task, in outputs] == [set(task) for task, in before]
    assert all(map(torch.equal, tensors_of(outputs), tensors_of(before)))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_loss_and_decoding_run_in_fp32(head, dtype):
    half, truth = random_outputs(heat=-6., dtype=dtype), [instances([A_CAR], [CAR])]
    full = tuple([{k: v.float() for k, v in task.items()}] for task, in half)
    with torch.autocast('cpu', torch.bfloat16):
        losses, found = head.loss_by_feat(half, truth), head.predict_by_feat(half, [META])[0]
    expected = head.loss_by_feat(full, truth)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert losses == expected
    expected, = head.predict_by_feat(full, [META])
    assert torch.equal(found.bboxes_3d.tensor, expected.bboxes_3d.tensor) and len(found)
    assert torch.equal(found.scores_3d, expected.scores_3d)


@pytest.mark.parametrize('reduction', ['none', 'sum'])
def test_another_reduction_is_refused(reduction):
    with pytest.raises(ValueError, match=reduction):
        make_head(loss_bbox=dict(reduction=reduction))
