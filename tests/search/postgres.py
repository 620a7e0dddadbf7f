"""A real PostgreSQL server for tests, on this machine alone, which asks for a password."""
import atexit
import ctypes
import functools
import glob
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

PASSWORD = 'pa{ss}/w:rd%?é'  # all that could go astray in a URL; the URL has it escaped
USER = 'searcher'


class Server:
    """One cluster in a folder of its own, stopped and removed at the exit of this process.

    Attributes:
        url: Of its database, with the password.
        port: On 127.0.0.1.
    """

    def __init__(self, binaries: Path):
        self.binaries = binaries
        # PostgreSQL refuses to run as root.
        self._user = {}
        if os.geteuid() == 0:
            account = next(a for a in map(_account, ('postgres', 'nobody')) if a)
            self._user = dict(user=account.pw_uid, group=account.pw_gid, extra_groups=[])
        self.folder = Path(tempfile.mkdtemp(prefix='postgres-'))
        (self.folder / 'password').write_text(PASSWORD)
        if self._user:
            for path in (self.folder, self.folder / 'password'):
                os.chown(path, self._user['user'], self._user['group'])
        self.port = free_port()
        self.url = self.url_of()
        self._process, self._names = None, itertools.count()
        atexit.register(self._remove, os.getpid())
        self._run('initdb', '-D', 'data', '-U', USER, '-A', 'scram-sha-256', '--pwfile',
                  'password', '--no-sync', '-E', 'UTF8', '--locale', 'C')
        self.start()

    def url_of(self, user=USER, password='pa%7Bss%7D%2Fw%3Ard%25%3F%C3%A9', database='postgres',
               port=None) -> str:
        return f'postgresql://{user}:{password}@127.0.0.1:{port or self.port}/{database}'

    def new_database(self) -> str:
        """Its URL."""
        name = f'study{next(self._names)}'
        self.execute(f'CREATE DATABASE {name}')
        return self.url_of(database=name)

    def execute(self, statement: str, password=PASSWORD) -> None:
        import psycopg2
        connection = psycopg2.connect(host='127.0.0.1', port=self.port, user=USER,
                                      password=password, dbname='postgres')
        connection.autocommit = True
        connection.cursor().execute(statement)
        connection.close()

    def start(self) -> None:
        """Returns when it takes connections."""
        # Straight, not by pg_ctl: so that it dies with this process, however that dies.
        self._process = subprocess.Popen(
            [self.binaries / 'postgres', '-D', 'data', '-p', str(self.port), '-k', self.folder,
             '-c', 'listen_addresses=127.0.0.1', '-c', 'fsync=off', '-c', 'shared_buffers=16MB'],
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=open(self.folder / 'log', 'a'),
            preexec_fn=_die_with_parent, start_new_session=True, **self._user)
        for _ in range(200):
            if self._process.poll() is not None:
                break
            if subprocess.call([self.binaries / 'pg_isready', '-q', '-h', '127.0.0.1', '-p',
                                str(self.port)]) == 0:
                return
            time.sleep(.05)
        raise RuntimeError((self.folder / 'log').read_text())

    def stop(self) -> None:
        """At once, as in a crash: connections break, what was not committed is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(300)
            self._process = None

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([self.binaries / program, *arguments], cwd=self.folder, check=True,
                       stdout=subprocess.DEVNULL, **self._user)

    def _remove(self, owner: int) -> None:
        if os.getpid() == owner:  # not in a fork
            try:
                self.stop()
            finally:
                shutil.rmtree(self.folder, ignore_errors=True)


@functools.lru_cache(maxsize=None)
def server() -> Server:
    """The server of this test session."""
    return Server(_binaries())


@pytest.fixture(scope='session')
def postgres():
    """The running server; skips where PostgreSQL or its driver are not installed."""
    pytest.importorskip('psycopg2')
    if _binaries() is None:
        pytest.skip('PostgreSQL is not installed')
    return server()


@pytest.fixture(params=['sqlite', 'journal', 'postgres'])
def shared_url(request, tmp_path) -> str:
    """A new storage of each kind that processes can share."""
    if request.param == 'sqlite':
        return f'sqlite:///{tmp_path}/study.db'
    if request.param == 'journal':
        return f'journal:{tmp_path}/study.log'
    return request.getfixturevalue('postgres').new_database()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def _binaries():
    found = sorted(glob.glob('/usr/lib/postgresql/*/bin/initdb')) or [shutil.which('initdb')]
    return Path(found[-1]).resolve().parent if found[-1] else None


def _account(name: str):
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
