"""Searches under a score of the user's, or under the best."""
import shutil
from dataclasses import replace

import pytest
from helpers import refused
from mmengine.config import Config
from test_search_modes import FEW, optuna_study, search, summary_of
from trained import metrics_of

from sparsevit_mm.evaluation.scores import compare as score_compare
from sparsevit_mm.evaluation.scores.compare import compare_scores
from sparsevit_mm.search import score as score_search

SEARCH = ['--max-latency', '900%', '--trials', 4, '--finalists', 1]
AGAIN = ['--resume', '--overwrite', '--max-latency', '900%', '--finalists', 1]


def importance_of(work_dir):
    return Config.fromfile(work_dir / 'winner.py').model.backbone.get('importance')


def check_winner(work_dir):
    """That test.py gives what the search logged."""
    best = summary_of(work_dir).finalists[0].candidate
    assert metrics_of(work_dir / 'winner.py', '--split', 'val', '--num-samples', 4, '--seed',
                      1) == pytest.approx(best.metrics)

pytestmark = pytest.mark.filterwarnings('ignore:the checkpoint was adapted under')


@pytest.fixture(scope='module')
def named(tiny, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('named')
    outcome = search(tiny, work_dir, *SEARCH, '--importance', 'variation')
    assert outcome.code == 0, outcome.error
    return work_dir


@pytest.mark.slow
def test_the_score_named_is_searched_under_and_in_the_winner(named):
    assert importance_of(named) == 'variation'
    assert "# searched under importance='variation'" in (named / 'winner.py').read_text()
    assert optuna_study(named).user_attrs['importance'] == dict(name='variation')
    check_winner(named)


@pytest.mark.slow
def test_a_study_goes_on_under_its_score_and_no_other(named, tiny, tmp_path):
    work_dir = tmp_path / 'copy'
    shutil.copytree(named, work_dir)
    message = refused('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir', work_dir,
                      *FEW, *AGAIN, '--importance', 'l2')
    assert 'importance: variation in the study, l2 now' in message
    for number, option in enumerate(([], ['--importance', 'auto'])):
        outcome = search(tiny, work_dir, *AGAIN, '--trials', 5 + number, *option)
        assert outcome.code == 0, outcome.error
        assert 'evaluating magnitude' not in outcome.output
        assert importance_of(work_dir) == 'variation'
    check_winner(work_dir)


@pytest.fixture
def compared(monkeypatch):
    """Calls of the comparison, which chooses 'l2'."""
    calls = []

    def compare(*args, **kwargs):
        calls.append(compare_scores(*args, **kwargs))
        return replace(calls[-1], choice='l2', sentence='Use l2.')

    monkeypatch.setattr(score_search, 'compare_scores', compare)
    return calls


def test_auto_compares_once_for_all_of_a_study(tiny, tmp_path, compared):
    outcome = search(tiny, tmp_path, *SEARCH, '--importance', 'auto')
    assert outcome.code == 0, outcome.error
    (comparison, ) = compared
    assert comparison.num_images == 4
    assert [row.name for row in comparison.rows] == ['dense', 'magnitude', 'l2', 'random',
                                                     'variation', 'distinct']
    output = outcome.output
    assert output.index('evaluating dense') < output.index('scores on 4 images of val') < (
        output.index('Use l2.')) < output.index('vs dense')
    assert importance_of(tmp_path) == 'l2'
    check_winner(tmp_path)
    outcome = search(tiny, tmp_path, *AGAIN, '--trials', 5, '--importance', 'auto')
    assert outcome.code == 0, outcome.error
    assert len(compared) == 1 and 'Use l2.' in outcome.output
    assert importance_of(tmp_path) == 'l2'


@pytest.mark.slow
def test_auto_takes_at_most_100_images_of_a_search_on_all(tiny, tmp_path, compared, monkeypatch):
    monkeypatch.setattr(score_compare, 'SAMPLES', 3)
    few = [part for part in FEW if part not in ('--num-samples', 4)]
    monkeypatch.setattr('test_search_modes.FEW', few)
    assert search(tiny, tmp_path, *SEARCH, '--importance', 'auto').code == 0
    assert compared[0].num_images == 3
    assert len(list(tmp_path.glob('instances_train2017_3_images_seed1.json'))) == 1


def test_a_score_that_there_is_none_of_is_refused_at_once(tiny, tmp_path):
    command = ['search_sparsity', tiny.config, tiny.checkpoint, '--work-dir', tmp_path, *FEW,
               *SEARCH]
    assert "--importance 'loudness' is not one of auto, magnitude" in refused(
        *command, '--importance', 'loudness')
    message = refused(*command, '--importance', 'learned')
    assert str(tiny.checkpoint) in message and 'tools/fit_importance.py' in message
    assert not list(tmp_path.glob('winner*'))


@pytest.mark.slow
def test_without_the_option_the_config_s_own_is_searched_under(tiny, tmp_path):
    assert search(tiny, tmp_path, *SEARCH, model__backbone__importance='distinct').code == 0
    assert optuna_study(tmp_path).user_attrs['importance'] == dict(name='distinct')
    assert "# searched under importance='distinct'" in (tmp_path / 'winner.py').read_text()
    assert importance_of(tmp_path) == 'distinct'
    check_winner(tmp_path)
