"""Workers of one search, killed at random moments, on each kind of storage."""
import runpy

import pytest
from helpers import ROOT

pytest_plugins = ['postgres']
storm = runpy.run_path(str(ROOT / 'benchmarks' / 'kill_storm.py'))['storm']


def check(outcome, kills):
    assert outcome.kills >= kills and outcome.evaluated >= 20
    assert outcome.lost == outcome.doubled == outcome.crashed == 0
    return outcome


@pytest.mark.slow
def test_a_storm_over_sqlite_loses_nothing(tmp_path):
    check(storm(f'sqlite:///{tmp_path}/a.db', tmp_path, workers=2, seconds=4, evaluation=.05), 4)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['sqlite', 'journal'])
def test_a_longer_storm_loses_nothing(tmp_path, kind):
    url = {'sqlite': f'sqlite:///{tmp_path}/a.db', 'journal': f'journal:{tmp_path}/a.log'}[kind]
    outcome = check(storm(url, tmp_path, workers=4, seconds=40), 30)
    assert outcome.repeated > 0  # or the kills never met an evaluation


@pytest.mark.slow
def test_a_storm_over_postgresql_loses_nothing(tmp_path, postgres):
    check(storm(postgres.new_database(), tmp_path, workers=4, seconds=40), 30)
