"""Widths in what is measured, counted and set by a budget."""
import pytest
import torch
from helpers import backbone
from torch import nn

from sparsevit_mm import Front, SparsityConfig, set_latency_budget
from sparsevit_mm.cost.latency import LatencyMeter, LatencySetting
from sparsevit_mm.cost.macs import backbone_macs
from sparsevit_mm.budget import FrontPoint
from sparsevit_mm.operating_point import operating_point
from sparsevit_mm.weights import order_units
from sparsevit_mm.widths import StageWidths

DENSE = SparsityConfig(0, (2, 2))
NARROW = operating_point(SparsityConfig(.5, (2, 2)), {
    f'{kind}_stage{stage}': .5 for kind in ('heads', 'ffn') for stage in range(2)})
FULL = operating_point(DENSE, {name: 1. for name, _ in NARROW.knobs})
FRONT = Front([FrontPoint(NARROW, 5., .1), FrontPoint(FULL, 10., .2)], 'mAP', {})


@pytest.fixture
def model(randomise):
    model = randomise(backbone(num_heads=(2, 4)))
    order_units(model)
    return model.eval()


def test_macs_are_those_of_the_point(model):
    full, at_point = backbone_macs(model, (16, 16)), backbone_macs(model, (16, 16), 1, NARROW)
    model.sparsity, model.widths = .5, dict(heads=.5, ffn=.5)
    assert backbone_macs(model, (16, 16)) == at_point < full / 2
    assert backbone_macs(model, (16, 16), 1, FULL) == full


def test_a_meter_runs_points_at_their_widths_and_others_at_its_own(model):
    model.widths = dict(heads=1, ffn=.75)
    meter = LatencyMeter(model, LatencySetting((16, 16), num_threads=1), 1)
    seen = []
    meter.backbone.register_forward_pre_hook(lambda m, _: seen.append(m.widths))
    for point in (NARROW, DENSE, FULL):
        meter.once(point)
    own = StageWidths.of(dict(ffn=.75), 2)
    assert seen == [own.at(NARROW), own, own.at(FULL)] and model.widths == own


@torch.no_grad()
def test_a_budget_sets_them(model):
    image, whole = torch.randn(2, 3, 16, 16), nn.Sequential(model)
    full = model(image)
    assert set_latency_budget(whole, 6., FRONT) == NARROW
    assert model.widths == StageWidths((.5, .5), (.5, .5))
    assert model.sparsity == SparsityConfig(.5, (2, 2))
    assert not torch.allclose(model(image)[-1], full[-1])
    assert set_latency_budget(whole, 10., FRONT) == FULL
    assert all(map(torch.equal, model(image), full))


def test_a_budget_needs_units_in_order(randomise):
    model = randomise(backbone(num_heads=(2, 4)))
    with pytest.raises(ValueError, match='the front has widths: .*tools/order_units.py'):
        set_latency_budget(model, 6., FRONT)
    assert model.widths.is_full and model.sparsity.is_dense


def test_no_table_speaks_for_widths(model):
    from test_budget import table
    with pytest.raises(ValueError, match='the front has widths, .* latency table'):
        set_latency_budget(model, 6., FRONT, table())
