"""Workers of a study: liveness by heartbeats, and claims on what they work on.

Workers communicate only through the study, and their clocks may differ.
"""
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
FIRST_PAUSE, LAST_PAUSE = .02, 2.  # shortest and longest polling interval in seconds
PARTING = 10.  # seconds to wait for the heartbeat thread to sign off


class Workers:
    """One worker of a study and its view of the others.

    Each worker writes its status to one attribute of the study, `worker:ID`: `beat`, a counter
    that increases with each write; `claim`, a key or None; `gone`, True after it has signed off;
    `machine`, `pid` and `started`, the identity of its process. Optuna's own heartbeats support
    neither ask-and-tell nor a journal.

    A worker on the same machine is alive as long as its process. Any other worker counts as dead
    if its `beat` has not changed over `patience` heartbeats of this worker. These stop while the
    storage is unavailable or this process is suspended, so that an outage or a pause makes no
    worker look dead. But a worker suspended for longer than the others waited may lose its claim.
    Then what it records next has been done twice.

    Args:
        study: Study whose storage this process has opened itself, not inherited through a fork.
        interval: Seconds between heartbeats. It must be the same for all workers, and
            `interval * patience` well above the response time of the storage.
        patience: Number of heartbeats after which a silent worker counts as dead, at least 3.

    Attributes:
        id: Unique id: host name, process id and a random suffix.
        on_wait: Callback that is called while this worker waits for another one, with the id of
            that worker, the key that it has claimed, and the seconds waited so far.

    Raises:
        ValueError: If `interval` or `patience` is too low.
    """

    def __init__(self, study: optuna.Study, interval: float = 15., patience: int = 4):
        if interval <= 0 or patience < 3:
            raise ValueError(f'interval {interval} must be above 0, patience {patience} at least 3')
        self.study, self.interval, self.patience = study, interval, patience
        self.id = f'{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}'
        self.on_wait: Callable[[str, str, float], None] = lambda worker, key, seconds: None
        self._said = dict(beat=0, claim=None, gone=False, **_identity())
        self._lock = threading.Lock()  # the main and the heartbeat thread both write
        self._pulse = 0  # successful heartbeats, the clock for declaring other workers dead
        self._seen: Dict[str, Tuple[Optional[int], int]] = {}  # worker -> beat, pulse at its change
        # (worker, claim) -> time at which waiting began
        self._awaited: Dict[Tuple[str, str], float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._live, name='heartbeat', daemon=True)

    def start(self) -> 'Workers':
        """Announce this worker, and start to send heartbeats every `interval` seconds."""
        self._say()
        self._living()  # start the clock for workers that are already dead
        self._thread.start()
        return self

    def stop(self) -> None:
        """Sign off and release the claim, so that no other worker waits for this one."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(PARTING)

    def __enter__(self) -> 'Workers':
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()

    def others(self) -> List[str]:
        """Return the ids of the other live workers."""
        return list(self._living())

    def is_alive(self, worker_id: str) -> bool:
        """Whether a worker is alive. An unknown one is until it would count as dead."""
        if worker_id == self.id:
            return not self._stopped.is_set()
        said = self._read().get(worker_id)
        return self._goes_on(worker_id, None) if said is None else self._lives(worker_id, said)

    def claim(self, key: str) -> bool:
        """Claim a key unless another live worker has claimed it.

        A worker has one claim at a time, see :meth:`release`. After a successful claim, check
        whether the work has been done in the meantime.

        If several workers claim at once, exactly one succeeds. Each writes its claim and then
        reads those of the others, so of any two workers at least the later reader sees both. A
        worker that sees a competing claim withdraws its own, waits, and gives up if the other
        claim persists. The last to look sees none and tries again. This requires that every read
        sees all earlier writes, but no transactions.

        Returns:
            Whether this worker now has the claim.

        Raises:
            ValueError: If this worker already has a claim.
        """
        if self._said['claim'] is not None:
            raise ValueError(f'{self.id} cannot claim {key!r} before it releases '
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
        """Release the claim, if there is one."""
        if self._said['claim'] is not None:
            self._say(claim=None)

    def claimed(self) -> Dict[str, str]:
        """Return the claims of other live workers, including unconfirmed ones, by worker id."""
        return {worker: said['claim'] for worker, said in self._living().items()
                if said['claim'] is not None}

    def wait(self, key: Optional[str] = None) -> None:
        """Call :attr:`on_wait` for each worker that has claimed the key, and sleep.

        The pause grows with the time waited so far.

        Args:
            key: Key to wait for; None for any key.
        """
        now = time.monotonic()
        self._awaited = {claim: self._awaited.get(claim, now) for claim in self.claimed().items()
                         if key in (None, claim[1])}
        for (worker, claimed), since in self._awaited.items():
            self.on_wait(worker, claimed, now - since)
        waited = now - min(self._awaited.values(), default=now)
        time.sleep(min(LAST_PAUSE, max(FIRST_PAUSE, waited / 3)))

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return a study attribute. If it is missing, one worker computes it while others wait.

        Args:
            key: Key of the attribute.
            compute: Function that returns the value, which must be serialisable as JSON. If it
                raises or its worker dies, another worker takes over.

        Returns:
            The value as read from the study, so that all workers get the same.

        Raises:
            ValueError: If this worker already has a claim.
            Exception: Any exception of `compute`.
        """
        while key not in (attrs := self.study.user_attrs):
            if not self.claim(key):
                self.wait(key)
                continue
            try:
                if key not in self.study.user_attrs:
                    value = compute()
                    # A worker that took this one for dead may have been faster
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
        except Exception as error:  # not fatal: the search may not need the storage for a while
            print_log(f'worker {self.id} failed to send a heartbeat: {error}', 'current',
                      logging.WARNING)

    def _read(self) -> Dict[str, Dict]:
        """Return the statuses of all other workers, dead or alive."""
        return {key[len(PREFIX):]: said for key, said in self.study.user_attrs.items()
                if key.startswith(PREFIX) and key != PREFIX + self.id}

    def _living(self) -> Dict[str, Dict]:
        return {worker: said for worker, said in self._read().items()
                if self._lives(worker, said)}

    def _lives(self, worker: str, said: Dict) -> bool:
        if said['gone']:
            return False
        if said['machine'] is not None and said['machine'] == self._said['machine']:
            with suppress(PermissionError):  # another user's process: rely on its heartbeats
                return _started(said['pid']) == said['started']
        return self._goes_on(worker, said['beat'])

    def _goes_on(self, worker: str, beat: Optional[int]) -> bool:
        """Whether the beat has changed, or was first seen, within the last `patience` pulses."""
        seen, since = self._seen.get(worker, (None, None))
        if since is None or seen != beat:
            seen, since = self._seen[worker] = beat, self._pulse
        return self._pulse - since < self.patience


def _identity() -> Dict:
    """Return the identity of this process.

    Returns:
        `machine`, a digest that is the same for processes in one PID namespace until a reboot, and
        None without /proc; `pid`; and `started`, see :func:`_started`.
    """
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text()
        namespace = os.readlink('/proc/self/ns/pid')
        started = _started(os.getpid())
    except OSError:
        return dict(machine=None, pid=os.getpid(), started=None)
    machine = hashlib.sha256((boot + namespace).encode()).hexdigest()[:12]
    return dict(machine=machine, pid=os.getpid(), started=started)


def _started(pid: int) -> Optional[int]:
    """Return the start time of a process in clock ticks since boot; None if it has ended.

    It distinguishes the process from a later one with the same id.

    Raises:
        PermissionError: If the process is hidden from this user.
    """
    try:
        stat = Path(f'/proc/{pid}/stat').read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
        return None
    state, *fields = stat.rpartition(b')')[2].split()
    # The main thread may be a zombie while other threads still release resources
    threads = int(fields[16])
    return None if state in b'ZXx' and threads <= 1 else int(fields[18])
