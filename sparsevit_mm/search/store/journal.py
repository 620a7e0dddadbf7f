"""The lock of a journal, the file of operations that workers on several machines share."""
import os
from contextlib import suppress

from optuna.storages.journal import JournalFileOpenLock

from ...compat import lock_file

GRACE = 30  # seconds; whoever holds a journal's lock for longer, with nothing written, was killed


class MendingLock(JournalFileOpenLock):
    """Lock of a journal whose holder finds every line of it whole.

    A full disk or a kill can leave a torn line at the end; with the next one glued to it, no
    reader would ever get past them. Blanks take the place of what is torn: JSON allows them ahead
    of the next line, no byte that a reader knows moves, and it does no harm to do this late, after
    a pause in which others took the lock (as to cut the file would).

    Optuna's lock by exclusive opening is right from NFS version 3 on: unlike the symbolic link,
    it survives a lost reply, and the time of a broken lock can be told from that of its successor.

    Args:
        path: Of the journal.
    """

    def __init__(self, path: str):
        super().__init__(path, GRACE)
        self._path = path
        self._own = None

    def acquire(self) -> bool:
        self._own = None  # what Optuna releases within is the lock of one who was killed
        super().acquire()
        try:
            self._own = self._stamp()
            self._mend()
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        # The lock of one who was paused in it may be another's by now.
        with suppress(FileNotFoundError, RuntimeError):
            if self._own in (None, self._stamp()):
                super().release()

    def _stamp(self):
        stat = os.stat(lock_file(self))
        return stat.st_ino, stat.st_mtime_ns

    def _mend(self) -> None:
        with open(self._path, 'r+b') as file:
            end = start = file.seek(0, os.SEEK_END)
            while start:
                block = min(start, 1 << 16)
                file.seek(start - block)
                newline = file.read(block).rfind(b'\n')
                start += newline + 1 - block if newline >= 0 else -block
                if newline >= 0:
                    break
            if start < end:
                file.seek(start)
                file.write(b' ' * (end - start))
