import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevit_mm import Front, SparsityConfig
from sparsevit_mm.budget import FrontPoint

DEPTHS = (2, 4)
SETTING = dict(shape=[16, 24], batch_size=2, device='a CPU')
RECORD = dict(metric='mAP', setting=SETTING,
              points=[dict(sparsity=[[.3, .3], [0, 0, .5, .5]], latency=4.5, metric=.25)])


@st.composite
def points(draw):
    """Points of any figures, equal ones too."""
    latency, metric = st.sampled_from([.5, 1., 2., 3.25, 8.]), st.sampled_from([-1., 0., .25, .5])
    ratio = st.integers(0, 8).map(lambda r: SparsityConfig(r / 10, DEPTHS))
    return draw(st.lists(st.builds(FrontPoint, ratio, latency, metric), min_size=1, max_size=12))


def front_of(points):
    return Front(points, 'mAP', SETTING)


def front(*rows):
    """A front of (uniform ratio, latency, metric)."""
    return front_of([FrontPoint(SparsityConfig(ratio, DEPTHS), *row) for ratio, *row in rows])


@given(points())
def test_each_slower_point_has_a_higher_metric(points):
    kept = front_of(points).points
    assert all(a.latency < b.latency and a.metric < b.metric for a, b in zip(kept, kept[1:]))


@given(points())
def test_what_is_dropped_is_beaten_by_what_is_kept(points):
    kept = front_of(points).points
    assert set(kept) <= set(points)
    assert all(any(k.latency <= p.latency and k.metric >= p.metric for k in kept) for p in points)


@given(points(), st.floats(.1, 10))
def test_the_best_of_all_points_within_a_budget_is_on_the_front(points, ms):
    fitting = [p.metric for p in points if p.latency <= ms]
    if fitting:
        chosen = front_of(points).within(ms)
        assert chosen.metric == max(fitting) and chosen.latency <= ms
    else:
        with pytest.raises(ValueError, match=f'takes {min(p.latency for p in points):.3f} ms'):
            front_of(points).within(ms)


def test_a_budget_that_is_met_exactly_is_met():
    assert front((.5, 3., .2), (0, 9., .4)).within(9.).metric == .4
    assert front((.5, 3., .2), (0, 9., .4)).within(math.nextafter(9., 0)).metric == .2
    assert front((.5, 3., .2), (0, 9., .4)).within(math.inf).metric == .4


@given(points(), st.floats(.1, 10))
def test_other_latencies_take_the_place_of_the_own(points, ms):
    """On a device that is fastest where nothing is pruned."""
    kept = front_of(points)
    elsewhere = {p.config: 1 + 8 * p.config.mean for p in kept.points}
    fitting = [p for p in kept.points if elsewhere[p.config] <= ms]
    if fitting:
        chosen = kept.within(ms, elsewhere.get)
        assert chosen.metric == max(p.metric for p in fitting)
        assert chosen.latency == elsewhere[chosen.config]
    else:
        with pytest.raises(ValueError, match=f'takes {min(elsewhere.values()):.3f} ms'):
            kept.within(ms, elsewhere.get)


@pytest.mark.parametrize('ms', [0, -3, -math.inf, math.nan])
def test_a_budget_that_is_no_positive_number_is_refused(ms):
    with pytest.raises(ValueError, match=f'must be positive, not {ms} ms'):
        front((0, 1., 1.)).within(ms)


@given(points())
def test_a_file_holds_the_front_it_was_saved_from(tmp_path, points):
    saved = front_of(points)
    saved.save(tmp_path / 'within' / 'front.json')
    assert Front.load(str(tmp_path / 'within' / 'front.json')) == saved
    assert len(list(tmp_path.rglob('*.*'))) == 1


