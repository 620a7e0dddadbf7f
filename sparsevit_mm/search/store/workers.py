"""The workers of a study: who is alive, and who works on what. All they know of each other is in
the study, and their clocks may differ."""
import hashlib
import logging
import os
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
FIRST_POLL, LAST_POLL = .02, 2.  # seconds between looks at what others do
PARTING = 10.  # seconds that a farewell may take


class Workers:
    """One worker of a study, and what it sees of the others.

    What a worker says of itself is one attribute of the study, `worker:ID`: `beat`, a number that
    goes up with each word; `claim`, a key or None; `held`, whether the claim was granted; `gone`,
    after its farewell; `machine`, `pid` and `started`, the identity of its process.

    A worker on the same machine lives as long as its process. Any other lives as long as its beat
    goes on: it is dead when `patience * interval` seconds brought no new one, by a monotonic clock
    of this process, which stands still while the storage is out of reach or this process sleeps.
    So an outage or a pause kills nobody, but a worker that slept for longer than that while the
    others went on may find its claim taken: what it then records has been done twice.

    Args:
        study: Its storage must be open to this process alone, not opened before a fork.
        interval: Seconds between beats; the same for all workers, and with `patience` well above
            what a storage takes to answer.
        patience: Intervals without a beat after which a worker is dead; 3 at least.

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
        self._said = dict(beat=0, claim=None, held=False, gone=False, **_identity())
        self._lock = threading.Lock()  # two threads speak
        self._clock = _Clock(1.5 * interval)
        self._seen: Dict[str, Tuple[Any, float]] = {}
        self._stopped = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def start(self) -> 'Workers':
        """Says that it is there, from now on every `interval` seconds."""
        self._say()
        self._living()  # those that are dead already count from now on
        self._thread = threading.Thread(target=self._beat, name='heartbeat', daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Says goodbye: nobody has to wait until it is taken for dead, nor for what it claimed."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(PARTING)

    def __enter__(self) -> 'Workers':
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()

    def others(self) -> List[str]:
        """Ids of the other workers that are alive."""
        return list(self._living())

    def is_alive(self, worker_id: Optional[str]) -> bool:
        """Whether the worker is. None is, as nobody knows whom to look at: see :meth:`is_stale`;
        one of whom the study says nothing is until it would be dead."""
        if worker_id is None or worker_id == self.id:
            return not self._stopped.is_set()
        said = self._read().get(worker_id)
        return not self.is_stale(PREFIX + worker_id, None) if said is None else (
            self._lives(worker_id, said))

    def is_stale(self, key: str, value: Any) -> bool:
        """Whether `value` is still what this said of `key` when it was first asked, a dead
        worker's time ago. The first answer is False."""
        now = self._clock.tick()
        seen = self._seen.get(key)
        if seen is None or seen[0] != value:
            self._seen[key] = value, now
            return False
        return now - seen[1] > self.interval * self.patience

    def claim(self, key: str) -> bool:
        """Takes the key, unless another live worker has it. One claim at a time, see
        :meth:`release`.

        What the key guards may have been done just before it was given: look again.

        Of several that ask at once exactly one gets it. Each writes its claim, then reads those of
        the others, so that of any two the later reader sees the other's claim. Who sees a grant or
        the claim of a lower id withdraws; who sees none but those of higher ids waits for them to
        do so. This needs writes that every later read sees, no transaction.

        Returns:
            Whether it was given. If another is about to get it this may take a moment; if that
            one dies, until it is known to be dead.

        Raises:
            ValueError: This worker has a claim already.
        """
        if self._said['claim'] is not None:
            raise ValueError(f'{self.id} can not claim {key!r} before it releases '
                             f'{self._said["claim"]!r}')
        granted, poll = False, FIRST_POLL
        try:
            self._say(claim=key)
            while True:
                rivals = {worker: said['held'] for worker, said in self._living().items()
                          if said['claim'] == key}
                if any(held or worker < self.id for worker, held in rivals.items()):
                    break
                if not rivals:
                    self._say(held=True)
                    granted = True
                    break
                time.sleep(poll)
                poll = min(1.5 * poll, LAST_POLL)
        finally:
            if not granted:
                self.release()
        return granted

    def release(self) -> None:
        """Gives back what was claimed, if anything was."""
        if self._said['claim'] is not None:
            self._say(claim=None, held=False)

    def claimed(self) -> Dict[str, str]:
        """The keys that other live workers have or are about to get, by worker."""
        return {worker: said['claim'] for worker, said in self._living().items()
                if said['claim'] is not None}

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
        poll, known, since = FIRST_POLL, None, time.monotonic()
        while True:
            attrs = self.study.user_attrs
            if key in attrs:
                return attrs[key]
            owner = next((w for w, claim in self.claimed().items() if claim == key), None)
            if owner is None and self.claim(key):
                try:
                    if key not in self.study.user_attrs:
                        value = compute()
                        # Whoever took this worker for dead may have been faster.
                        if key not in self.study.user_attrs:
                            self.study.set_user_attr(key, value)
                finally:
                    self.release()
                continue
            if owner is not None:
                if owner != known:
                    known, since = owner, time.monotonic()
                self.on_wait(owner, key, time.monotonic() - since)
            time.sleep(poll)
            poll = min(1.5 * poll, LAST_POLL)

    def _say(self, **news) -> None:
        with self._lock:
            self._said.update(news, beat=self._said['beat'] + 1)
            self.study.set_user_attr(PREFIX + self.id, dict(self._said))
            self._clock.tick()

    def _beat(self) -> None:
        while not self._stopped.wait(self.interval):
            try:
                self._say()
            except Exception as error:  # the search itself may not need the storage for a while
                print_log(f'worker {self.id} could not say that it is alive: {error}', 'current',
                          logging.WARNING)
        with suppress(Exception):
            self._say(claim=None, held=False, gone=True)

    def _read(self) -> Dict[str, Dict]:
        """What the other workers said, dead or alive."""
        attrs = self.study.user_attrs
        self._clock.tick()
        return {key[len(PREFIX):]: said for key, said in attrs.items()
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
        return not self.is_stale(PREFIX + worker, said['beat'])


class _Clock:
    """Seconds in which this process was awake and the storage within reach: between two signs of
    that at most `longest` count."""

    def __init__(self, longest: float):
        self._longest = longest
        self._seconds, self._last = 0., time.monotonic()
        self._lock = threading.Lock()

    def tick(self) -> float:
        with self._lock:
            now = time.monotonic()
            self._seconds += min(now - self._last, self._longest)
            self._last = now
            return self._seconds


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
