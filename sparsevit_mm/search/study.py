"""Evolutionary search for the best sparsity ratios under a latency limit (SparseViT, section 3.3).

Any number of workers share one Optuna study. Evaluated candidates are in its storage, so they
survive a kill.
"""
import hashlib
import logging
import traceback
from typing import Callable, Dict, List, Optional

import numpy as np
from mmengine.logging import print_log
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from ..compat import trial_id
from ..evaluation.in_step import OutOfStep
from ..sparsity import SparsityConfig
from .candidates import DUPLICATE, EVALUATED, FAILED, REJECTED, Candidate, pareto_front
from .store.deadline import deadline
from .problem import Problem
from .propose.sampler import Genes, from_params, make_sampler, search_space, to_params
from .propose.screening import FirstLook
from .record import attributes, candidate_of, has_candidate, put, sign, worker_of
from .store.joining import JoinedStudy

# Number of consecutive trials without an evaluation after which the next configuration is drawn at
# random from the unseen ones: NSGA-II's population has converged, or the latency band is narrow.
PATIENCE = 20
GIVE_UP = 400  # such trials after which the search ends: the band is almost empty
DRAWS, RANDOM_TRIES = 50, 2000  # attempts to draw an unseen one: evenly in MACs, then independently
ATTEMPTS = 2  # to evaluate a candidate
FAILURES = 8  # consecutive candidates that raise, after which the search aborts


class EvaluationError(RuntimeError):
    """Too many consecutive evaluations failed, so the candidates are not the cause."""


