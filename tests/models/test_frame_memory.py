"""The prior of importance='boxes': where boxes were predicted in the frame before."""
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.model import BaseModel

from sparsevit_mm.models import execution
from sparsevit_mm.models.frame_memory import boxes_in_images, cover
from sparsevit_mm.models.importance import TOKEN_SCORES, MapInfo, mean_magnitude
from sparsevit_mm.visualization.windows import record_windows

SIZE = 64
CORNER = [40., 40., 63., 63.]
IMAGE = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def predicted(*boxes, scores=None, **meta):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return SimpleNamespace(metainfo=dict(img_shape=(SIZE, SIZE), **meta), pred_instances=(
        SimpleNamespace(bboxes=boxes, scores=torch.ones(len(boxes)) if scores is None else
                        torch.tensor(scores))))


class Detector(BaseModel):
    """Predicts what it is told to."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs, data_samples=None, mode='predict'):
        self.features = self.backbone(inputs)
        return data_samples


@pytest.fixture
def detector(make_swin):
    return Detector(make_swin(sparsity=.7, importance='boxes')).eval()


@torch.no_grad()
def ran(detector, sample, image=IMAGE):
    """(H, W) tokens that ran in the first block, of a model that has nothing else to go by than
    the features and what it remembers."""
    with record_windows(detector.backbone) as maps:
        detector(image, [sample])
    return maps[0][0][0]


@given(st.lists(st.tuples(*[st.integers(-5, 45)] * 4), max_size=4), st.integers(2, 5))
def test_cover_is_the_share_of_pixels_in_the_box_that_covers_most(boxes, side):
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]
    grid = 7, 9
    expected = torch.zeros(grid)
    for left, top, right, bottom in boxes:
        pixels = torch.zeros(grid[0] * side, grid[1] * side)
        pixels[max(top, 0):max(bottom, 0), max(left, 0):max(right, 0)] = 1
        expected = expected.maximum(
            pixels.unfold(0, side, side).unfold(1, side, side).mean((2, 3)))
    got = cover(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), grid, side)
    torch.testing.assert_close(got, expected)


def test_boxes_lift_the_score_of_their_tokens():
    x, prior = torch.randn(2, 5, 8), torch.rand(2, 5)
    score = TOKEN_SCORES['boxes']
    assert torch.equal(score(x, MapInfo((1, 5))), mean_magnitude(x))
    torch.testing.assert_close(score(x, MapInfo((1, 5), prior=prior)),
                               mean_magnitude(x) * (1 + prior))


def test_the_frame_after_looks_where_boxes_were(detector):
    first = ran(detector, predicted(CORNER))
    second = ran(detector, predicted())
    third = ran(detector, predicted())
    corner = (slice(10, None), slice(10, None))
    assert second[corner].sum() > first[corner].sum()
    assert torch.equal(first, third)  # the second frame had no boxes


def test_weak_boxes_do_not_count_and_boxes_are_scaled_as_their_image_was(detector):
    first = ran(detector, predicted([v / 2 for v in CORNER], scale_factor=(2., 2.)))
    strong = ran(detector, predicted(CORNER, scores=[.05]))
    assert not torch.equal(first, strong)
    assert torch.equal(first, ran(detector, predicted()))


@pytest.mark.parametrize('forget', [
    lambda d: setattr(d.backbone, 'sparsity', .7),
    lambda d: setattr(d.backbone, 'selection', d.backbone.selection),
    lambda d: d.backbone.memory.forget()])
def test_a_new_evaluation_begins_with_nothing_in_mind(detector, forget):
    first = ran(detector, predicted(CORNER))
    forget(detector)
    assert torch.equal(ran(detector, predicted()), first)


@pytest.mark.parametrize('times, remembered', [
    ((0., .5), True), ((0., 3.), False), ((9., 8.5), False), ((None, 1.), True)])
def test_frames_far_apart_in_time_are_of_two_scenes(detector, times, remembered):
    before, after = ({} if t is None else dict(timestamp=t) for t in times)
    first = ran(detector, predicted(CORNER, **before))
    assert torch.equal(ran(detector, predicted(**after)), first) != remembered


def test_an_image_of_another_size_is_no_next_frame(detector):
    ran(detector, predicted(CORNER))
    other = IMAGE[..., :48]
    sample = predicted()
    sample.metainfo['img_shape'] = (64, 48)
    with_memory = ran(detector, sample, other)
    detector.backbone.memory.forget()
    assert torch.equal(ran(detector, sample, other), with_memory)


def test_training_neither_looks_nor_remembers(detector):
    detector.train()
    before = ran(detector, predicted(CORNER))
    assert detector.backbone.memory.boxes is None
    assert torch.equal(ran(detector, predicted()), before)


def test_several_frames_at_once_are_refused(detector):
    with pytest.raises(ValueError, match='one frame, not 2'):
        detector(IMAGE.repeat(2, 1, 1, 1), [predicted()] * 2)


def test_other_scores_remember_nothing(make_swin):
    model = Detector(make_swin(sparsity=.7)).eval()
    ran(model, predicted(CORNER))
    assert model.backbone.memory.boxes is None


@pytest.mark.parametrize('mode', ['compiled', 'captured'])
def test_a_recording_heeds_each_frame_s_prior_and_padding(make_swin, monkeypatch, mode):
    """One recording without a prior, one with it; sizes likewise."""
    from test_execution import FakeCaptured, captures
    monkeypatch.setitem(execution.EXECUTIONS, 'captured', FakeCaptured)
    captures.clear()
    models = [Detector(make_swin(sparsity=.7, importance='boxes', execution=e)).eval()
              for e in (mode, 'eager')]
    frames = [predicted(CORNER), predicted([0, 0, 20, 20]), predicted(CORNER), predicted()]
    sizes = [(64, 64), (40, 64), (64, 30), (40, 64)]
    outputs = []
    with torch.no_grad():
        for model in models:
            seen = []
            for frame, size in zip(frames, sizes):
                frame.metainfo['img_shape'] = size
                model(IMAGE, [frame])
                seen.append(model.features)
            outputs.append(seen)
    for got, expected in zip(*outputs):
        for one, other in zip(got, expected):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    if mode == 'captured':
        assert len(captures) == 2


def test_without_boxes_nothing_is_projected():
    sample = predicted()
    assert [b.shape for b in boxes_in_images(sample, 1)] == [(0, 4)]
    assert cover(torch.zeros(0, 4), (3, 4), 4).sum() == 0
