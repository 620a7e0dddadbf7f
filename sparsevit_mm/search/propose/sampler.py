"""Optuna samplers that propose configurations: the default evolution and alternatives.

All of them are stateless, so that several workers can share a study and resume it. The evaluated
candidates are the COMPLETE trials of the study.
"""
from typing import Callable, Dict, Iterable, List, Sequence, Tuple

import numpy as np
from optuna.distributions import IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ...sparsity import SparsityConfig, SparsitySpace
from ..candidates import OUTSIDE, SCREENED
from ..record import figures_of
from .genes import MUTATION, Genes
from .surrogate import QuadraticModel, fit_inside

SAMPLERS = ('nsga2', 'tpe', 'random', 'published')
TRIES = 20  # attempts to propose an unseen configuration
STARTUP = 10  # evaluations before the surrogate models are used
CHILDREN, STRANGERS = 48, 16  # per proposal: children of parents, and independent draws
POPULATION, PARENTS = 100, 25  # as published


def make_sampler(name: str, genes: Genes, known: Callable[[SparsityConfig], bool],
                 population_size: int, seed: int) -> BaseSampler:
    """Create a sampler for studies over :func:`search_space`.

    Args:
        name: One of :data:`SAMPLERS`.
        genes: Genetic operators and random number generator.
        known: Function that tells whether any worker has seen a configuration. The sampler avoids
            such configurations.
        population_size: Population size of 'nsga2'.
        seed: Seed of Optuna's own random draws.

    Raises:
        ValueError: If the name is unknown.
    """
    if name == 'nsga2':
        return NestedSampler(genes, known, population_size=population_size, seed=seed)
    if name == 'tpe':
        return NestedTPESampler(genes, known, multivariate=True, constant_liar=True, seed=seed)
    if name == 'random':
        return IndependentSampler(genes, known, seed=seed)
    if name == 'published':
        return PublishedSampler(genes, known, seed=seed)
    raise ValueError(f'sampler {name!r} is not one of {", ".join(SAMPLERS)}')


class ConfigSampler(BaseSampler):
    """Base class of samplers that propose whole configurations and avoid known ones.

    Args:
        genes, known: See :func:`make_sampler`.
        settings: Arguments of the Optuna sampler that a subclass also inherits from.
    """

    def __init__(self, genes: Genes, known: Callable[[SparsityConfig], bool], **settings):
        super().__init__(**settings)
        self.genes, self.known, self.space = genes, known, genes.space

    def infer_relative_search_space(self, study, trial) -> Dict[str, IntDistribution]:
        return search_space(self.space)

    def sample_relative(self, study, trial, search_space) -> Dict[str, int]:
        config = self.propose(study, trial)
        for _ in range(TRIES):
            if not self.known(config):
                break
            config = self.vary(study, trial, config)
        return to_params(self.space, config)

    def propose(self, study, trial) -> SparsityConfig:
        raise NotImplementedError

    def vary(self, study, trial, config: SparsityConfig) -> SparsityConfig:
        """Propose a replacement for a known configuration."""
        return self.propose(study, trial)


class NestedSampler(ConfigSampler, NSGAIISampler):
    """Steady-state NSGA-II with the operators of :class:`~.genes.Genes` and surrogate models.

    All evaluated trials form the population, so that parents are always the best so far. Of many
    children, the one with the best predicted score is proposed.

    The score is an upper confidence bound from all evaluated and screened trials
    (:class:`~.surrogate.QuadraticModel`). Children that are probably outside the limits, judging
    by the trials that were (PRUNED), are avoided. With two objectives, the score is their
    Chebyshev scalarisation with weights drawn anew for each proposal, which spreads the proposals
    along the front.
    """

    def propose(self, study, trial) -> SparsityConfig:
        evaluated = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, ))
        if len(evaluated) < STARTUP:
            return self.genes.draw()
        children = [c for c in self._children(study) if not self.known(c)]
        if not children:
            return self.genes.draw()
        pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED, ))
        genes, values = _observations(evaluated, pruned)
        seen, new = map(self._features, (genes, map(self.space.encode, children)))
        score = _chebyshev(study.directions, seen, values, new, self.genes.rng)
        slow = self._too_slow(pruned, seen.mean())
        if len(slow):
            inside = fit_inside(seen, slow)(new) > .5
            score[~inside] -= np.inf if inside.any() else 0
        return children[int(score.argmax())]

    def vary(self, study, trial, config: SparsityConfig) -> SparsityConfig:
        return self.genes.draw()

    def _children(self, study) -> List[SparsityConfig]:
        genes, rng = self.genes, self.genes.rng
        parents = [self.space.decode(g) for g in _genes(self.select_parent(study, 1))]
        pairs = rng.integers(len(parents), size=(CHILDREN, 2))
        bred = [genes.mutate(genes.cross(parents[a], parents[b])) for a, b in pairs]
        return list(dict.fromkeys(bred + [genes.spread() for _ in range(STRANGERS)]))

    def _too_slow(self, pruned: Sequence[FrozenTrial], sparsity: float) -> np.ndarray:
        """Return the features of trials above the limits.

        Trials outside the limits with a mean of at least `sparsity` are left out: they probably
        violate the lower limit.
        """
        slow = self._features(_genes(
            t for t in pruned if figures_of(t).get('state', OUTSIDE) == OUTSIDE))
        return slow[slow.mean(1) < sparsity] if len(slow) else slow

    def _features(self, genes: Iterable[Sequence[int]]) -> np.ndarray:
        """Scale genes to [0, 1], as an array (N, D)."""
        highest = np.array(self.space.gene_sizes) - 1
        return np.array(list(genes)).reshape(-1, len(highest)) / np.maximum(1, highest)

    # NSGAIISampler selects parents from the last generation and its parent population
    def get_population(self, study, generation) -> List[FrozenTrial]:
        return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, ))

    def get_parent_population(self, study, generation) -> List[FrozenTrial]:
        return []


