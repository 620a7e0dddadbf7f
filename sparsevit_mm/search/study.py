"""Evolutionary search for the best ratios under a latency limit (SparseViT, section 3.3), on
Optuna's NSGA-II. What was evaluated is in the storage, and survives any kill."""
import math
import os
import socket
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from ..sparsity import SparsityConfig, SparsitySpace
from .candidates import DUPLICATE, EVALUATED, FAILED, OUTSIDE, REJECTED, Candidate
from .limits import Limits
from .sampler import NestedGenes, NestedSampler, from_params, search_space, to_params

STUDY_NAME = 'sparsevit'
# After so many trials in a row that led to no evaluation, NSGA-II's population has converged or
# the band is narrow: the next configuration is then drawn at random from those not yet seen.
PATIENCE = 20
GIVE_UP = 400  # trials in a row without an evaluation: the band is next to empty
DRAWS, RANDOM_TRIES = 50, 2000  # at one that is new: spread evenly, then independent


@dataclass(frozen=True)
class Problem:
    """What is searched: the space, and how a configuration is judged.

    Attributes:
        space: The configurations.
        evaluate: Configuration -> metrics; an empty dict counts as metric 0.
        latency: Configuration -> milliseconds.
        macs: Configuration -> multiply-accumulates.
        metric: Key of the objective, to be maximised.
        limits: What a candidate must meet to be evaluated.
        identity: Names what the figures depend on; a study goes on only under the same.
    """
    space: SparsitySpace
    evaluate: Callable[[SparsityConfig], Dict[str, float]]
    latency: Callable[[SparsityConfig], float]
    macs: Callable[[SparsityConfig], int]
    metric: str
    limits: Limits
    identity: Dict


