"""A search over the widths of stages beside the ratios."""
import csv

import numpy as np
import pytest
from landscape import Landscape

from sparsevit_mm.budget import Front, FrontPoint
from sparsevit_mm.operating_point import Knob, PointSpace, operating_point, width_knobs
from sparsevit_mm.search.candidates import write_csv
from sparsevit_mm.search.limits import Limits
from sparsevit_mm.search.propose.genes import Genes
from sparsevit_mm.search.propose.space import fastest_points
from sparsevit_mm.search.request import SearchRequest
from sparsevit_mm.sparsity import SparsityConfig, SparsitySpace
from sparsevit_mm.widths import StageWidths

SHARES = (1., .75, .5)
RATIOS = SparsitySpace((2, 2), (0., .2, .4, .6, .8))
UNITS = [[(4, 40)] * 2, [(8, 80)] * 2]
KNOBS = width_knobs(dict(heads=SHARES, ffn=SHARES), UNITS)
SPACE = PointSpace.beside(RATIOS, KNOBS)
OWN = StageWidths.of(None, 2)


def width_of(point):
    """Mean over stages and kinds, the second stage counting thrice."""
    widths = OWN.at(point)
    return np.average([*widths.heads, *widths.ffn], weights=[1, 3, 1, 3])


def cost(point):
    """Milliseconds: windows and widths multiply, as they do in a model."""
    return 10 * (1 - point.mean) * (.1 + .9 * width_of(point))


def quality(point):
    """The first pruned windows cost little, and so do the first units; the later ones much."""
    return 1 - point.mean**4 - (1 - width_of(point))**4


class Joint(Landscape):

    def __init__(self, space):
        super().__init__(metric=quality)
        self.space = space

    def latency(self, point):
        return cost(point)


def best_of(space, budget=4., trials=40, seed=0):
    search = Joint(space).search(limits=Limits(max_latency=budget), seed=seed)
    search.run(trials)
    return search.best


def test_the_joint_space_is_searched():
    """Where both are worth a little, a little of both beats much of either."""
    joint = best_of(SPACE)
    widths = OWN.at(joint.config)
    assert not widths.is_full and not joint.config.is_dense
    windows = best_of(RATIOS)
    alone = best_of(PointSpace.beside(RATIOS.of([0.]), width_knobs(
        dict(heads=(1., .5, .25, .1), ffn=(1., .5, .25, .1)), UNITS)))
    assert joint.metric > windows.metric + .05 and joint.metric > alone.metric + .05
    rng = np.random.default_rng(0)
    drawn = [SPACE.sample(rng) for _ in range(20000)]
    reachable = max(quality(p) for p in drawn if cost(p) <= 4)
    assert joint.metric > reachable - .01


def test_seeds_hold_all_widths_together_and_alone():
    points = SPACE.uniform()
    widths = {OWN.at(point) for point in points if point.is_dense}
    assert {(w.heads, w.ffn) for w in widths} == {
        ((1., 1.), (1., 1.)), ((.75, .75), (1., 1.)), ((.5, .5), (1., 1.)),
        ((1., 1.), (.75, .75)), ((1., 1.), (.5, .5))}
    smallest = max(points, key=lambda p: (p.mean, -width_of(p)))
    assert smallest.mean == .8 and OWN.at(smallest) == StageWidths((.5, .5), (.5, .5))
    assert len(set(points)) == len(points) and all(point in SPACE for point in points)
    assert SPACE.count() == RATIOS.count() * 3**4


def test_the_fastest_point_is_among_those_measured_first():
    other = Knob('model.test_cfg.max_per_img', (100, 50))
    points = fastest_points(PointSpace.beside(RATIOS, [other, *KNOBS]))
    assert len(points) == 2 and {dict(p.knobs)[other.name] for p in points} == {100, 50}
    for point in points:
        assert {r for stage in point.ratios for r in stage} == {.8}
        assert OWN.at(point) == StageWidths((.5, .5), (.5, .5))
    assert fastest_points(RATIOS) == [SparsityConfig(.8, (2, 2))]


def test_shares_that_run_the_same_units_are_one_choice():
    knobs = width_knobs(dict(heads=(1., .75, .5, .4), ffn=SHARES), [[(1, 8)], [(2, 8), (3, 8)]])
    assert [(knob.name, knob.values) for knob in knobs] == [
        ('heads_stage1', (1., .75, .5)), ('ffn_stage0', SHARES), ('ffn_stage1', SHARES)]
    points = PointSpace.beside(RATIOS, knobs).uniform()
    assert StageWidths.of(None, 2).at(points[-1]) == StageWidths((1., .5), (.5, .5))


def test_draws_reach_from_full_to_narrow_width():
    genes = Genes(SPACE, cost, np.random.default_rng(0))
    drawn = [width_of(genes.draw()) for _ in range(100)]
    assert min(drawn) < .6 and max(drawn) > .95
    for _ in range(50):
        a, b = genes.spread(), genes.spread()
        for child in (genes.cross(a, b), genes.mutate(a)):
            assert child in SPACE


def test_points_are_kept_with_their_widths(tmp_path):
    point = operating_point(RATIOS.config(.4), {
        'heads_stage0': 1., 'heads_stage1': .5, 'ffn_stage0': .5, 'ffn_stage1': .5})
    assert point.label == 'uniform 0.4, heads 1 0.5, ffn 0.5'
    Front([FrontPoint(point, 3., .5)], 'score', {}).save(tmp_path / 'front.json')
    read = Front.load(tmp_path / 'front.json').points[0].config
    assert read == point and hash(read) == hash(point) and str(read) == str(point)

    search = Joint(SPACE).search()
    search.run(8)
    write_csv(tmp_path / 'candidates.csv', search.candidates)
    with (tmp_path / 'candidates.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [[float(row[knob.name]) for knob in KNOBS] for row in rows] == [
        [dict(c.config.knobs)[knob.name] for knob in KNOBS]
        for c in sorted(search.candidates, key=lambda c: c.trial)]
    assert len({row['ffn_stage1'] for row in rows}) > 1


def test_a_study_goes_on(tmp_path):
    storage = f'sqlite:///{tmp_path / "search.db"}'
    with Joint(SPACE).search(storage) as first:
        first.run(12)
    again = Joint(SPACE)
    with again.search(storage, resume=True) as second:
        second.run(20)
    assert len(again.evaluated) == 8
    assert {c.config for c in first.candidates} <= {c.config for c in second.candidates}


def request(**changes):
    from sparsevit_mm.cost.latency import LatencySetting
    return SearchRequest(**{**dict(config='a.py', checkpoint='a.pth', options=None,
                                   limits=Limits(), setting=LatencySetting((8, 8)),
                                   out='out.py'), **changes})


def test_bad_requests_are_refused():
    assert request(widths=dict(ffn=[.5, 1])).widths == dict(ffn=(1., .5))
    with pytest.raises(ValueError, match='--widths .*--latency-table'):
        request(widths=dict(ffn=[.5, 1]), table='table.json')
    with pytest.raises(ValueError, match='--knob: .*--widths'):
        request(knobs=[Knob('ffn_stage0', (1., .5))])
    with pytest.raises(ValueError, match='width of ffn is 2'):
        request(widths=dict(ffn=[2]))
    with pytest.raises(ValueError, match='knob ffn_stage0 is 1.5'):
        Knob('ffn_stage0', (1.5, ))
    with pytest.raises(ValueError, match='ffn_stage7: .* 2 stages'):
        OWN.at(operating_point(RATIOS.config(0), dict(ffn_stage7=.5)))