def test_a_front_that_can_not_be_written_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / 'front.json'
    front((0, 1., 1.)).save(path)
    before = path.read_text()

    def full(*_):
        raise OSError('no space left on device')

    monkeypatch.setattr('pathlib.Path.replace', full)
    with pytest.raises(OSError, match='no space'):
        front((.5, 2., 2.)).save(path)
    assert path.read_text() == before and list(tmp_path.iterdir()) == [path]


def test_configurations_of_different_depths_make_no_front():
    others = [FrontPoint(SparsityConfig(0, depths), 1., 1.) for depths in (DEPTHS, (2, 2))]
    with pytest.raises(ValueError, match=r'\(2, 2\), \(2, 4\)'):
        front_of(others)


@pytest.mark.parametrize('latency, metric, named', [
    (0., .5, 'latency .* 0.0 ms'), (-1., .5, 'latency'), (math.nan, .5, 'latency .* nan'),
    (math.inf, .5, 'latency'), (1., math.nan, 'metric .* nan'), (1., math.inf, 'metric')])
def test_figures_that_are_none_are_refused(latency, metric, named):
    with pytest.raises(ValueError, match=named):
        front((.5, latency, metric))


def change(**figures):
    return dict(RECORD, points=[dict(RECORD['points'][0], **figures)])


def without(record, key):
    return {k: v for k, v in record.items() if k != key}


@pytest.mark.parametrize('content, named', [
    ('{"points": [', 'Expecting'), ('', 'Expecting'), (b'\xff\xfe', 'codec'),
    ([], "'points' is missing"), (None, "'points' is missing"),
    (without(RECORD, 'points'), "'points' is missing"),
    (without(RECORD, 'metric'), "'metric' is missing"),
    (without(RECORD, 'setting'), "'setting' is missing"),
    (dict(RECORD, points=[without(RECORD['points'][0], 'latency')]), "'latency' is missing"),
    (dict(RECORD, points=[without(RECORD['points'][0], 'metric')]), "'metric' is missing"),
    (dict(RECORD, points=[without(RECORD['points'][0], 'sparsity')]), "'sparsity' is missing"),
    (dict(RECORD, points=[3]), "'sparsity' is missing in 3"),
    (dict(RECORD, points={}), "'points' is {}, not a list"),
    (dict(RECORD, points=[]), 'at least one point'),
    (dict(RECORD, setting='CPU'), "'setting' is 'CPU', not a dict"),
    (dict(RECORD, metric=None), "'metric' is None, not a str"),
    (change(latency=math.nan), 'latency .* nan'), (change(latency=-2), 'latency .* -2'),
    (change(latency='5'), "'latency' is '5', not a float"),
    (change(metric=True), "'metric' is True, not a float"),
    (change(metric=math.nan), 'metric .* nan'), (change(metric=10**400), 'too large'),
    (change(sparsity=[[.3, .3], [1.5, 1.5]]), r'outside \[0, 1\)'),
    (change(sparsity=[[.3, math.nan]]), 'nan, outside'),
    (change(sparsity=[[.3, None]]), 'None, not a number'),
    (change(sparsity=[.3, .3]), 'list of stages'), (change(sparsity=[]), 'list of stages'),
    (change(sparsity=[[.3], []]), 'list of stages'),
    (dict(RECORD, points=RECORD['points'] + change(sparsity=[[0.]])['points']), 'depths')])
def test_a_file_that_holds_no_front_is_named_with_what_is_wrong(tmp_path, content, named):
    path = tmp_path / 'broken.json'
    content = content if isinstance(content, (str, bytes)) else json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f'front {path}: .*{named}'):
        Front.load(path)


def test_whole_numbers_are_figures_too(tmp_path):
    path = tmp_path / 'front.json'
    path.write_text(json.dumps(change(latency=4, metric=0)))
    assert Front.load(path).points[0].latency == 4


@pytest.mark.parametrize('path', ['nowhere.json', '.'])
def test_a_file_that_is_not_there_is_named(tmp_path, path):
    with pytest.raises(FileNotFoundError, match=f'front {tmp_path / path} '):
        Front.load(tmp_path / path)
