"""URLs of storages: parsing, and masking of secrets."""
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, List
from urllib.parse import quote, quote_plus

import sqlalchemy
from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

JOURNAL = 'journal:'

_SECRET = re.compile('pass|pwd|secret|token', re.IGNORECASE)
_PACKAGES = {'psycopg2': 'psycopg2-binary', 'psycopg': 'psycopg[binary]', 'MySQLdb': 'mysqlclient'}


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite database file.

    Raises:
        ValueError: If the installed SQLAlchemy cannot express the path: versions before 2.1 parse
            what follows a question mark as a query.
    """
    database = str(path.resolve())
    url = URL.create('sqlite', database=database).render_as_string()
    if make_url(url).database != database:
        raise ValueError(f'SQLAlchemy {sqlalchemy.__version__} does not support the path '
                         f'{database}: choose one without a question mark, or update SQLAlchemy '
                         f'to 2.1')
    return url


def shown(url: str) -> str:
    """Return the URL for logs and messages, with its password and secret query values masked.

    Raises:
        ValueError: If the URL is malformed. The message does not contain it.
    """
    if url.startswith(JOURNAL):
        return url
    parsed = parse(url)
    query = {k: '***' if _is_secret(k, v) else v for k, v in parsed.query.items()}
    if parsed.password is None and query == parsed.query:
        return url
    return parsed.set(query=query).render_as_string().replace(quote('***'), '***')


def secrets_of(url: str) -> List[str]:
    """Return the secrets of a URL, plain and percent-encoded, the longest first."""
    if url.startswith(JOURNAL):
        return []
    parsed = parse(url)
    values = [parsed.password, *(v for k, v in parsed.query.items() if _is_secret(k, v))]
    texts = {str(v) for v in values if v}
    return sorted(texts | set(map(quote, texts)) | set(map(quote_plus, texts)), key=len)[::-1]


def parse(url: str) -> URL:
    with suppress(exc.ArgumentError, ValueError):
        parsed = make_url(url)
        if url.count('@') == 1 or parsed.username is parsed.password is None:
            return parsed
    raise ValueError('malformed storage URL (not shown, it may contain a password): expected '
                     'sqlite:///FILE, postgresql://USER:PASSWORD@HOST:PORT/DATABASE or '
                     'journal:FILE, with any @ in the password written as %40')


def with_driver(url: URL) -> URL:
    """Set an installed driver in a URL, because SQLAlchemy's default depends on its version.

    Raises:
        ValueError: If the database is unknown or no driver is installed.
    """
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
            raise ValueError(f'SQLAlchemy does not support the database {name!r}') from None
        except ImportError as error:
            missing.append(error.name)
    raise ValueError(f'{url.drivername} needs the module {" or ".join(missing)}, which is not '
                     f'installed: pip install {_PACKAGES.get(missing[0], missing[0])}')


def _is_secret(key: str, value: Any) -> bool:
    return bool(_SECRET.search(key) or _SECRET.search(str(value)))
