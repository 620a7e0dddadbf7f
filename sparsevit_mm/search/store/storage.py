"""Storage of a study: a database or a journal, which workers on several machines can share.

It may be unavailable for a while, and its password never appears in messages.
"""
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

BUSY = 60.  # seconds that SQLite waits while other processes write
TABLES = 5  # attempts to create the tables, if other workers do so at the same time


def open_storage(url: str, patience: float = 600., full_patience: float = 60.) -> BaseStorage:
    """Open the storage of a study, creating it if necessary.

    Args:
        url: `sqlite:///FILE` for workers on one machine; an SQLAlchemy URL of a database such as
            `postgresql://USER:PASSWORD@HOST/DATABASE`; or `journal:FILE`, a file on a file system
            that the machines share (NFS version 3 or later).
        patience, full_patience: See :class:`~.retrying.RetryingStorage`.

    Raises:
        ValueError: If the URL is malformed, its driver is not installed or its directory does not
            exist.
        StorageError: If the storage refuses access or does not answer. It is a ValueError.
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
            return InMemoryStorage()  # with SQLite each thread would have a separate database
        if not parsed.database.startswith('file:'):
            _check_directory(parsed.database)
        # Keep sqlite3 from beginning transactions, which is left to _begin_with_a_lock
        options = dict(connect_args=dict(timeout=BUSY, isolation_level=None))
    elif parsed.get_driver_name() in ('psycopg2', 'psycopg'):
        # A machine that disappears does not close its connection. Do not wait for it forever, and
        # release its locks.
        waits = dict(connect_timeout=10, keepalives_idle=20, keepalives_interval=10,
                     keepalives_count=3, tcp_user_timeout=30_000)
        options.update(
            connect_args={k: v for k, v in waits.items() if k not in parsed.query},
            pool_events=[(_end_idle_transactions, 'connect')])
    # Optuna formats the URL as a template, and SQLAlchemy before 2.1 does not escape braces
    text = parsed.render_as_string(hide_password=False).replace('{', '{{').replace('}', '}}')
    for _ in range(TABLES):
        try:
            storage = RDBStorage(text, options)
            break
        except exc.DBAPIError as error:
            cause = str(error.orig)
            made = isinstance(error, (exc.IntegrityError, exc.ProgrammingError))
            if not (made or 'already exists' in cause):  # not two workers creating tables
                raise
        time.sleep(random.uniform(.1, .5))
    else:
        raise StorageError(f'{shown(url)} refuses: {" ".join(cause.split())}')
    if parsed.get_backend_name() == 'sqlite':
        event.listen(storage.engine, 'begin', _begin_with_a_lock)
    return storage


def _begin_with_a_lock(connection) -> None:
    """Begin a transaction with a write lock.

    Optuna locks the row of a trial between reading and writing its state. SQLite has no row locks,
    so two workers could otherwise take the same trial.
    """
    connection.exec_driver_sql('BEGIN IMMEDIATE')


def _end_idle_transactions(connection, _) -> None:
    cursor = connection.cursor()
    cursor.execute("SET idle_in_transaction_session_timeout = '60s'")
    cursor.close()
    connection.commit()


def _check_directory(path: str) -> None:
    if not path or os.path.isdir(path):
        raise ValueError(f'the storage {path!r} is not a file')
    directory = Path(path).resolve().parent
    if not directory.is_dir():
        raise ValueError(f'the directory of the storage does not exist: {directory}')


