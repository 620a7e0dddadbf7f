"""An end for what hangs: a worker that evaluates for ever would hold its candidate for ever."""
import faulthandler
import os
import sys
import threading
from contextlib import contextmanager
from typing import Callable, Iterator, Optional

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command again may go on


@contextmanager
def deadline(seconds: Optional[float], expire: Callable[[], None], what: str) -> Iterator[None]:
    """Ends this process unless the block is through in time: nothing else stops a thread that hangs
    in a data loader, a driver or a collective.

    Args:
        seconds: None for no end.
        expire: Called first, in another thread, to leave things in order.
        what: That took so long, for the message.
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
        print(f'error: {what} took longer than the {seconds:g} s of --evaluation-timeout; the '
              f'search goes on with --resume. Where it hung:', file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        os._exit(EXIT_CODE)