class SparsitySearch:
    """One worker of a search. Use it as a context manager so that it signs off at the end.

    Args:
        problem: Problem to solve.
        joined: Study that this worker has joined.
        seed: Seed of the sampler.
        sampler: One of :data:`~.propose.sampler.SAMPLERS`.
        population_size: Population size of NSGA-II.
        timeout: Time limit of one candidate in seconds. A candidate that exceeds it is recorded as
            failed and ends this process, see :func:`~.store.deadline.deadline`.

    Attributes:
        candidates: All candidates that this worker knows of, its own and those of other workers.
        memo: Mapping of configuration to candidate, without duplicates.

    Raises:
        ValueError: If the sampler is unknown. The worker leaves the study first.
    """

    def __init__(self, problem: Problem, joined: JoinedStudy, seed: int = 0,
                 sampler: str = 'nsga2', population_size: int = 20,
                 timeout: Optional[float] = None):
        self.problem, self.joined, self.timeout = problem, joined, timeout
        self.study, self.workers, self.record = joined.study, joined.workers, joined.record
        self.candidates: List[Candidate] = []
        self.memo: Dict[SparsityConfig, Candidate] = {}
        self._known, self._in_flight = set(), set()
        self._rejected = self.record.rejected
        try:
            self._begin(seed, sampler, population_size)
        except BaseException:
            joined.leave()
            raise

    def _begin(self, seed: int, sampler: str, population_size: int) -> None:
        problem = self.problem
        self._take_over()
        self.sync()
        # The sampler's state is not stored, so the number of trials is part of the seed: a resumed
        # search must not repeat its draws. Workers that start together must differ as well.
        seeds = [seed, len(self.study.get_trials(deepcopy=False))]
        if self.workers.others():
            seeds.append(int(hashlib.sha256(self.workers.id.encode()).hexdigest()[:8], 16))
        rng = np.random.default_rng(seeds)
        self.genes = Genes(problem.space, problem.macs, rng, problem.limits.max_macs)
        self.study.sampler = make_sampler(sampler, self.genes, self._met, population_size,
                                          int(np.random.default_rng(seeds).integers(2**31)))
        self.first_look = FirstLook(rng, lambda message: print_log(message, 'current', 30),
                                    problem.pareto)

    def __enter__(self) -> 'SparsitySearch':
        return self

    def __exit__(self, *_) -> None:
        self.joined.leave()

    @property
    def num_evaluated(self) -> int:
        return sum(c.state in (EVALUATED, FAILED, REJECTED) for c in self.candidates)

    @property
    def best(self) -> Optional[Candidate]:
        """Candidate with the highest metric, the fastest if tied; None before any evaluation."""
        return max((c for c in self.candidates if c.state == EVALUATED),
                   key=lambda c: (c.metric, -c.latency), default=None)

    @property
    def front(self) -> List[Candidate]:
        return pareto_front(self.candidates)

    def run(self, num_trials: int, report: Callable[[Candidate], None] = lambda c: None) -> None:
        """Search until all workers together have evaluated `num_trials` candidates.

        Stop earlier if no further candidate within the limits is found.

        Args:
            num_trials: Total number of evaluations, including those before this worker joined.
                Workers that begin the last one at the same moment may exceed it.
            report: Callback that receives each candidate of this worker.

        Raises:
            ValueError: If no candidate met the limits, all that did failed or gave NaN, or the
                sampler does not support two objectives.
            EvaluationError: If :data:`FAILURES` consecutive candidates raised; lists the errors.
        """
        self.record.seeds(self._enqueue_seeds)
        misses, raised = 0, []
        while misses < GIVE_UP:
            self._take_over()
            self.sync()
            left = num_trials - self.num_evaluated
            if left <= 0:
                break
            if len(self._in_flight) >= left:  # the others are busy with the last ones, but may die
                self.workers.wait()
                continue
            if misses >= PATIENCE and not self._enqueue_unseen():
                break
            candidate = self._next()
            misses = 0 if candidate.state in (EVALUATED, FAILED) else misses + 1
            report(candidate)
            if candidate.error is not None:
                raised.append(candidate)
            elif candidate.state == EVALUATED:
                raised = []
            if len(raised) == FAILURES:
                raise EvaluationError(f'evaluation failed for the last {FAILURES} candidates:'
                                      + ''.join(f'\n  trial {c.trial}, {c.config}: {c.error}'
                                                for c in raised))
        if self.best is None:
            failed = [f'\n  {c.config}: {c.error}' for c in self.candidates if c.error]
            raise ValueError(self._nothing_fits() if not self.num_evaluated else
                             'all candidates failed:' + ''.join(failed) if failed else
                             'the metric of all candidates is NaN')

    def sync(self) -> None:
        """Read the candidates that all workers have recorded, and those they are working on."""
        for trial in self.record.trials():
            if trial.number not in self._known:
                self._known.add(trial.number)
                self._remember(self._candidate(trial))
        self._in_flight = {key for key in self.workers.claimed().values()
                           if key.startswith('[')}

    def _remember(self, candidate: Candidate) -> None:
        self.candidates.append(candidate)
        if candidate.state != DUPLICATE:
            self.memo[candidate.config] = candidate

    def _met(self, config: SparsityConfig) -> bool:
        config = self.problem.canonical(config)
        return config in self.memo or str(config) in self._in_flight

    def _next(self) -> Candidate:
        space, trial = self.problem.space, self._ask()
        config = self.problem.canonical(space.decode(from_params(trial.params)))
        candidate = Candidate(trial.number, config, DUPLICATE)
        if config not in self.memo and self.workers.claim(str(config)):
            self.sync()  # another worker may have recorded it just before the claim
            if config not in self.memo:
                candidate = self._judge(trial, config)
        self._record(trial, candidate)
        self.workers.release()
        return candidate

    def _judge(self, trial: Trial, config: SparsityConfig) -> Candidate:
        """Judge a configuration, with one retry if it raises.

        Then it counts as failed, so that no later worker tries it again.
        """
        errors: List[Exception] = []
        while len(errors) < ATTEMPTS:
            try:
                with deadline(self.timeout, lambda: self._give_up(trial, config), str(config)):
                    return self.problem.judge(trial.number, config, lambda looked: (
                        self.first_look.promising(looked, self.candidates)))
            except OutOfStep:
                if errors:  # the other ranks left because of the first error
                    self._record(trial, _failed(trial, config, errors[0]))
                    raise errors[0]
                raise
            except Exception as error:
                print_log(f'trial {trial.number}, {config}: the evaluation raised\n'
                          + ''.join(traceback.format_exception(error)), 'current', logging.WARNING)
                errors.append(error)
        return _failed(trial, config, errors[-1])

    def _give_up(self, trial: Trial, config: SparsityConfig) -> None:
        self._record(trial, _failed(trial, config, TimeoutError(
            f'took longer than {self.timeout:g} s')))
        self.joined.leave()

    def _ask(self) -> Trial:
        while True:
            try:
                trial = self.study.ask(search_space(self.problem.space))
                sign(trial, self.workers.id)
                return trial
            except UpdateFinishedTrialError:
                pass  # before it was signed, another worker took it for abandoned

    def _record(self, trial: Trial, candidate: Candidate) -> None:
        try:
            put(trial, candidate)
            # Only COMPLETE trials, which have a metric, become parents
            self.study.tell(trial, **self._told(candidate))
        except (UpdateFinishedTrialError, ValueError):
            kept = self.joined.storage.get_trial(trial_id(trial))
            if not kept.state.is_finished():
                raise
            # Either the trial was told but the acknowledgement got lost, or another worker took
            # this one for dead and finished its trial. Then the result goes into a new trial.
            if not has_candidate(kept) and candidate.state == EVALUATED:
                self.sync()
                if candidate.config in self.memo:  # the other worker has evaluated it meanwhile
                    return
                self.study.add_trial(create_trial(
                    values=self._told(candidate)['values'], params=trial.params,
                    distributions=search_space(self.problem.space),
                    user_attrs=attributes(candidate, self.workers.id)))
                return
        self._known.add(trial.number)
        self._remember(candidate)

    def _told(self, candidate: Candidate) -> Dict:
        if candidate.state == EVALUATED:
            pareto = self.problem.pareto
            return dict(values=[candidate.metric] + [candidate.latency] * pareto)
        return dict(state=TrialState.FAIL if candidate.state == FAILED else TrialState.PRUNED)

    def _enqueue_seeds(self) -> None:
        """Enqueue every uniform configuration, so that the search cannot end below them.

        The sampler then adds draws spread evenly over the MACs. After a kill this enqueues those
        that are missing.
        """
        for config in self.problem.space.uniform():
            self._enqueue(config)

    def _enqueue(self, config: SparsityConfig) -> None:
        self.study.enqueue_trial(to_params(self.problem.space, config), skip_if_exists=True)

    def _enqueue_unseen(self) -> bool:
        """Enqueue a random unseen configuration; return False if none was found."""
        for i in range(DRAWS + RANDOM_TRIES):
            config = self.genes.draw() if i < DRAWS else self.problem.space.sample(self.genes.rng)
            if not self._met(config):
                self._enqueue(config)
                return True
        return False

    def _take_over(self) -> None:
        """Finish the trials of dead workers: tell those with a candidate, requeue the others."""
        # Read the trials before the workers: none of these belongs to a worker that joins later
        trials = self.study.get_trials(states=(TrialState.RUNNING, ))
        alone = not self.workers.others()
        for trial in trials:
            worker = worker_of(trial)
            # A worker signs its trial just after creating it, so an unsigned one gets the time
            # after which a silent worker counts as dead
            alive = self.workers.is_alive(worker) if worker else (
                not alone and self.workers.is_alive(f'of trial {trial.number}'))
            if not alive:
                self._finish(trial)

    def _finish(self, trial: FrozenTrial) -> None:
        told = dict(state=TrialState.FAIL)
        if has_candidate(trial):
            told = self._told(self._candidate(trial))
        else:
            # An enqueued trial may have been abandoned before its genes were drawn
            genes = trial.system_attrs.get('fixed_params', trial.params)
            if len(genes) == self.problem.space.num_genes:
                self.study.enqueue_trial(genes)
        try:
            self.study.tell(trial.number, **told, skip_if_finished=True)
        except (UpdateFinishedTrialError, ValueError):
            pass  # another worker was faster

    def _candidate(self, trial: FrozenTrial) -> Candidate:
        return candidate_of(trial, self.problem.space.depths, self._rejected)

    def _nothing_fits(self) -> str:
        """Describe the range of latencies seen and the configurations nearest to the band."""
        limits = self.problem.limits
        seen = sorted((c.latency, str(c.config)) for c in self.memo.values()
                      if c.latency is not None)
        message = f'none of {len(self.memo)} candidates met the limits'
        if not seen:
            return f'{message}; all are above --max-macs {limits.max_macs / 1e9:g} G'
        near = [f'{latency:.2f} ms: {config}' for latency, config in (
            *[s for s in seen if s[0] < limits.min_latency][-1:],
            *[s for s in seen if s[0] > limits.max_latency][:1])]
        return (f'{message}; latencies seen: {seen[0][0]:.1f} to {seen[-1][0]:.1f} ms, nearest to '
                f'the band:\n  ' + '\n  '.join(near))


def _failed(trial: Trial, config: SparsityConfig, error: Exception) -> Candidate:
    text = ' '.join(f'{type(error).__name__}: {error}'.split())
    return Candidate(trial.number, config, FAILED, error=text[:500])
