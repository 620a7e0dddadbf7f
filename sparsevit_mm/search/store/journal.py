"""Lock of a journal, the log file of operations that workers on several machines share."""
import os
from contextlib import suppress

from optuna.storages.journal import JournalFileOpenLock

from ...compat import lock_file

GRACE = 30  # seconds after which the holder of a lock counts as killed


class MendingLock(JournalFileOpenLock):
    """Lock of a journal that repairs an incomplete last line when acquired.

    A full disk or a kill can leave an incomplete line at the end. The next line would be appended
    to it, and no reader could parse the result. So the incomplete line is overwritten with spaces,
    which JSON allows before the next line. No other byte moves, and unlike truncating the file
    this is harmless even if it happens late, after a pause in which others took the lock.

    Optuna's lock file, opened exclusively, is safe from NFS version 3 on. Unlike a symbolic link
    it survives a lost reply, and its time distinguishes an abandoned lock from its successor.

    Args:
        path: Path of the journal.
    """

    def __init__(self, path: str):
        super().__init__(path, GRACE)
        self._path = path
        self._own = None

    def acquire(self) -> bool:
        self._own = None  # Optuna calls release() in here to break the lock of a killed worker
        super().acquire()
        try:
            self._own = self._stamp()
            self._mend()
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        # If this worker was paused while holding the lock, another one may hold it now
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