class SparsitySearch:
    """One worker of a search.

    Args:
        problem: What is searched.
        storage: URL of an Optuna storage.
        seed: Seed of the sampler.
        population_size: Of NSGA-II.
        resume: Go on with the study in the storage, if there is one.

    Raises:
        ValueError: The storage holds a study, and `resume` is false or the study was made for
            another problem (lists the differences).
    """

    def __init__(self, problem: Problem, storage: str, seed: int = 0, population_size: int = 20,
                 resume: bool = False):
        self.problem = problem
        self.seed = seed
        storage = optuna.storages.RDBStorage(storage)
        known = STUDY_NAME in optuna.get_all_study_names(storage)
        if known and not resume:
            raise ValueError(f'{storage.url} holds a search already: go on with it by --resume, '
                             f'or choose another --work-dir or --storage')
        self.study = optuna.create_study(
            storage=storage, study_name=STUDY_NAME, direction='maximize', load_if_exists=True)
        self._check_identity()
        self._requeue_interrupted()
        trials = self.study.get_trials(deepcopy=False)
        # A sampler is not stored: the same seed again would draw the same numbers again.
        self.genes = NestedGenes(problem.space, problem.macs,
                                 np.random.default_rng((seed, len(trials))),
                                 problem.limits.max_macs)
        self.study.sampler = NestedSampler(
            self.genes, lambda config: config in self.memo, population_size, seed + len(trials))
        self.candidates: List[Candidate] = [self._candidate(t) for t in trials
                                            if 'candidate' in t.user_attrs]
        self.memo = {c.config: c for c in self.candidates if c.state != DUPLICATE}
        # The first population: every uniform configuration, so that it can't end below them, and
        # draws spread evenly over the MACs. On resume this queues those that a kill kept out of
        # the queue.
        for config in problem.space.uniform():
            self.enqueue(config)

    def enqueue(self, config: SparsityConfig) -> None:
        self.study.enqueue_trial(to_params(self.problem.space, config), skip_if_exists=True)

    def discard_if_empty(self) -> None:
        """Takes the study out of its storage, unless a candidate is in it."""
        trials = self.study.get_trials(deepcopy=False)
        if not any('candidate' in t.user_attrs for t in trials):
            optuna.delete_study(study_name=STUDY_NAME, storage=self.study._storage)

    @property
    def num_evaluated(self) -> int:
        return sum(c.state in (EVALUATED, FAILED, REJECTED) for c in self.candidates)

    @property
    def best(self) -> Optional[Candidate]:
        """Highest metric, and among equals the fastest; None before the first evaluation."""
        return max((c for c in self.candidates if c.state == EVALUATED),
                   key=lambda c: (c.metric, -c.latency), default=None)

    def run(self, num_trials: int, report: Callable[[Candidate], None] = lambda c: None) -> None:
        """Goes on until `num_trials` candidates are evaluated in all, or none that fits is found.

        Args:
            num_trials: Evaluations, those before a resume included.
            report: Called after each candidate.

        Raises:
            ValueError: No candidate met the limits, or all that did gave NaN.
        """
        misses = 0
        while self.num_evaluated < num_trials and misses < GIVE_UP:
            if misses >= PATIENCE and not self._enqueue_unseen():
                break
            candidate = self._next()
            self.candidates.append(candidate)
            misses = 0 if candidate.state in (EVALUATED, FAILED) else misses + 1
            report(candidate)
        if self.best is None:
            seen = [c.latency for c in self.candidates if c.latency is not None]
            raise ValueError(
                'every candidate gave NaN' if self.num_evaluated else
                f'none of {len(self.memo)} candidates met the limits; latencies seen: ' +
                (f'{min(seen):.1f} to {max(seen):.1f} ms' if seen else 'none, all above the MACs'))

    def confirm_best(self, latency: Callable[[SparsityConfig], float]) -> None:
        """Measures the best candidate again, more carefully, and rejects it for the next best if
        it proves outside the limits: of many noisy measurements the luckiest would win.

        Args:
            latency: Configuration -> milliseconds.

        Raises:
            ValueError: None of the evaluated candidates is inside the limits.
        """
        limits = self.problem.limits
        while self.best is not None:
            best = self.best
            confirmed = self.study.user_attrs.get('confirmed', {})  # by trial; JSON keys are text
            if str(best.trial) not in confirmed:
                confirmed[str(best.trial)] = latency(best.config)
                self.study.set_user_attr('confirmed', confirmed)
            best.latency = confirmed[str(best.trial)]
            if limits.min_latency <= best.latency <= limits.max_latency:
                return
            best.state = REJECTED
        raise ValueError(f'measured again, none of {self.num_evaluated} evaluated candidates is '
                         f'inside {limits.min_latency:.1f} to {limits.max_latency:.1f} ms: the '
                         f'band is narrower than the noise of this machine, try more --rounds')

    def _next(self) -> Candidate:
        space = self.problem.space
        trial = self.study.ask(search_space(space))
        trial.set_user_attr('worker', _worker())
        config = space.decode(from_params(trial.params))
        candidate = self._judge(trial, config)
        self._record(trial, candidate)
        return candidate

    def _judge(self, trial: Trial, config: SparsityConfig) -> Candidate:
        if config in self.memo:
            return Candidate(trial.number, config, DUPLICATE)
        problem, limits = self.problem, self.problem.limits
        candidate = Candidate(trial.number, config, OUTSIDE, macs=problem.macs(config))
        self.memo[config] = candidate
        if candidate.macs > limits.max_macs:
            return candidate
        candidate.latency = problem.latency(config)
        if not limits.min_latency <= candidate.latency <= limits.max_latency:
            return candidate
        candidate.metrics = problem.evaluate(config)
        value = float(candidate.metrics.get(problem.metric, 0.))  # empty: nothing was detected
        candidate.state = FAILED if math.isnan(value) else EVALUATED
        candidate.metric = None if math.isnan(value) else value
        return candidate

    def _record(self, trial: Trial, candidate: Candidate) -> None:
        trial.set_user_attr('candidate', candidate.to_json())
        # The sampler sees neither PRUNED nor FAIL: only real metrics breed.
        self.study.tell(trial, **_told(candidate))

    def _enqueue_unseen(self) -> bool:
        """Queues a random configuration that was not met yet; false if there seems to be none."""
        for i in range(DRAWS + RANDOM_TRIES):
            config = self.genes.draw() if i < DRAWS else self.problem.space.sample(self.genes.rng)
            if config not in self.memo:
                self.enqueue(config)
                return True
        return False

    def _check_identity(self) -> None:
        identity = self.problem.identity
        stored = self.study.user_attrs.get('identity')
        if stored is None:
            self.study.set_user_attr('identity', identity)
            return
        differences = [f'{key}: {stored.get(key)} in the study, {identity.get(key)} now'
                       for key in {**stored, **identity} if stored.get(key) != identity.get(key)]
        if differences:
            raise ValueError('the study was made for another search:\n  ' +
                             '\n  '.join(differences))

    def _requeue_interrupted(self) -> None:
        """Trials of a worker that died: told if their record is whole, else tried again."""
        for trial in self.study.get_trials(states=(TrialState.RUNNING, )):
            if _alive(trial.user_attrs.get('worker')):
                continue
            if 'candidate' in trial.user_attrs:
                self.study.tell(trial.number, **_told(self._candidate(trial)))
            else:
                # One that was queued may have died before its genes were drawn.
                genes = trial.system_attrs.get('fixed_params', trial.params)
                if len(genes) == self.problem.space.num_genes:
                    self.study.enqueue_trial(genes)
                self.study.tell(trial.number, state=TrialState.FAIL)

    def _candidate(self, trial: FrozenTrial) -> Candidate:
        candidate = Candidate.from_json(trial.number, trial.user_attrs['candidate'],
                                        self.problem.space.depths)
        confirmed = self.study.user_attrs.get('confirmed', {})
        candidate.latency = confirmed.get(str(trial.number), candidate.latency)
        return candidate


def _told(candidate: Candidate) -> Dict:
    if candidate.state == EVALUATED:
        return dict(values=candidate.metric)
    return dict(state=TrialState.FAIL if candidate.state == FAILED else TrialState.PRUNED)


def _worker() -> str:
    return f'{socket.gethostname()}:{os.getpid()}'


def _alive(worker: Optional[str]) -> bool:
    """Whether the worker still runs; one on another host counts as alive."""
    if worker is None:
        return False
    host, pid = worker.rsplit(':', 1)
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return int(pid) != os.getpid()
