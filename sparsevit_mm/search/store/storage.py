"""Where the study of a search is kept: a database or a journal that workers on many machines
share, that may be out of reach for a while, and whose password nobody gets to see."""
import os
import random
import time
from functools import partial
from pathlib import Path
from typing import Dict

from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import event, exc

from .journal import MendingLock
from .retrying import RetryingStorage, StorageError
from .urls import JOURNAL, parse, secrets_of, shown, with_driver

BUSY = 60.  # seconds that SQLite waits while others write
TABLES = 5  # attempts to make them, when others do so at the same moment


def open_storage(url: str, patience: float = 600., full_patience: float = 60.) -> BaseStorage:
    """Opens the storage of a study, which is made if it is new.

    Args:
        url: `sqlite:///FILE`, for workers on one machine; the URL of a database as SQLAlchemy
            takes it, such as `postgresql://USER:PASSWORD@HOST/DATABASE`; or `journal:FILE`, a file
            on a file system that the machines share (NFS from version 3 on).
        patience, full_patience: See :class:`~.retrying.RetryingStorage`.

    Raises:
        ValueError: The URL is malformed, its driver is not installed, its directory is missing,
            or the storage refuses us or does not answer (StorageError).
    """
    opener = _open_journal if url.startswith(JOURNAL) else _open_database
    return RetryingStorage(partial(opener, url), shown(url), secrets_of(url), patience,
                           full_patience)


def _open_journal(url: str) -> BaseStorage:
    path = url[len(JOURNAL):]
    _check_directory(path)
    return JournalStorage(JournalFileBackend(path, MendingLock(path)))


def _open_database(url: str) -> BaseStorage:
    parsed = with_driver(parse(url))
    options: Dict = dict(pool_pre_ping=True)
    if parsed.get_backend_name() == 'sqlite':
        if parsed.database in (None, '', ':memory:'):
            return InMemoryStorage()  # each thread would get a database of its own
        if not parsed.database.startswith('file:'):
            _check_directory(parsed.database)
        # Without an isolation level sqlite3 begins no transactions: _begin_with_a_lock does.
        options = dict(connect_args=dict(timeout=BUSY, isolation_level=None))
    elif parsed.get_driver_name() in ('psycopg2', 'psycopg'):
        # A machine that vanishes closes no connection: neither may it be waited for without end,
        # nor may what it has locked stay locked.
        waits = dict(connect_timeout=10, keepalives_idle=20, keepalives_interval=10,
                     keepalives_count=3, tcp_user_timeout=30_000)
        options.update(
            connect_args={k: v for k, v in waits.items() if k not in parsed.query},
            pool_events=[(_end_idle_transactions, 'connect')])
    # Optuna takes the URL for a template; SQLAlchemy before 2.1 leaves braces of a path in it.
    text = parsed.render_as_string(hide_password=False).replace('{', '{{').replace('}', '}}')
    for _ in range(TABLES):
        try:
            storage = RDBStorage(text, options)
            break
        except exc.DBAPIError as error:
            cause = str(error.orig)
            made = isinstance(error, (exc.IntegrityError, exc.ProgrammingError))
            if not (made or 'already exists' in cause):  # as when two workers make the tables
                raise
        time.sleep(random.uniform(.1, .5))
    else:
        raise StorageError(f'{shown(url)} refuses: {" ".join(cause.split())}')
    if parsed.get_backend_name() == 'sqlite':
        event.listen(storage.engine, 'begin', _begin_with_a_lock)
    return storage


def _begin_with_a_lock(connection) -> None:
    """Optuna locks the row of a trial between reading its state and writing it. SQLite has no row
    locks, so without this two workers could take the same trial."""
    connection.exec_driver_sql('BEGIN IMMEDIATE')


def _end_idle_transactions(connection, _) -> None:
    cursor = connection.cursor()
    cursor.execute("SET idle_in_transaction_session_timeout = '60s'")
    cursor.close()
    connection.commit()


def _check_directory(path: str) -> None:
    if not path or os.path.isdir(path):
        raise ValueError(f'the storage {path!r} is no file')
    directory = Path(path).resolve().parent
    if not directory.is_dir():
        raise ValueError(f'the directory of the storage does not exist: {directory}')


