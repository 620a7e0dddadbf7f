"""Parallel trainings and tests: jobs with dependencies, each in a separate process."""
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Sequence


class Job(NamedTuple):
    """One step.

    Attributes:
        done: File of its result; a job whose result exists is not run.
        run: Function that writes the result.
        needs: Results of other jobs that must exist first.
    """
    done: Path
    run: Callable[[], None]
    needs: Sequence[Path] = ()


def run_jobs(jobs: Sequence[Job], workers: int) -> List[Path]:
    """Run jobs in order, as soon as the results they need exist, up to `workers` at once.

    Processes are forked, so that modules are imported once; CUDA must not be initialised before.
    The output of a job goes to a `.log` file beside its result.

    Returns:
        Results that could not be made, including those of jobs that depend on them.
    """
    waiting = [job for job in jobs if not job.done.exists()]
    running: Dict[int, Job] = {}
    failed: List[Path] = []
    start, total = time.time(), len(waiting)
    while waiting or running:
        for job in list(waiting):
            if any(need in failed for need in job.needs):
                failed.append(job.done)
                waiting.remove(job)
            elif len(running) < workers and all(need.exists() for need in job.needs):
                waiting.remove(job)
                running[_fork(job)] = job
        if not running:
            failed += [job.done for job in waiting]  # no job makes what they need
            break
        pid, status = os.wait()
        job = running.pop(pid)
        if status or not job.done.exists():
            failed.append(job.done)
        print(f'{time.time() - start:6.0f} s  {total - len(waiting) - len(running)}/{total}  '
              f'{"FAILED, see " + str(_log(job)) if job.done in failed else job.done}', flush=True)
    return failed


def _log(job: Job) -> Path:
    return job.done.with_suffix('.log')


def _fork(job: Job) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        job.done.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(_log(job), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = sys.stderr = open(1, 'w', buffering=1, closefd=False)
        job.run()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)
