"""Kill and replace workers of a search at random moments, then check that no recorded evaluation
was lost and that none was repeated except those of killed workers.

The metric is a formula and an evaluation a short sleep: the test covers the search engine and the
storage, on one machine.
"""
import argparse
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List

import numpy as np
import optuna
from rich.console import Console
from rich.progress import track

from sparsevit_mm.search.candidates import EVALUATED, Candidate
from sparsevit_mm.search.store.joining import JoinedStudy
from sparsevit_mm.search.limits import Limits
from sparsevit_mm.search.problem import Problem
from sparsevit_mm.search.record import StudyRecord, candidate_of
from sparsevit_mm.search.store.storage import open_storage
from sparsevit_mm.search.store.urls import sqlite_url
from sparsevit_mm.search.study import SparsitySearch
from sparsevit_mm.sparsity import SparsityConfig, SparsitySpace

STUDY = 'storm'
SPACE = SparsitySpace((2, 2, 6, 2))
CALM = 20  # evaluations after the storm
fork = multiprocessing.get_context('fork')


def metric_of(config: SparsityConfig) -> float:
    return 1 - float(np.mean([r**2 / (1 + i) for i, stage in enumerate(config.ratios)
                              for r in stage]))


class Worker:
    """Worker process that logs the start and end of each evaluation.

    Args:
        storage: URL of the storage.
        log: File to which every start and end of an evaluation is appended.
        seconds: Mean duration of an evaluation in seconds.
    """

    def __init__(self, storage: str, log: Path, seconds: float):
        self.storage, self.log, self.seconds = storage, log, seconds

    def start(self) -> multiprocessing.Process:
        process = fork.Process(target=self.run, args=(10**9, ), daemon=True)
        process.start()
        return process

    def run(self, num_trials: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        problem = Problem(SPACE, self.evaluate, lambda c: 10 * (1 - c.mean),
                          lambda c: round(1e9 * (1 - c.mean)), 'score', Limits(9.))
        with SparsitySearch(problem, JoinedStudy(self.storage, {}, STUDY)) as search:
            search.run(num_trials)

    def evaluate(self, config: SparsityConfig) -> Dict[str, float]:
        self._note('start', config)
        time.sleep(random.expovariate(1 / self.seconds))
        self._note('end', config)
        return {'score': metric_of(config)}

    def _note(self, what: str, config: SparsityConfig) -> None:
        line = json.dumps([what, os.getpid(), str(config)]) + '\n'
        file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode())  # a single write, so that lines of processes do not mix
        os.close(file)

    def starts(self) -> Dict[str, List[int]]:
        """Return the process ids that started to evaluate each configuration, in order."""
        begun = defaultdict(list)
        for line in self.log.read_text().splitlines():
            what, pid, config = json.loads(line)
            if what == 'start':
                begun[config].append(pid)
        return begun


@dataclass
class Outcome:
    """Result of a storm.

    Attributes:
        kills: Number of killed workers.
        crashed: Workers that exited on their own.
        evaluated: Candidates recorded as evaluated.
        repeated: Evaluations started again, including the doubled ones.
        lost: Recorded evaluations that disappeared or changed.
        doubled: Evaluations started again although their worker was not killed, or recorded more
            than once.
    """
    kills: int
    crashed: int
    evaluated: int
    repeated: int
    lost: int
    doubled: int


def recorded(storage: str) -> List[Candidate]:
    """Return the evaluated candidates of the study.

    Reads them in a separate process, because an SQLite connection that is open at a fork can break
    the locks of the child.
    """

    def read() -> None:
        study = optuna.load_study(study_name=STUDY, storage=open_storage(storage))
        found = [candidate_of(t, SPACE.depths, ()) for t in StudyRecord(study).trials()]
        there.send([c for c in found if c.state == EVALUATED])

    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=read)
    process.start()
    there.close()  # so that recv fails if the process dies
    found = here.recv()
    process.join()
    return found


def storm(storage: str, folder: Path, workers: int, seconds: float, evaluation: float = .1,
          between: float = 1., seed: int = 0) -> Outcome:
    """Kill workers at random once an evaluation has started, then let one worker make ``CALM`` more
    evaluations undisturbed.

    Args:
        storage: URL of a storage without this study.
        folder: Folder for the log.
        workers: Number of workers at any time.
        seconds: Duration of the storm in seconds.
        evaluation: Mean duration of an evaluation in seconds.
        between: Mean time between kills in seconds.
        seed: Seed of the kills.
    """
    rng, worker, killed = random.Random(seed), Worker(storage, folder / 'log', evaluation), set()
    processes = [worker.start() for _ in range(workers)]
    known: Dict[str, float] = {}
    crashed = 0
    while not worker.log.exists() and any(process.is_alive() for process in processes):
        time.sleep(.01)
    end = time.monotonic() + seconds
    for _ in track(range(int(seconds / between)), 'kills', console=Console(stderr=True)):
        time.sleep(min(rng.expovariate(1 / between), max(0, end - time.monotonic())))
        victim = rng.randrange(workers)
        crashed += not _kill(processes[victim], killed)
        processes[victim] = worker.start()
        if rng.random() < .1:
            known.update(_by_config(recorded(storage)))
    crashed += sum([not _kill(process, killed) for process in processes])
    known.update(_by_config(recorded(storage)))
    calm = fork.Process(target=worker.run, args=(len(known) + CALM, ))
    calm.start()
    calm.join()
    return _check(worker, known, recorded(storage), killed, crashed)


def _kill(process: multiprocessing.Process, killed: set) -> bool:
    """Kill a worker and return whether it was still running."""
    process.kill()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        return False
    killed.add(process.pid)
    return True


def _by_config(records: List[Candidate]) -> Dict[SparsityConfig, float]:
    return {record.config: record.metric for record in records}


def _check(worker: Worker, known: Dict[SparsityConfig, float], records: List[Candidate],
           killed: set, crashed: int) -> Outcome:
    final, times = _by_config(records), Counter(r.config for r in records)
    starts = worker.starts()
    doubled = {str(config): number - 1 for config, number in times.items() if number > 1}
    for config, pids in starts.items():
        living = sum(pid not in killed for pid in pids[:-1])
        if living:
            doubled[config] = doubled.get(config, 0) + living
    for config in doubled:
        trials = [r.trial for r in records if str(r.config) == config]
        print(f'doubled: {config}: started by {starts[config]}, recorded as trials {trials}')
    return Outcome(
        kills=len(killed), crashed=crashed, evaluated=len(final),
        repeated=sum(len(pids) - 1 for pids in starts.values()),
        lost=sum(final.get(config) != metric for config, metric in known.items()),
        doubled=sum(doubled.values()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=30.)
    parser.add_argument('--workers', type=int, default=4)
    parser.add_argument('--storage', metavar='URL', help='default: SQLite in a temporary folder')
    parser.add_argument('--evaluation', type=float, default=.1, metavar='S',
                        help='mean duration of an evaluation in seconds (default: 0.1)')
    parser.add_argument('--between', type=float, default=1., metavar='S',
                        help='mean time between kills in seconds (default: 1)')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage = args.storage or sqlite_url(Path(folder) / 'search.db')
        print(storm(storage, Path(folder), args.workers, 60 * args.minutes, args.evaluation,
                    args.between, args.seed))


if __name__ == '__main__':
    main()
