"""Time limit for evaluations: a worker that hangs would never release its candidate."""
import faulthandler
import os
import sys
import threading
from contextlib import contextmanager
from typing import Callable, Iterator, Optional

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: running the command again may succeed


@contextmanager
def deadline(seconds: Optional[float], expire: Callable[[], None], what: str) -> Iterator[None]:
    """Context manager that terminates this process unless its block finishes in time.

    Nothing else stops a thread that hangs in a data loader, a driver or a collective.

    Args:
        seconds: Time limit; None for no limit.
        expire: Clean-up callback, which runs in another thread before the process ends.
        what: Description of the block, for the error message.
    """
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, _end, (seconds, expire, what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(seconds: float, expire: Callable[[], None], what: str) -> None:
    try:
        expire()
    finally:
        print(f'error: {what} took longer than the {seconds:g} s of --evaluation-timeout; continue '
              f'the search with --resume. Stack traces:', file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        os._exit(EXIT_CODE)
