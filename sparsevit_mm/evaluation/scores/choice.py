"""Which of several scores to use, of figures that differ by chance too."""
from typing import NamedTuple, Optional, Sequence

from ..intervals import Interval, Resampled, difference

RANDOM = 'random'


class Judged(NamedTuple):
    """Attributes:
        name: Of the score.
        value: Mean of the metric over the sparsities.
        resampled: Likewise on resamples of the images, the same for all scores.
    """
    name: str
    value: float
    resampled: Resampled


class Choice(NamedTuple):
    """Attributes:
        name: Of the score to use.
        best: Of the score of the highest metric, the random one left out.
        own, adapted_to: The config's, and the one that the model was adapted with, if any.
        over_random: What the best is above the random score.
        over_own: What it is above the config's; all 0 if it is that.
        over_choice: What it is above the one to use; likewise.
    """
    name: str
    best: str
    own: str
    adapted_to: Optional[str]
    over_random: Interval
    over_own: Interval
    over_choice: Interval


def choose(judged: Sequence[Judged], own: str, adapted_to: Optional[str]) -> Choice:
    """The score that the model was adapted with, else the config's own, where the images do not
    tell it from the best; else the best.

    Args:
        judged: The random score and at least one other.
        own: The config's score, one of them.
        adapted_to: The score that the model was adapted with; of no effect if it is none of them.
    """
    by_name = {score.name: score for score in judged}
    favoured = [name for name in (adapted_to, own) if name in by_name]
    others = sorted((score for score in judged if score.name != RANDOM),
                    key=lambda score: score.name not in favoured)  # of equals one of these
    best = max(others, key=lambda score: score.value)

    def above(name: str) -> Interval:
        return difference(best.resampled, by_name[name].resampled)

    name = next((name for name in favoured if not beats(above(name))), best.name)
    return Choice(name, best.name, own, adapted_to, above(RANDOM), above(own), above(name))


def beats(over: Interval) -> bool:
    """Whether a difference is above 0 by more than chance."""
    return over.above_zero


def say(choice: Choice, labels: Sequence[str], figure: str, num_images: int) -> str:
    """The choice and its reason, as one sentence.

    Args:
        choice: See :func:`choose`.
        labels: Of the sparsities.
        figure: Name of the metric.
        num_images: How many it was taken on.
    """
    name, own = choice.name, choice.own
    what = f'keep {name!r}' if name == own else f'use importance={name!r}'
    whose = ('which the model was adapted with' if name == choice.adapted_to else
             'the config\'s' if name == own else '')
    what = f'{what}, {whose}' if whose else what
    if not beats(choice.over_random) and (
            name != choice.best or name in (own, choice.adapted_to)):
        return (f'No score beats random on these {num_images} images by more than chance: {what}, '
                f'or look at more images.')
    where = f'at {" and ".join(labels)}'
    end = '; adapting the model under another score would move this.'
    if name != choice.best:
        return (f'{_capital(what)}: {where} {choice.best!r} has the highest {figure}, but is above '
                f'it by {_shown(choice.over_choice)} only, which may be chance{end}')
    if name == own:
        over, than = choice.over_random, 'random'
    else:
        over, than = choice.over_own, f'{own!r}, the config\'s'
    doubt = '' if beats(choice.over_random) else ', though not above random by more than chance'
    return (f'{_capital(what)}: {where} it has the highest {figure} of the scores, '
            f'{_shown(over)} above {than}{doubt}{end}')


def _shown(over: Interval) -> str:
    """'1.2 (0.4 to 2.0)', with a digit or two more of figures below 1."""
    largest = max(abs(value) for value in (over.estimate, over.low or 0., over.high or 0.))
    return over.text('.1f' if largest >= 1 else '.2f' if largest >= .2 else '.3f')


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
