"""What the samplers propose to a study."""
import itertools
import warnings

import numpy as np
import optuna
import pytest
from landscape import macs_of, metric_of
from optuna.trial import TrialState

from sparsevit_mm.search.propose.genes import Genes
from sparsevit_mm.search.propose.sampler import (PARENTS, POPULATION, SAMPLERS, STARTUP,
                                                 from_params, make_sampler, search_space, to_params)
from sparsevit_mm.sparsity import SparsityConfig, SparsitySpace

SPACE = SparsitySpace((2, 2, 6, 2))
SMALL = SparsitySpace((2, 2))
BOTH = ('maximize', 'minimize')


class Study:
    """A study of one sampler, and the rules of a search: known configurations are not evaluated
    again, those above `limit` (MACs) are PRUNED."""

    def __init__(self, name, space=SPACE, directions=('maximize', ), limit=np.inf, seed=0,
                 metric=metric_of):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.limit, self.metric, self.memo = space, limit, metric, set()
        self.study = optuna.create_study(directions=directions)
        self.join(name, seed)

    def join(self, name, seed):
        """A worker that has nothing but the study and what it knows of the configurations."""
        genes = Genes(self.space, macs_of, np.random.default_rng(seed))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
            self.study.sampler = make_sampler(name, genes, self.memo.__contains__, 8, seed)

    def ask(self):
        trial = self.study.ask(search_space(self.space))
        return trial, self.space.decode(from_params(trial.params))

    def tell(self, trial, config):
        if config in self.memo or macs_of(config) > self.limit:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            values = [self.metric(config), macs_of(config)][:len(self.study.directions)]
            self.study.tell(trial, values)
        self.memo.add(config)

    def run(self, trials):
        configs = []
        for _ in range(trials):
            trial, config = self.ask()
            self.tell(trial, config)
            configs.append(config)
        return configs

    @property
    def evaluated(self):
        return self.study.get_trials(states=(TrialState.COMPLETE, ))


def genes_of(configs):
    return np.array([SPACE.encode(c) for c in configs])


def test_an_unknown_sampler_is_named_with_those_there_are():
    with pytest.raises(ValueError, match='cmaes.*nsga2, tpe, random, published'):
        Study('cmaes')


@pytest.mark.parametrize('name', SAMPLERS)
def test_what_optuna_stores_is_canonical_and_new(name):
    study = Study(name)
    configs = study.run(40)
    assert len(set(configs)) == 40
    for trial, config in zip(study.study.trials, configs):
        assert tuple(from_params(trial.params)) == SPACE.encode(config)


@pytest.mark.parametrize('name', SAMPLERS)
def test_the_last_unknown_configurations_of_a_space_are_found(name):
    study = Study(name, SparsitySpace((2, 1), (0., .4, .8)))
    study.run(40)
    assert len(study.memo) == 9


@pytest.mark.parametrize('name', SAMPLERS)
def test_the_same_seed_draws_the_same(name):
    assert Study(name, seed=3).run(25) == Study(name, seed=3).run(25)
    assert Study(name, seed=3).run(5) != Study(name, seed=4).run(5)


@pytest.mark.parametrize('name', SAMPLERS)
def test_queued_configurations_take_no_draw(name):
    """So that they come out the same whether the queue was filled before or not."""
    queued, plain = Study(name), Study(name)
    queued.study.enqueue_trial(to_params(SPACE, SparsityConfig(.8, SPACE.depths)))
    assert queued.run(4)[1:] == plain.run(3)


@pytest.mark.parametrize('name', ('nsga2', 'tpe', 'random'))
def test_two_objectives_are_searched(name):
    study = Study(name, directions=BOTH)
    study.run(30)
    assert len(study.evaluated) == 30


def test_the_published_search_refuses_two_objectives():
    with pytest.raises(ValueError, match='one objective.*nsga2, tpe or random'):
        Study('published', directions=BOTH).run(1)


def test_evolution_finds_the_best_below_a_limit_with_few_evaluations():
    """81 configurations; independent draws meet the best after 40 at the median."""
    limit = .55e9
    every = [SMALL.decode(g) for g in itertools.product(range(9), repeat=2)]
    best = max(metric_of(c) for c in every if macs_of(c) <= limit)
    needed = []
    for seed in range(5):
        study = Study('nsga2', SMALL, limit=limit, seed=seed)
        while not study.evaluated or study.study.best_value < best - 1e-9:
            study.run(1)
        needed.append(len(study.evaluated))
    assert max(needed) <= STARTUP + 8


