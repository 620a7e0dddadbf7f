"""The record that a search keeps in its study."""
import math

import optuna
import pytest
from landscape import Landscape

from sparsevit_mm.evaluation.metrics import objective
from sparsevit_mm.search.candidates import Candidate, finite
from sparsevit_mm.search.record import SCHEMA, Full, StudyRecord


@pytest.fixture
def search():
    search = Landscape().search(depths=[2, 2])
    search.run(8)
    return search


@pytest.mark.parametrize('schema', [None, 1, SCHEMA + 1])
def test_a_study_of_another_schema_is_refused_in_one_line(search, schema):
    attrs = {**search.study.user_attrs, 'schema': schema}
    other = optuna.create_study()
    for key, value in attrs.items():
        if value is not None:
            other.set_user_attr(key, value)
    with pytest.raises(ValueError) as refused:
        StudyRecord(other)
    message = str(refused.value)
    assert f'schema {schema or 1}' in message and str(SCHEMA) in message and '\n' not in message


def test_a_study_of_another_program_is_refused():
    study = optuna.create_study()
    study.set_user_attr('owner', 'someone')
    with pytest.raises(ValueError, match="has no 'identity'"):
        StudyRecord(study).summary()


def test_what_is_read_is_what_was_written(search):
    record = StudyRecord(search.study)
    trials = list(record.trials())
    assert len(trials) == len(search.candidates)
    record.reject([trials[0].number])
    assert record.rejected == [trials[0].number]
    full = Full({'AP': .5, 'none': None}, [.4, .6])
    figures = [record.again(3, 'full', scope,
                            lambda: Full({'AP': .5, 'none': float('nan')}, [.4, .6]))
               for scope in (None, 'group')]
    assert figures == [full] * 2
    assert record.again(3, 'full', 'group', lambda: 1 / 0) == full
    assert record.again(3, 'ratio', None, lambda: .5) == .5


def test_a_record_of_a_later_version_with_further_fields_is_read(search):
    candidate = next(iter(search.candidates))
    record = {**candidate.to_json(), 'invented later': 1}
    assert Candidate.from_json(candidate.trial, record, (2, 2)) == candidate


def test_a_metric_that_is_nan_stays_so():
    metrics = finite({'AP': float('nan'), 'AP50': .5})
    assert metrics == {'AP': None, 'AP50': .5}
    assert math.isnan(objective(metrics, 'AP')) and objective(metrics, 'other') == 0.
