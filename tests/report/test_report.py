import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from fake_search import DENSE, METRIC, SPACE, FakeSearch, metric_of

from sparsevit_mm import SparsityConfig
from sparsevit_mm.cost.table import LatencyTable
from sparsevit_mm.operating_point import operating_point
from sparsevit_mm.report.report import write_report
from sparsevit_mm.report.sections import check_section, windows_section
from sparsevit_mm.report.source import read_search
from sparsevit_mm.report.statistics import front_area, importances, progress
from sparsevit_mm.report.svg import NAMES
from sparsevit_mm.search.candidates import EVALUATED, Candidate, within_noise

SECTIONS = ['tradeoff', 'finalists', 'importances', 'sensitivity', 'progress', 'check',
            'first-look', 'windows', 'candidates', 'provenance']
HOSTILE, METRIC_TOO = '<script>alert("x")</script> & $y', '<i>"$x_2$" & --> ]]>'


class Page(HTMLParser):
    """A page as a browser reads it: tags with their attributes, and the text of each section."""

    def __init__(self, folder, **options):
        super().__init__()
        self.fake = FakeSearch(folder, **options)
        self.record = read_search(folder)
        self.path = write_report(self.record, images=0)
        self.html = self.path.read_text()
        self.tags, self.texts, self._section = [], {'': ''}, ''
        self.feed(self.html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == 'section':
            self._section = dict(attrs)['id']
            self.texts[self._section] = ''

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.texts[self._section] += data + ' '

    def figures(self):
        return {path.stem for path in (self.path.parent / 'report').glob('*.png')}


@pytest.fixture(scope='module')
def full(tmp_path_factory):
    return Page(tmp_path_factory.mktemp('full'), evaluated=25)


@pytest.fixture(scope='module')
def pareto(tmp_path_factory):
    return Page(tmp_path_factory.mktemp('pareto'), pareto=True, evaluated=25, first_look=False,
                references=False)


@pytest.fixture(scope='module')
def bare(tmp_path_factory):
    """Of a search that was just begun, with nothing that can be left out, and hostile names."""
    return Page(tmp_path_factory.mktemp('bare'), evaluated=3, first_look=False, resampled=False,
                references=False, finals=False, study=HOSTILE, metric=f'coco/{METRIC_TOO}')


@pytest.mark.parametrize('name', ['full', 'pareto', 'bare'])
def test_a_page_needs_nothing_beside_it(name, request):
    page = request.getfixturevalue(name)
    assert not re.search('https?:|//', page.html.replace('</', '').replace('/>', ''))
    ids = [attrs['id'] for _, attrs in page.tags if 'id' in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.tags:
        assert tag not in ('script', 'object', 'iframe', 'img')
        for key in ('src', 'href', 'xlink:href'):
            if key in attrs:
                assert attrs[key] == 'data:,' or attrs[key][1:] in ids, attrs
    used = re.findall(r'url\(([^)]*)\)', page.html)
    assert used and all(place.strip('"\'')[1:] in ids for place in used)


def test_every_section_is_there_with_its_figures(full):
    assert list(full.texts) == ['', *SECTIONS]
    assert full.figures() == {'tradeoff', 'ratios', 'importances', 'sensitivity', 'progress',
                              'check', 'first_look'}
    for section in SECTIONS[:7]:
        missing = re.findall('not (?:recorded|shown)[^.]*', full.texts[section], re.IGNORECASE)
        assert len(missing) == (section == 'check')  # there is no table
    assert sum(attrs.get('role') == 'img' for _, attrs in full.tags) == 7


def test_what_the_search_did_not_record_is_said_with_the_option_that_does(bare):
    assert list(bare.texts) == ['', *SECTIONS]
    assert bare.figures() == {'tradeoff', 'progress'}
    for section, words in dict(
            tradeoff='--references', finalists='has not ended', importances='3 evaluated',
            sensitivity='--references', check='--latency-table', windows='--images 0').items():
        assert words in bare.texts[section]
    assert '--first-look' in bare.texts['first-look']
    assert 'The search has not ended' in bare.texts['']


def test_a_search_without_any_evaluation_has_a_page(tmp_path):
    page = Page(tmp_path, evaluated=0, finals=False, references=False)
    assert 'evaluated yet' in page.texts[''] and page.figures() == {'tradeoff'}


def test_names_are_text_whatever_they_hold(bare):
    assert not {'script', 'i'} & {tag for tag, _ in bare.tags}
    assert HOSTILE in bare.texts[''] and HOSTILE in bare.texts['provenance']
    svg = [attrs for tag, attrs in bare.tags if tag == 'svg']
    assert len(svg) == 2 and bare.texts['progress'].count(METRIC_TOO) == 2  # labels of axes


def test_the_head_tells_of_the_winner_against_dense(full):
    summary = full.record.summary
    winner, dense = summary.finalists[0], summary.dense
    on_all = f'bbox_mAP {winner.full[METRIC]:.4g} against {dense.metric - .004:.4g} dense'
    in_search = f'it has {winner.candidate.metric:.4g} against {dense.metric:.4g}'
    for words in (f'trial {winner.candidate.trial}', on_all, in_search,
                  f'{winner.measured:.2f} ms', '34.00 ms', '200 images of val (seed 3)',
                  'A processor of some kind'):
        assert words in full.texts['']


def test_finalists_stand_with_both_latencies_both_metrics_and_their_noise(full):
    summary, text = full.record.summary, full.texts['finalists']
    alike = within_noise(summary.evaluated, max(summary.evaluated, key=lambda c: c.metric))
    assert 1 < len(alike) < 25 and f'{len(alike)} of 25' in full.texts['']
    assert re.search('95%.* 200 images', text)
    assert text.count(' yes ') == sum(f.candidate in alike for f in summary.finalists)
    for finalist in summary.finalists:
        c = finalist.candidate
        for words in (c.config.label, f'{c.latency:.2f} ', f'{finalist.measured:.2f} ',
                      f'{c.metric:.4f}', f'{finalist.full[METRIC]:.4f}'):
            assert words in text


def test_two_objectives_give_a_front_and_its_chosen_points(pareto):
    summary = pareto.record.summary
    assert pareto.record.pareto and f'The front has {len(summary.front)}' in pareto.texts['']
    text = pareto.texts['finalists']
    assert 'Chosen points' in text
    assert all(f'{f.point:.2f} ms' in text and f'{f.measured:.2f} ' in text
               for f in summary.finalists)
    assert 'area under the front' in pareto.texts['progress']


def test_every_evaluated_candidate_is_in_the_table_the_best_first(full):
    labels = sorted((c.config.label for c in full.record.summary.evaluated),
                    key=full.texts['candidates'].index)
    ranked = sorted(full.record.summary.evaluated, key=lambda c: (-c.metric, c.latency))
    assert labels == [c.config.label for c in ranked]


def test_progress_tells_of_states_and_workers(full):
    text = ' '.join(full.texts['progress'].split())
    states = [c.state for c in full.fake.candidates]
    for words, state in (('evaluated', EVALUATED), ('outside the limits, not evaluated', 'outside'),
                         ('screened out at the first look', 'screened')):
        assert f'{words} {states.count(state)} ' in text
    assert 'worker 1' in text and 'left-4711-0a1b2c' in text and '2 workers' in text


def test_figures_take_their_colours_from_the_page_and_all_are_defined(full):
    style, body = full.html.split('</style>', 1)
    assert not any(color in body for color in NAMES)
    used = set(re.findall(r'var\(--(\w+)\)', body))
    light, dark = style.split('prefers-color-scheme: dark')
    assert len(used) > 6 and used <= set(NAMES.values())
    assert all(f'--{name}:' in light and f'--{name}:' in dark for name in NAMES.values())


def candidates(number, depths=SPACE.depths, metric=metric_of):
    rng = np.random.default_rng(0)
    space = type(SPACE)(depths)
    configs = [space.sample(rng) for _ in range(number)]
    return [Candidate(i, c, EVALUATED, metric=metric(c)) for i, c in enumerate(configs)]


def test_importance_follows_the_metric_and_not_the_number_of_pairs():
    shares = importances(candidates(80, depths=(2, 2, 18, 2)))
    assert {name: len(pairs) for name, pairs in shares.items()} == {
        'stage 0': 1, 'stage 1': 1, 'stage 2': 9, 'stage 3': 1}
    stages = [sum(pairs) for pairs in shares.values()]
    assert sum(stages) == pytest.approx(1)
    assert stages[0] > .6 and max(stages[1:]) < .3


def test_importance_of_knobs_stands_beside_that_of_the_stages():
    rng = np.random.default_rng(0)
    names = 'model.test_cfg.rpn.max_per_img', 'model.test_cfg.rcnn.max_per_img'
    points = [operating_point(SPACE.sample(rng), dict(zip(names, rng.choice([10, 20, 40], 2))))
              for _ in range(60)]
    shares = importances([Candidate(i, p, EVALUATED, metric=float(dict(p.knobs)[names[0]]))
                          for i, p in enumerate(points)])
    assert [*shares][-2:] == ['rcnn.max_per_img', 'rpn.max_per_img']
    assert shares['rpn.max_per_img'][0] > .8


def test_importance_of_too_few_or_equal_candidates_is_refused():
    with pytest.raises(ValueError, match='19 evaluated candidates are too few, 20'):
        importances(candidates(19) + [Candidate(99, DENSE, 'failed')])
    with pytest.raises(ValueError, match='same metric'):
        importances(candidates(20, metric=lambda c: .3))


def test_area_under_the_front_counts_what_is_won_and_nothing_beaten():
    assert front_area([(1, 1), (2, 3)], (4, 0)) == 3 * 1 + 2 * 2
    assert front_area([(2, 3), (1, 1), (3, 2), (2, 1)], (4, 0)) == 7
    assert front_area([], (4, 0)) == 0


def test_progress_never_falls():
    points = [(9, .1), (3, .2), (5, .4), (4, .3), (2, .1), (6, .4)]
    met = [Candidate(0, DENSE, EVALUATED, latency=x, metric=y) for x, y in points]
    assert progress(met, pareto=False) == [.1, .2, .4, .4, .4, .4]
    areas = progress(met, pareto=True)
    assert areas == sorted(areas) and areas[0] < areas[2] < areas[-1] == 1
    assert areas[-2] == areas[-1]  # what is beaten adds nothing


def words(section):
    return ' '.join(part.get('text', '') for part in section.parts)


def test_a_table_s_own_check_is_shown_or_what_is_wrong_with_the_table(full, tmp_path, monkeypatch):
    record = replace(full.record, manifest=dict(table=str(full.path)))
    text = words(check_section(record, tmp_path))
    assert 'predicted by the table' in text and 'not a latency table' in text
    monkeypatch.setattr(LatencyTable, 'load', lambda path: SimpleNamespace(check='off by 2%'))
    assert 'own check: off by 2%.' in words(check_section(record, tmp_path))


def test_a_winner_that_can_not_be_drawn_is_a_note(full, tmp_path):
    said = words(windows_section(full.record, 2, tmp_path, 'cpu'))
    assert 'Not drawn: config ' in said and 'no_config.py' in said
    (tmp_path / 'det.py').write_text('model = dict()')
    manifest = dict(full.record.manifest, config=str(tmp_path / 'det.py'))
    said = words(windows_section(replace(full.record, manifest=manifest), 2, tmp_path, 'cpu'))
    assert 'Not drawn: ' in said and 'SparseSwinTransformer' in said
    with pytest.raises(ValueError, match='--images -1'):
        write_report(full.record, images=-1)


def test_a_search_that_can_not_be_read_is_named(tmp_path):
    def refused(error, words):
        with pytest.raises(error, match=re.escape(words)):
            read_search(tmp_path)

    path = tmp_path / 'search.json'
    refused(FileNotFoundError, str(path))
    for text in ('{', '[]', '{"storage": "sqlite:///x"}', '{"storage": null, "study": "s"}'):
        path.write_text(text)
        refused(ValueError, str(path))
    for url in (f'sqlite:///{tmp_path}/gone.db', f'journal:{tmp_path}/gone.db'):
        path.write_text(json.dumps(dict(storage=url, study='s')))
        refused(FileNotFoundError, f'{tmp_path}/gone.db')
    assert list(tmp_path.iterdir()) == [path]  # nothing was made
    FakeSearch(tmp_path, evaluated=1, references=False, finals=False, study='mine')
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(dict(manifest, study='other')))
    refused(ValueError, "no study 'other'; it holds 'mine'")


def test_hours_count_from_the_first_trial_and_trials_are_in_order_of_their_end(full):
    ends = [j.end for j in full.record.judged]
    assert ends == sorted(ends) and len(ends) == len(full.fake.candidates)
    assert SparsityConfig(0, SPACE.depths) == DENSE