def test_evolution_stays_inside_the_limit_once_it_has_seen_it():
    study = Study('nsga2', limit=.5e9)
    study.run(60)
    later = study.study.trials[40:]
    assert np.mean([t.state == TrialState.COMPLETE for t in later]) > .5
    cost = [macs_of(SPACE.decode(from_params(t.params))) for t in later]
    assert np.mean(cost) > .42e9  # where the best ones are


def test_evolution_goes_along_the_front_of_two_objectives():
    """Metric against MACs: the front is long, and both ends are worked at."""
    study, blind = Study('nsga2', directions=BOTH), Study('random', directions=BOTH)
    volumes = []
    for s in (study, blind):
        s.run(60)
        volumes.append(dominated(s.evaluated))
    assert volumes[0] > volumes[1] + .02
    costs = [t.values[1] for t in study.study.best_trials]
    assert min(costs) < .35e9 and max(costs) > .85e9


def dominated(trials):
    """The area below the front: MACs in 1e9, metric from 0 to 1."""
    area, last = 0., 1.
    for metric, macs in sorted((t.values for t in trials), reverse=True):
        area, last = area + metric * max(0, last - macs / 1e9), min(last, macs / 1e9)
    return area


def test_noise_does_not_mislead_evolution():
    """Noise as large as the differences among good configurations."""
    rng = np.random.default_rng(0)
    study = Study('nsga2', limit=.6e9, metric=lambda c: metric_of(c) + rng.normal(0, .02))
    study.run(70)
    late = [metric_of(SPACE.decode(from_params(t.params))) for t in study.evaluated[30:]]
    blind = Study('random', limit=.6e9)
    blind.run(200)
    assert np.median(late) > np.quantile([t.value for t in blind.evaluated], .95)


def test_trials_of_others_are_learnt_from():
    """A worker that joins goes on from what is evaluated; one trial was added by hand."""
    first = Study('nsga2', limit=.6e9)
    first.run(40)
    first.join('nsga2', 9)
    proposed = [first.ask()[1] for _ in range(5)]
    good = np.quantile([t.value for t in first.evaluated], .5)
    assert np.median([metric_of(c) for c in proposed]) > good
    assert len(set(proposed) | first.memo) == len(first.memo) + len(set(proposed))


def test_published_first_generation_is_drawn_gene_by_gene():
    study = Study('published')
    genes = genes_of(study.run(POPULATION))
    assert np.abs(genes[:, [0, 1, 5]].mean(0) - 4).max() < 1
    assert (np.diff(genes[:, 2:5]) >= 0).all()


def test_published_children_come_from_the_best_of_all_whole_generations():
    study = Study('published')
    study.run(POPULATION + 30)
    ranked = sorted(study.evaluated[:POPULATION], key=lambda t: -t.value)
    parents = np.array([from_params(t.params) for t in ranked[:PARENTS]])

    def alike(genes):
        """Genes shared with the nearest parent, of 6."""
        return (genes[:, None] == parents).sum(-1).max(1).mean()

    children = np.array([from_params(t.params) for t in study.evaluated[POPULATION:]])
    assert alike(children) > 4
    assert alike(genes_of(SPACE.sample(np.random.default_rng(i)) for i in range(200))) < 3.5


def test_half_of_the_published_children_are_mutated_and_half_crossed():
    """Parents are all 0 or all 8. Of mutations, 1 - (1 - .1 * 7 / 9)**6 hold another gene; of
    crossovers of both kinds, 50 / 64 hold two or more of either."""
    study = Study('published', SparsitySpace((2, ) * 6))
    for i in range(POPULATION):
        gene = dict.fromkeys(search_space(study.space), 8 * (i % 2))
        study.study.add_trial(optuna.trial.create_trial(
            value=i, params=gene, distributions=search_space(study.space)))
    children = np.array([from_params(study.ask()[0].params) for _ in range(600)])
    mutated = ((children > 0) & (children < 8)).any(1)
    eights = (children == 8).sum(1)
    assert mutated.mean() == pytest.approx(.5 * .385, abs=.05)
    assert np.mean(~mutated & (eights > 1) & (eights < 5)) == pytest.approx(.5 * .5 * .78, abs=.05)
