"""Where the study of a search is kept: a database or a journal that workers on many machines
share, that may be out of reach for a while, and whose password nobody gets to see."""
import os
import random
import re
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Dict, List
from urllib.parse import quote, quote_plus

import sqlalchemy
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

from .journal import MendingLock
from .retrying import RetryingStorage, StorageError

JOURNAL = 'journal:'
BUSY = 60.  # seconds that SQLite waits while others write
TABLES = 5  # attempts to make them, when others do so at the same moment

_SECRET = re.compile('pass|pwd|secret|token', re.IGNORECASE)
_PACKAGES = {'psycopg2': 'psycopg2-binary', 'psycopg': 'psycopg[binary]', 'MySQLdb': 'mysqlclient'}


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
    return RetryingStorage(partial(opener, url), shown(url), _secrets(url), patience,
                           full_patience)


def sqlite_url(path: Path) -> str:
    """URL of an SQLite database in a file, whatever is in its name.

    Raises:
        ValueError: The SQLAlchemy installed would read another file from it: before 2.1 it takes
            what follows a question mark for a query.
    """
    database = str(path.resolve())
    url = URL.create('sqlite', database=database).render_as_string()
    if make_url(url).database != database:
        raise ValueError(f'SQLAlchemy {sqlalchemy.__version__} can\'t name the file {database}: '
                         f'choose a path without a question mark, or update SQLAlchemy to 2.1')
    return url


def shown(url: str) -> str:
    """The URL for logs and messages, with stars for its password and any secret of its query.

    Raises:
        ValueError: The URL is malformed; the message does not hold it.
    """
    if url.startswith(JOURNAL):
        return url
    parsed = _parse(url)
    query = {k: '***' if _is_secret(k, v) else v for k, v in parsed.query.items()}
    if parsed.password is None and query == parsed.query:
        return url
    return parsed.set(query=query).render_as_string().replace(quote('***'), '***')


def _open_journal(url: str) -> BaseStorage:
    path = url[len(JOURNAL):]
    _check_directory(path)
    return JournalStorage(JournalFileBackend(path, MendingLock(path)))


def _open_database(url: str) -> BaseStorage:
    parsed = _with_driver(_parse(url))
    options: Dict = dict(pool_pre_ping=True)
    if parsed.get_backend_name() == 'sqlite':
        if parsed.database in (None, '', ':memory:'):
            return InMemoryStorage()  # each thread would get a database of its own
        if not parsed.database.startswith('file:'):
            _check_directory(parsed.database)
        options = dict(connect_args=dict(timeout=BUSY))
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
            return RDBStorage(text, options)
        except exc.DBAPIError as error:
            cause = str(error.orig)
            made = isinstance(error, (exc.IntegrityError, exc.ProgrammingError))
            if not (made or 'already exists' in cause):  # as when two workers make the tables
                raise
        time.sleep(random.uniform(.1, .5))
    raise StorageError(f'{shown(url)} refuses: {" ".join(cause.split())}')


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


def _parse(url: str) -> URL:
    with suppress(exc.ArgumentError, ValueError):
        parsed = make_url(url)
        if url.count('@') == 1 or parsed.username is parsed.password is None:
            return parsed
    raise ValueError('malformed storage URL (not shown, it may hold a password): expected '
                     'sqlite:///FILE, postgresql://USER:PASSWORD@HOST:PORT/DATABASE or '
                     'journal:FILE, with any @ of a password written as %40')


def _with_driver(url: URL) -> URL:
    """Names an installed driver; SQLAlchemy's own choice depends on its version. Raises ValueError
    if there is none."""
    names = [url.drivername]
    if names == ['postgresql']:
        names = ['postgresql+psycopg2', 'postgresql+psycopg']
    missing = []
    for name in names:
        try:
            named = url.set(drivername=name)
            named.get_dialect().import_dbapi()
            return named
        except exc.NoSuchModuleError:
            raise ValueError(f'SQLAlchemy knows no database {name!r}') from None
        except ImportError as error:
            missing.append(error.name)
    raise ValueError(f'{url.drivername} needs the module {" or ".join(missing)}, which is not '
                     f'installed: pip install {_PACKAGES.get(missing[0], missing[0])}')


def _is_secret(key: str, value: Any) -> bool:
    return bool(_SECRET.search(key) or _SECRET.search(str(value)))


def _secrets(url: str) -> List[str]:
    """What no message may hold, as it is and as it is written in URLs."""
    if url.startswith(JOURNAL):
        return []
    parsed = _parse(url)
    values = [parsed.password, *(v for k, v in parsed.query.items() if _is_secret(k, v))]
    texts = {str(v) for v in values if v}
    return sorted(texts | set(map(quote, texts)) | set(map(quote_plus, texts)), key=len)[::-1]
