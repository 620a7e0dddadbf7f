"""A search's choice: ratios with values of the test config beside them."""
import json

import numpy as np
import pytest

from sparsevit_mm.operating_point import (Knob, OperatingPoint, PointSpace, operating_point,
                                          point_from_json, point_to_json, short_names)
from sparsevit_mm.search.propose.genes import Genes
from sparsevit_mm.search.propose.sampler import from_params, to_params
from sparsevit_mm.sparsity import SparsityConfig, SparsitySpace

RATIOS = SparsitySpace((2, 2), (0., .4, .8))
BOXES = Knob('model.test_cfg.rpn.max_per_img', (1000, 500, 300))
KIND = Knob('model.test_cfg.rcnn.nms.type', ('nms', 'soft_nms'))
SPACE = PointSpace.beside(RATIOS, [BOXES, KIND])
HALF = SparsityConfig(.4, (2, 2))


def macs_of(config):
    return 1 - config.mean


def test_without_knobs_it_is_the_configuration_itself():
    assert operating_point(HALF) == HALF and type(operating_point(HALF)) is SparsityConfig
    assert PointSpace.beside(RATIOS, []) is RATIOS
    assert HALF.knobs == () == RATIOS.knobs


def test_points_are_values():
    point = operating_point(HALF, {BOXES.name: 300})
    assert point == OperatingPoint(HALF, {BOXES.name: 300}) != operating_point(
        HALF, {BOXES.name: 500})
    assert point != HALF and len({point, HALF, operating_point(HALF, {BOXES.name: 300})}) == 2
    assert point.ratios == HALF.ratios and point.label == 'uniform 0.4, max_per_img 300'
    assert str(point) == f'{HALF} model.test_cfg.rpn.max_per_img=300'
    assert SparsityConfig(point, (2, 2)) == HALF == RATIOS.config(point)


@pytest.mark.parametrize('point', [HALF, operating_point(HALF, {BOXES.name: 300, 'a': 'b'})])
def test_json_holds_a_point(point):
    record = json.loads(json.dumps(point_to_json(point)))
    assert point_from_json(record, (2, 2)) == point


@pytest.mark.parametrize('text, values', [
    ('model.test_cfg.rpn.max_per_img=1000,500, 300', (1000, 500, 300)),
    ('model.test_cfg.rcnn.score_thr=0.05,.3', (.05, .3)),
    ('model.test_cfg.mode=whole,slide', ('whole', 'slide')),
    ('model.test_cfg.flip=True,False', (True, False)), ('image_scale=1,.75', (1, .75))])
def test_a_knob_is_parsed(text, values):
    assert Knob.parse(text).values == values


@pytest.mark.parametrize('text, message', [
    ('model.test_cfg.rpn.max_per_img', 'is not NAME=VALUE'),
    ('model.test_cfg.rpn.max_per_img=', 'is not NAME=VALUE'),
    ('model.backbone.depths=1,2', 'nor a value below model.test_cfg'),
    ('image_scale=1,-.5', 'not all positive'), ('image_scale=1,big', 'not all positive'),
    ('image_scale=1,1.0', r'image_scale: .*\[1, 1.0\]'),
    ('model.test_cfg.rpn.max_per_img=300,300', r'max_per_img: .*\[300, 300\]'),
    ('model.test_cfg.rcnn.score_thr=1e999', '1e999')])
def test_what_is_no_knob_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Knob.parse(text)


def test_names_are_as_long_as_it_takes_to_tell_them_apart():
    assert short_names(['a.b.x', 'a.c.x', 'a.y', 'x.z']) == {
        'a.b.x': 'b.x', 'a.c.x': 'c.x', 'a.y': 'y', 'x.z': 'z'}
    assert short_names(['x', 'a.x']) == {'x': 'x', 'a.x': 'a.x'}


def test_the_space_has_a_gene_for_each_knob():
    assert SPACE.num_genes == 4 and SPACE.gene_sizes == (3, 3, 3, 2)
    assert SPACE.count() == RATIOS.count() * 6
    points = {SPACE.decode(g) for g in np.ndindex(*SPACE.gene_sizes)}
    assert len(points) == SPACE.count()
    for point in points:
        assert SPACE.decode(SPACE.encode(point)) == point in SPACE
        assert SPACE.decode(from_params(to_params(SPACE, point))) == point
    assert HALF not in SPACE


def test_a_search_starts_from_first_values_and_tries_each_other_value_alone():
    uniform = SPACE.uniform()
    first = {BOXES.name: 1000, KIND.name: 'nms'}
    assert uniform[0] == SPACE.config(0.) == operating_point(RATIOS.config(0.), first)
    assert uniform[:3] == [operating_point(c, first) for c in RATIOS.uniform()]
    assert [dict(p.knobs) for p in uniform[3:]] == [
        {**first, BOXES.name: 500}, {**first, BOXES.name: 300}, {**first, KIND.name: 'soft_nms'}]


def test_draws_and_offspring_vary_the_knobs():
    genes = Genes(SPACE, macs_of, np.random.default_rng(0))
    draws = [genes.draw() for _ in range(60)]
    assert {p.knobs for p in draws} == {p.knobs for p in map(SPACE.decode,
                                                             np.ndindex(*SPACE.gene_sizes))}
    a, b = draws[0], next(d for d in draws if all(
        one != other for one, other in zip(d.knobs, draws[0].knobs)))
    children = {genes.cross(a, b).knobs for _ in range(40)}
    assert children == {tuple(pair) for pair in (
        (x, y) for x in (a.knobs[0], b.knobs[0]) for y in (a.knobs[1], b.knobs[1]))}
    assert all(genes.mutate(a) in SPACE for _ in range(40))
    assert len({genes.mutate(a).knobs for _ in range(200)}) > 3
