"""Trainings and tests side by side: jobs that wait for each other, each in a process of its own."""
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Sequence


class Job(NamedTuple):
    """One step.

    Attributes:
        done: Its result; a job whose result is there is not run again.
        run: Makes it.
        needs: Results of other jobs that must be there first.
    """
    done: Path
    run: Callable[[], None]
    needs: Sequence[Path] = ()


def run_jobs(jobs: Sequence[Job], workers: int) -> List[Path]:
    """Runs jobs in their order, as soon as what they need is there, up to `workers` at once.

    Processes are forked, so that imports are paid for once; nothing may have touched the GPU
    before. What a job prints goes to the file beside its result that ends in `.log`.

    Returns:
        Results that could not be made, those of jobs that waited for them included.
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
            failed += [job.done for job in waiting]  # what they need is no job's result
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
