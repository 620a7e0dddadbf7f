"""Evolutionary search for the best ratios under a latency limit (SparseViT, section 3.3), by any
number of workers on one Optuna study. What was evaluated is in the storage, and survives any
kill."""
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

# After so many trials in a row that led to no evaluation, NSGA-II's population has converged or
# the band is narrow: the next configuration is then drawn at random from those not yet seen.
PATIENCE = 20
GIVE_UP = 400  # trials in a row without an evaluation: the band is next to empty
DRAWS, RANDOM_TRIES = 50, 2000  # at one that is new: spread evenly, then independent
ATTEMPTS = 2  # at a candidate whose evaluation raises
FAILURES = 8  # candidates in a row that raised: then it is not them


class EvaluationError(RuntimeError):
    """Evaluations fail, whatever the candidate."""


class SparsitySearch:
    """One worker of a search. Use it as a context, so that others see it leave.

    Args:
        problem: What is searched.
        joined: The study.
        seed: Seed of the sampler.
        sampler: One of :data:`~.propose.sampler.SAMPLERS`.
        population_size: Of NSGA-II.
        timeout: Seconds for one candidate; one that takes longer is recorded as failed, and ends
            this process, see :func:`~.store.deadline.deadline`.

    Raises:
        ValueError: The sampler is none, or can't do with two objectives. The study is left then.
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
        # A sampler is not stored: the same seed again would draw the same numbers again, and
        # workers that start together would draw alike.
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
        """Highest metric, and among equals the fastest; None before the first evaluation."""
        return max((c for c in self.candidates if c.state == EVALUATED),
                   key=lambda c: (c.metric, -c.latency), default=None)

    @property
    def front(self) -> List[Candidate]:
        return pareto_front(self.candidates)

    def run(self, num_trials: int, report: Callable[[Candidate], None] = lambda c: None) -> None:
        """Goes on until all workers together have evaluated `num_trials` candidates, or none that
        fits is found.

        Args:
            num_trials: Evaluations, those before this worker joined included. Workers that begin
                the last one at the same moment make it one more for each.
            report: Called after each candidate of this worker.

        Raises:
            ValueError: No candidate met the limits, or all that did gave NaN.
            EvaluationError: :data:`FAILURES` candidates in a row raised; lists what.
        """
        self.record.seeds(self._enqueue_seeds)
        misses, raised = 0, []
        while misses < GIVE_UP:
            self._take_over()
            self.sync()
            left = num_trials - self.num_evaluated
            if left <= 0:
                break
            if len(self._in_flight) >= left:  # others work on the last ones, and may yet die
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
                raise EvaluationError(f'the last {FAILURES} candidates could not be evaluated:'
                                      + ''.join(f'\n  trial {c.trial}, {c.config}: {c.error}'
                                                for c in raised))
        if self.best is None:
            failed = [f'\n  {c.config}: {c.error}' for c in self.candidates if c.error]
            raise ValueError(self._nothing_fits() if not self.num_evaluated else
                             'every candidate failed:' + ''.join(failed) if failed else
                             'every candidate gave NaN')

    def sync(self) -> None:
        """Takes in what all workers recorded."""
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
            self.sync()  # it may have been recorded before the claim
            if config not in self.memo:
                candidate = self._judge(trial, config)
        self._record(trial, candidate)
        self.workers.release()
        return candidate

    def _judge(self, trial: Trial, config: SparsityConfig) -> Candidate:
        """Tried again once if it raises, then failed: no later worker should stumble on it."""
        errors: List[Exception] = []
        while len(errors) < ATTEMPTS:
            try:
                with deadline(self.timeout, lambda: self._give_up(trial, config), str(config)):
                    return self.problem.judge(trial.number, config, lambda looked: (
                        self.first_look.promising(looked, self.candidates)))
            except OutOfStep:
                if errors:  # they left because of that
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
                pass  # it took so long that another worker gave the unsigned trial up

    def _record(self, trial: Trial, candidate: Candidate) -> None:
        try:
            put(trial, candidate)
            # The sampler sees neither PRUNED nor FAIL: only real metrics breed.
            self.study.tell(trial, **self._told(candidate))
        except (UpdateFinishedTrialError, ValueError):
            kept = self.joined.storage.get_trial(trial_id(trial))
            if not kept.state.is_finished():
                raise
            # Told before a lost connection could say so; or this worker slept so long that
            # another took it for dead, and its result goes into a trial of its own.
            if not has_candidate(kept) and candidate.state == EVALUATED:
                self.sync()
                if candidate.config in self.memo:  # that other one has evaluated it meanwhile
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
        """The first population: every uniform configuration, so that it can't end below them;
        draws spread evenly over the MACs follow. After a kill this queues those that are not
        queued yet."""
        for config in self.problem.space.uniform():
            self._enqueue(config)

    def _enqueue(self, config: SparsityConfig) -> None:
        self.study.enqueue_trial(to_params(self.problem.space, config), skip_if_exists=True)

    def _enqueue_unseen(self) -> bool:
        """Queues a random configuration that was not met yet; false if there seems to be none."""
        for i in range(DRAWS + RANDOM_TRIES):
            config = self.genes.draw() if i < DRAWS else self.problem.space.sample(self.genes.rng)
            if not self._met(config):
                self._enqueue(config)
                return True
        return False

    def _take_over(self) -> None:
        """Trials of workers that died: told if their record is whole, else tried again."""
        # The trials before the workers: who joins in between has none of these.
        trials = self.study.get_trials(states=(TrialState.RUNNING, ))
        alone = not self.workers.others()
        for trial in trials:
            worker = worker_of(trial)
            # A worker signs a trial just after it got it.
            alive = self.workers.is_alive(worker) if worker else (
                not alone and self.workers.is_alive(f'of trial {trial.number}'))
            if not alive:
                self._finish(trial)

    def _finish(self, trial: FrozenTrial) -> None:
        told = dict(state=TrialState.FAIL)
        if has_candidate(trial):
            told = self._told(self._candidate(trial))
        else:
            # One that was queued may have died before its genes were drawn.
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
        """What was seen instead: the nearest on either side of the band."""
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
