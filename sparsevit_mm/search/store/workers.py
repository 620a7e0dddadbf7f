"""The workers of a study: who is alive, and who works on what. All they know of each other is in
the study, and their clocks may differ."""
import hashlib
import logging
import os
import random
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import optuna
from mmengine.logging import print_log

PREFIX = 'worker:'
FIRST_PAUSE, LAST_PAUSE = .02, 2.  # seconds between looks at what others do
PARTING = 10.  # seconds that a farewell may take


class Workers:
    """One worker of a study, and what it sees of the others.

    What a worker says of itself is one attribute of the study, `worker:ID`: `beat`, a number that
    goes up with each word; `claim`, a key or None; `gone`, after its farewell; `machine`, `pid`
    and `started`, the identity of its process. Optuna's own heartbeats serve neither ask and tell
    nor a journal.

    A worker on the same machine lives as long as its process. Any other is dead once `patience`
    heartbeats of this worker brought no new beat of it. They stand still while the storage is out
    of reach or this process sleeps, so an outage or a pause kills nobody. But a worker that slept
    for longer than the others waited may find its claim taken: what it then records has been done
    twice.

    Args:
        study: Its storage must be open to this process alone, not opened before a fork.
        interval: Seconds between heartbeats; the same for all workers, and with `patience` well
            above what a storage takes to answer.
        patience: Heartbeats without a word after which a worker is dead; 3 at least.

    Attributes:
        id: Unique: host name, process id and something random.
        on_wait: Called while this worker waits for another, with that one's id, the key that it
            has claimed, and the seconds waited so far. Does nothing unless set.

    Raises:
        ValueError: `interval` or `patience` is too low.
    """

    def __init__(self, study: optuna.Study, interval: float = 15., patience: int = 4):
        if interval <= 0 or patience < 3:
            raise ValueError(f'interval {interval} must be above 0, patience {patience} at least 3')
        self.study, self.interval, self.patience = study, interval, patience
        self.id = f'{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}'
        self.on_wait: Callable[[str, str, float], None] = lambda worker, key, seconds: None
        self._said = dict(beat=0, claim=None, gone=False, **_identity())
        self._lock = threading.Lock()  # two threads speak
        self._pulse = 0  # heartbeats that got through: the clock by which others are dead
        self._seen: Dict[str, Tuple[Optional[int], int]] = {}  # beat, and pulse when it was new
        self._awaited: Dict[Tuple[str, str], float] = {}  # since when, of workers and their claims
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._live, name='heartbeat', daemon=True)

    def start(self) -> 'Workers':
        """Says that it is there, from now on every `interval` seconds."""
        self._say()
        self._living()  # those that are dead already count from now on
        self._thread.start()
        return self

    def stop(self) -> None:
        """Says goodbye: nobody has to wait until it is taken for dead, nor for what it claimed."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(PARTING)

    def __enter__(self) -> 'Workers':
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()

    def others(self) -> List[str]:
        """Ids of the other workers that are alive."""
        return list(self._living())

    def is_alive(self, worker_id: str) -> bool:
        """Whether the worker is; one of whom the study says nothing is until it would be dead."""
        if worker_id == self.id:
            return not self._stopped.is_set()
        said = self._read().get(worker_id)
        return self._goes_on(worker_id, None) if said is None else self._lives(worker_id, said)

    def claim(self, key: str) -> bool:
        """Takes the key, unless another live worker has it. One claim at a time, see
        :meth:`release`. What the key guards may have been done just before: look again.

        Of several that ask at once exactly one gets it. Each writes its claim, then reads those of
        the others, so of any two the later reader sees both. Who sees another withdraws, pauses,
        and gives up if there is one still: the last to look sees none, and tries again. This needs
        writes that every later read sees, no transaction.

        Raises:
            ValueError: This worker has a claim already.
        """
        if self._said['claim'] is not None:
            raise ValueError(f'{self.id} can not claim {key!r} before it releases '
                             f'{self._said["claim"]!r}')
        granted, pause = False, FIRST_PAUSE
        while not granted and key not in self.claimed().values():
            try:
                self._say(claim=key)
                granted = key not in self.claimed().values()
            finally:
                if not granted:
                    self.release()
            if not granted:
                pause *= 1.5
                time.sleep(random.uniform(0, pause))
        return granted

    def release(self) -> None:
        """Gives back what was claimed, if anything was."""
        if self._said['claim'] is not None:
            self._say(claim=None)

    def claimed(self) -> Dict[str, str]:
        """The keys that other live workers have or are about to get, by worker."""
        return {worker: said['claim'] for worker, said in self._living().items()
                if said['claim'] is not None}

    def wait(self, key: Optional[str] = None) -> None:
        """Calls :attr:`on_wait` for each worker that has claimed the key, or any key if there is
        none given, and sleeps: longer, the longer this has waited."""
        now = time.monotonic()
        self._awaited = {claim: self._awaited.get(claim, now) for claim in self.claimed().items()
                         if key in (None, claim[1])}
        for (worker, claimed), since in self._awaited.items():
            self.on_wait(worker, claimed, now - since)
        waited = now - min(self._awaited.values(), default=now)
        time.sleep(min(LAST_PAUSE, max(FIRST_PAUSE, waited / 3)))

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """The attribute `key` of the study; if there is none, one live worker computes it, and the
        others wait.

        Args:
            key: Of the attribute.
            compute: Gives the value, which JSON can hold. If it raises, or its worker dies,
                another worker computes.

        Returns:
            The value as read from the study, so the same for all.

        Raises:
            ValueError: This worker has a claim already.
            Exception: What `compute` raised.
        """
        while key not in (attrs := self.study.user_attrs):
            if not self.claim(key):
                self.wait(key)
                continue
            try:
                if key not in self.study.user_attrs:
                    value = compute()
                    # Whoever took this worker for dead may have been faster.
                    if key not in self.study.user_attrs:
                        self.study.set_user_attr(key, value)
            finally:
                self.release()
        return attrs[key]

    def _say(self, **news) -> None:
        with self._lock:
            self._said.update(news, beat=self._said['beat'] + 1)
            self.study.set_user_attr(PREFIX + self.id, dict(self._said))

    def _live(self) -> None:
        while not self._stopped.wait(self.interval):
            self._beat()
        with suppress(Exception):
            self._say(claim=None, gone=True)

    def _beat(self) -> None:
        try:
            self._say()
            self._pulse += 1
        except Exception as error:  # the search itself may not need the storage for a while
            print_log(f'worker {self.id} could not say that it is alive: {error}', 'current',
                      logging.WARNING)

    def _read(self) -> Dict[str, Dict]:
        """What the other workers said, dead or alive."""
        return {key[len(PREFIX):]: said for key, said in self.study.user_attrs.items()
                if key.startswith(PREFIX) and key != PREFIX + self.id}

    def _living(self) -> Dict[str, Dict]:
        return {worker: said for worker, said in self._read().items()
                if self._lives(worker, said)}

    def _lives(self, worker: str, said: Dict) -> bool:
        if said['gone']:
            return False
        if said['machine'] is not None and said['machine'] == self._said['machine']:
            with suppress(PermissionError):  # hidden from other users: then its beat must tell
                return _started(said['pid']) == said['started']
        return self._goes_on(worker, said['beat'])

    def _goes_on(self, worker: str, beat: Optional[int]) -> bool:
        """Whether the beat is another than when this was first asked, a dead worker's time ago."""
        seen, since = self._seen.get(worker, (None, None))
        if since is None or seen != beat:
            seen, since = self._seen[worker] = beat, self._pulse
        return self._pulse - since < self.patience


def _identity() -> Dict:
    """Of this process: `machine`, the same for processes that see each other's ids, until a
    reboot, and None where there is no /proc; `pid`; `started`."""
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text()
        namespace = os.readlink('/proc/self/ns/pid')
        started = _started(os.getpid())
    except OSError:
        return dict(machine=None, pid=os.getpid(), started=None)
    machine = hashlib.sha256((boot + namespace).encode()).hexdigest()[:12]
    return dict(machine=machine, pid=os.getpid(), started=started)


def _started(pid: int) -> Optional[int]:
    """When the process started, in ticks since boot, which tells it from a later one of the same
    id; None if it runs no more. Raises PermissionError if that is hidden from this user."""
    try:
        stat = Path(f'/proc/{pid}/stat').read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
        return None
    state, *fields = stat.rpartition(b')')[2].split()
    # The first thread may be gone while others still let go of what the process holds.
    threads = int(fields[16])
    return None if state in b'ZXx' and threads <= 1 else int(fields[18])