def _observations(evaluated: Sequence[FrozenTrial],
                  pruned: Sequence[FrozenTrial]) -> Tuple[List[List[int]], np.ndarray]:
    """Return the genes and objectives (N, num_objectives) to fit the surrogate model to.

    Besides evaluated trials these include screened ones. A linear fit of metric to first look over
    the evaluated trials estimates their metric.
    """
    trials, values = list(evaluated), [t.values for t in evaluated]
    looked = [(figures_of(t)['first_look'], t.values[0]) for t in evaluated
              if figures_of(t).get('first_look') is not None]
    if len({look for look, _ in looked}) >= STARTUP:
        slope, offset = np.polyfit(*zip(*looked), 1)
        for trial in pruned:
            figures = figures_of(trial)
            if figures.get('state') == SCREENED:
                metric = offset + slope * figures['first_look']
                values.append([metric, figures['latency']][:len(values[0])])
                trials.append(trial)
    return _genes(trials), np.array(values)


def _chebyshev(directions, seen: np.ndarray, values: np.ndarray, new: np.ndarray,
               rng: np.random.Generator) -> np.ndarray:
    """Return the score of each child, shape (M,), higher is better.

    Args:
        directions: Directions of the objectives.
        seen: (N, D) features of the trials to learn from.
        values: (N, num_objectives) objectives of these trials.
        new: (M, D) features of the children.
        rng: Random number generator.
    """
    signs = [1 if d == StudyDirection.MAXIMIZE else -1 for d in directions]
    values = values * signs
    reach = np.stack([QuadraticModel(seen, v).optimistic(new) for v in values.T], 1)
    weights = rng.dirichlet(np.ones(len(signs)))
    return np.min(weights * (reach - values.max(0)) / (np.ptp(values, 0) + 1e-9), 1)


class NestedTPESampler(ConfigSampler, TPESampler):
    """Optuna's TPE with genes sorted within each stage.

    Known configurations are mutated. Until TPE has enough trials, configurations are drawn evenly
    in cost.
    """

    def propose(self, study, trial) -> SparsityConfig:
        params = TPESampler.sample_relative(self, study, trial, search_space(self.space))
        return self.space.decode(from_params(params)) if params else self.genes.draw()

    def vary(self, study, trial, config: SparsityConfig) -> SparsityConfig:
        return self.genes.mutate(config)


class IndependentSampler(ConfigSampler, RandomSampler):
    """Independent draws, sorted within the stages."""

    def propose(self, study, trial) -> SparsityConfig:
        return self.space.sample(self.genes.rng)


class PublishedSampler(ConfigSampler, RandomSampler):
    """Published evolutionary search (SparseViT, section 3.3).

    The first population is drawn at random. Then the best 25 of all previous generations are the
    parents of the next 100 configurations: half are mutated parents, half uniform crossovers of
    two.

    Raises:
        ValueError: On the first trial, if the study has two objectives.
    """

    def before_trial(self, study, trial) -> None:
        if len(study.directions) > 1:
            raise ValueError('the published sampler supports only one objective, but this study '
                             f'has {len(study.directions)}: use nsga2, tpe or random')

    def propose(self, study, trial) -> SparsityConfig:
        rng = self.genes.rng
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, ))
        # Only complete generations; several workers may finish trials out of order
        parents = sorted(trials[:len(trials) // POPULATION * POPULATION],
                         key=lambda t: -t.value)[:PARENTS]
        if not parents:
            return self.space.sample(rng)
        a, b = np.array(_genes(parents[i] for i in rng.integers(len(parents), size=2)))
        if rng.random() < .5:
            child = np.where(rng.random(len(a)) < .5, a, b)
        else:
            child = np.where(rng.random(len(a)) < MUTATION, rng.integers(self.space.gene_sizes), a)
        return self.space.decode(child.tolist())


def search_space(space: SparsitySpace) -> Dict[str, IntDistribution]:
    """Return one Optuna parameter per gene."""
    return {f'gene{i}': IntDistribution(0, size - 1) for i, size in enumerate(space.gene_sizes)}


def to_params(space: SparsitySpace, config: SparsityConfig) -> Dict[str, int]:
    """Convert a configuration to Optuna parameters.

    Raises:
        ValueError: If it is not in the space.
    """
    return {f'gene{i}': gene for i, gene in enumerate(space.encode(config))}


def from_params(params: Dict[str, int]) -> List[int]:
    """Return the genes of Optuna parameters."""
    return [params[f'gene{i}'] for i in range(len(params))]


def _genes(trials: Iterable[FrozenTrial]) -> List[List[int]]:
    return [from_params(trial.params) for trial in trials]
