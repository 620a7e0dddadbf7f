import numpy as np
import pytest
from landscape import Landscape, metric_of

from sparsevit_mm.search.candidates import EVALUATED, SCREENED, Candidate
from sparsevit_mm.search.propose.screening import AGREEMENT, PAIRS, SHARE, FirstLook, agreement


def candidates(looks, metrics):
    return [Candidate(i, None, EVALUATED, first_look=look, metric=metric)
            for i, (look, metric) in enumerate(zip(looks, metrics))]


def test_agreement_is_the_rank_correlation_of_those_that_have_both():
    looks, metrics = [1, 2, 3, 4, 5, 6, 7, 8, 10, 9], [.1, .2, .3, .4, .5, .6, .7, .8, .9, .99]
    known = candidates(looks, metrics)
    assert agreement(known) == pytest.approx(1 - 6 * 2 / (10 * 99))
    screened = candidates([99.] * 5, [None] * 5)
    assert agreement(known + screened) == agreement(known)
    assert agreement(known[:PAIRS - 1]) is None
    assert agreement(candidates([1] * 20, range(20))) is None


def test_the_better_third_goes_on_and_some_by_chance():
    known = candidates(range(60), range(60))
    look = FirstLook(np.random.default_rng(0), lambda message: pytest.fail(message))
    assert all(look.promising(value, known) for value in (54, 59, 99))  # of 40 to 59
    passed = sum(look.promising(51, known) for _ in range(300))
    assert 15 < passed < 50


def test_all_go_on_before_the_agreement_is_known_and_where_there_is_none():
    warned = []
    look = FirstLook(np.random.default_rng(0), warned.append)
    assert all(look.promising(-1, candidates(range(n), range(n))) for n in range(PAIRS))
    assert not warned
    contrary = candidates(range(30), range(30, 0, -1))
    assert all(look.promising(-1, contrary) for _ in range(50))
    assert len(warned) == 1 and '-1.00' in warned[0] and str(AGREEMENT) in warned[0]


def test_a_good_first_look_saves_evaluations_and_keeps_the_best():
    landscape = Landscape((2, 2, 2))
    search = landscape.search(problem=dict(look=lambda c: {'score': metric_of(c) * 2}))
    search.run(30)
    screened = [c for c in search.candidates if c.state == SCREENED]
    assert len(screened) > 15 and all(c.metric is None for c in screened)
    assert search.best.metric >= max(metric_of(c.config) for c in screened)
    looked = [c for c in search.candidates if c.first_look is not None]
    evaluated = sum(c.state == EVALUATED for c in looked)
    assert evaluated == 30 and evaluated < (SHARE + .25) * len(looked)


def test_a_first_look_that_says_nothing_turns_no_one_away():
    rng = np.random.default_rng(1)
    search = Landscape((2, 2, 2)).search(problem=dict(look=lambda c: {'score': rng.random()}))
    search.run(40)
    assert sum(c.state == SCREENED for c in search.candidates) < 8
