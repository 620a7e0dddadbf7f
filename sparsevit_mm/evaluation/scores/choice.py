"""Choice among several scores whose metrics are subject to sampling error."""
from typing import NamedTuple, Optional, Sequence

from ..intervals import Interval, Resampled, difference

RANDOM = 'random'


class Judged(NamedTuple):
    """Metric under a score.

    Attributes:
        name: Name of the score.
        value: Mean of the metric over the sparsities.
        resampled: The same mean on resamples of the images, which all scores share.
    """
    name: str
    value: float
    resampled: Resampled


class Choice(NamedTuple):
    """Result of :func:`choose`.

    Attributes:
        name: Score to use.
        best: Score with the highest metric, except the random one.
        own: Score of the config.
        adapted_to: Score that the model was adapted with; None if there is none.
        over_random: Difference in metric between the best and the random score.
        over_own: Difference between the best score and the config's; 0 if they are the same.
        over_choice: Difference between the best score and the one to use; 0 if they are the same.
    """
    name: str
    best: str
    own: str
    adapted_to: Optional[str]
    over_random: Interval
    over_own: Interval
    over_choice: Interval


def choose(judged: Sequence[Judged], own: str, adapted_to: Optional[str]) -> Choice:
    """Choose the score to use.

    It is the score that the model was adapted with, else the config's, if it is not significantly
    worse than the best score; otherwise the best score.

    Args:
        judged: Metrics of the scores, including the random score and at least one other.
        own: Score of the config, which must be in `judged`.
        adapted_to: Score that the model was adapted with. Ignored if it is not in `judged`.
    """
    by_name = {score.name: score for score in judged}
    favoured = [name for name in (adapted_to, own) if name in by_name]
    others = sorted((score for score in judged if score.name != RANDOM),
                    key=lambda score: score.name not in favoured)  # these win ties
    best = max(others, key=lambda score: score.value)

    def above(name: str) -> Interval:
        return difference(best.resampled, by_name[name].resampled)

    name = next((name for name in favoured if not beats(above(name))), best.name)
    return Choice(name, best.name, own, adapted_to, above(RANDOM), above(own), above(name))


def beats(over: Interval) -> bool:
    """Whether a difference is significantly above 0."""
    return over.above_zero


def say(choice: Choice, labels: Sequence[str], figure: str, num_images: int) -> str:
    """Describe the choice and its reason in one sentence.

    Args:
        choice: See :func:`choose`.
        labels: Labels of the sparsities.
        figure: Name of the metric.
        num_images: Number of evaluated images.
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
    """Format an interval: '1.2 (0.4 to 2.0)', with one or two more digits if all values are below
    1."""
    largest = max(abs(value) for value in (over.estimate, over.low or 0., over.high or 0.))
    return over.text('.1f' if largest >= 1 else '.2f' if largest >= .2 else '.3f')


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
