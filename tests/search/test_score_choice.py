import numpy as np
import pytest
from helpers import drawn

from sparsevit_mm.evaluation.scores.choice import Judged, choose, say

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(0, 3, 200)  # what is hard or easy about a resample


def judged(noise=.2, **values):
    return [Judged(name, value, drawn(IMAGES + RNG.normal(0, noise, 200), value))
            for name, value in values.items()]


@pytest.mark.parametrize('values, own, adapted_to, chosen', [
    (dict(magnitude=30, variation=32, random=29), 'magnitude', None, 'variation'),
    (dict(magnitude=30, variation=32, random=29), 'magnitude', 'magnitude', 'variation'),
    (dict(magnitude=32, variation=30, random=29), 'magnitude', None, 'magnitude'),
    # Of what is alike: the score of the adaptation, then the config's own.
    (dict(magnitude=31.9, variation=32, random=29), 'magnitude', None, 'magnitude'),
    (dict(magnitude=31.9, variation=32, l2=31.9, random=29), 'magnitude', 'l2', 'l2'),
    (dict(magnitude=31.9, variation=32, l2=30, random=29), 'magnitude', 'l2', 'magnitude'),
    # A score that was not judged favours nothing.
    (dict(magnitude=30, variation=32, random=29), 'magnitude', 'learned', 'variation'),
    # The random score is no choice by its metric, but may be the config's.
    (dict(magnitude=30, variation=30.1, random=32), 'magnitude', None, 'magnitude'),
    (dict(magnitude=30, variation=30.1, random=32), 'random', None, 'random'),
    # Worse than the best and the best not above random: the images tell the two apart.
    (dict(magnitude=25, variation=30, random=29.9), 'magnitude', 'magnitude', 'variation')])
def test_the_best_unless_chance_alone_parts_it_from_what_is_in_use(
        values, own, adapted_to, chosen):
    assert choose(judged(**values), own, adapted_to).name == chosen


def sentence(own='magnitude', adapted_to=None, **values):
    return say(choose(judged(**values), own, adapted_to), ['50%', '70%'], 'mIoU', 100)


def test_the_sentence_names_the_score_and_what_it_is_above():
    text = sentence(magnitude=30, variation=32, random=29)
    assert text.startswith("Use importance='variation': at 50% and 70% it has the highest mIoU of "
                           "the scores, 2.0 (")
    assert "above 'magnitude', the config's;" in text
    assert 'though' not in text and 'adapting the model under another score' in text
    text = sentence(magnitude=32, variation=30, random=29, adapted_to='magnitude')
    assert text.startswith("Keep 'magnitude', which the model was adapted with: at 50%")
    assert ') above random;' in text
    text = sentence(magnitude=25, variation=30, random=29.9)
    assert "above 'magnitude', the config's, though not above random by more than chance" in text


def test_the_sentence_says_what_was_preferred_to_the_best():
    text = sentence(magnitude=31.9, variation=32, l2=31.9, random=29, adapted_to='l2')
    assert text.startswith("Use importance='l2', which the model was adapted with: at 50% and "
                           "70% 'variation' has the highest mIoU, but")


@pytest.mark.parametrize('adapted_to, kept', [
    (None, "keep 'magnitude', the config's,"),
    ('magnitude', "keep 'magnitude', which the model was adapted with,"),
    ('variation', "use importance='variation', which the model was adapted with,")])
def test_where_no_score_beats_random_nothing_changes(adapted_to, kept):
    text = sentence(magnitude=30, variation=30.02, random=29.99, adapted_to=adapted_to)
    assert text == (f'No score beats random on these 100 images by more than chance: {kept} or '
                    f'look at more images.')
