"""Storage that retries while its database is unavailable."""
import errno
import json
import logging
import random
import time
from functools import wraps
from typing import Callable, Optional, Sequence

from mmengine.logging import print_log
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, get_storage
from sqlalchemy import exc

OPENING = 60.  # seconds; if a server does not answer at the start, its address may be wrong
FIRST_DELAY, LAST_DELAY = .1, 5.  # seconds between attempts

# Kinds of storage failure, as worded in messages
LOST, FULL, DAMAGED, REFUSED = 'cannot be reached', 'has a full disk', 'is damaged', 'refuses'
_FULL = ('disk is full', 'No space left', 'could not extend file')
_REFUSED = ('authentication failed', 'no password supplied', 'pg_hba.conf', 'does not exist',
            'not permitted to log in', 'Access denied', 'Unknown database', 'no such table',
            'no such column', 'syntax error', 'readonly database', 'not a database', 'malformed')
# Possibly temporary failures; other subclasses of DatabaseError report an invalid statement
_DATABASE = (exc.OperationalError, exc.InterfaceError, exc.DatabaseError)


class StorageError(ValueError):
    """The storage refuses access, is damaged, or was unavailable for too long."""


def _forward(name: str) -> Callable:

    @wraps(getattr(BaseStorage, name), updated=())  # do not copy __isabstractmethod__
    def method(self, *args, **kwargs):
        return self._persist(lambda: getattr(self.backend, name)(*args, **kwargs))

    return method


_Forwarding = type('_Forwarding', (BaseStorage, ), {
    name: _forward(name) for name, value in vars(BaseStorage).items()
    if callable(value) and not name.startswith('_')})


class RetryingStorage(_Forwarding):
    """Wrapper of a storage that retries operations after temporary failures.

    Optuna does not retry. A retry library would chain the original exception, whose traceback can
    reveal the password in the URL.

    A write whose acknowledgement got lost is repeated. This has no effect except in two cases:
    creating a trial leaves an extra one running without a worker, and finishing a trial raises
    UpdateFinishedTrialError.

    Args:
        open_backend: Function that opens the wrapped storage.
        url: URL of the storage for messages, without secrets.
        secrets: Texts to mask in messages.
        patience: Seconds to retry each operation after a lost connection. Opening the storage is
            retried for :data:`OPENING` seconds at most. Once an operation has given up, later
            ones fail immediately until one succeeds.
        full_patience: Seconds to retry while the disk is full.

    Attributes:
        backend: The wrapped storage; that of a database has Optuna's cache.

    Raises:
        StorageError: From every method, if the storage refuses access, is damaged, or was
            unavailable for too long.
    """

    def __init__(self, open_backend: Callable[[], BaseStorage], url: str,
                 secrets: Sequence[str] = (), patience: float = 600., full_patience: float = 60.):
        self.url, self._secrets = url, secrets
        self._patience = {LOST: min(patience, OPENING), FULL: full_patience, DAMAGED: 5.,
                          REFUSED: 0.}
        self._gave_up = False
        self.backend = self._persist(lambda: get_storage(open_backend()))
        self._patience[LOST] = patience

    def _persist(self, call: Callable):
        start, delay = time.monotonic(), FIRST_DELAY
        while True:
            try:
                result = call()
                break
            except Exception as error:
                trouble = _trouble(error)
                if trouble is None:
                    raise
                cause = self._cause(error)
            # Outside the handler, so that what is raised here is not chained to the original error
            patience, waited = self._patience[trouble], time.monotonic() - start
            if self._gave_up or waited >= patience:
                self._gave_up |= patience > 0
                raise StorageError(f'{self.url} {trouble}: {cause}' + (
                    f' (for {waited:.0f} s)' if waited >= 1 else ''))
            if delay == FIRST_DELAY:
                self._log(f'{trouble}, trying again for up to {patience:.0f} s: {cause}')
            time.sleep(min(delay * random.uniform(.5, 1.5), patience - waited))
            delay = min(2 * delay, LAST_DELAY)
        if self._gave_up or delay > FIRST_DELAY:
            self._log('answers again')
            self._gave_up = False
        return result

    def _log(self, text: str) -> None:
        print_log(f'{self.url} {text}', 'current', logging.WARNING)

    def _cause(self, error: Exception) -> str:
        text = ' '.join(_text(error).split())
        for secret in self._secrets:
            text = text.replace(secret, '***')
        return text if len(text) <= 300 else text[:300] + '...'


def _original(error: BaseException) -> BaseException:
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        return error.__cause__
    return error


def _text(error: BaseException) -> str:
    """Return the database's own message, since SQLAlchemy's quotes the values to be written."""
    error = _original(error)
    return str(getattr(error, 'orig', None) or error)


def _trouble(error: Exception) -> Optional[str]:
    """Return the kind of storage failure; None if the error has another cause."""
    error, text = _original(error), _text(error)
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return FULL
        refused = isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError))
        return REFUSED if refused or error.errno == errno.EROFS else LOST
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) or (
            text == 'Invalid log format.'):
        return DAMAGED
    # The pool had no connection, or Optuna used a transaction whose connection was lost
    if isinstance(error, (exc.TimeoutError, exc.PendingRollbackError, exc.ResourceClosedError)):
        return LOST
    if type(error) not in _DATABASE:
        return None
    if any(t in text for t in _FULL):
        return FULL
    return REFUSED if any(t in text for t in _REFUSED) else LOST
