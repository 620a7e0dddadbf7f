"""What hangs is ended, recorded, and not met again."""
import multiprocessing
import os
import sys
import time

from landscape import Landscape, metric_of

from sparsevit_mm.report.console import SearchConsole
from sparsevit_mm.search.candidates import FAILED
from sparsevit_mm.search.store.deadline import EXIT_CODE, deadline

fork = multiprocessing.get_context('fork')


def in_child(work, error):
    """Exit code of a process that does it, its standard error in a file."""

    def run():
        with open(error, 'w') as file:
            os.dup2(file.fileno(), 2)
            sys.stderr = file
            work()

    process = fork.Process(target=run)
    process.start()
    process.join(60)
    return process.exitcode


def test_what_is_through_in_time_goes_on(tmp_path):
    def work():
        with deadline(.2, lambda: None, 'it'):
            pass
        with deadline(None, lambda: None, 'it'):
            time.sleep(.4)

    assert in_child(work, tmp_path / 'error') == 0


def test_what_hangs_ends_the_process_and_says_where(tmp_path):
    def hang_here():
        time.sleep(60)

    def work():
        with deadline(.2, (tmp_path / 'left').touch, 'the evaluation'):
            hang_here()

    assert in_child(work, tmp_path / 'error') == EXIT_CODE
    assert (tmp_path / 'left').exists()
    error = (tmp_path / 'error').read_text()
    assert 'the evaluation took longer than the 0.2 s' in error and 'in hang_here' in error


def test_a_candidate_that_hangs_is_failed_and_the_search_goes_on_without_it(tmp_path):
    url = f'sqlite:///{tmp_path}/search.db'

    def metric(config):
        if config.mean == .4:
            time.sleep(60)
        return metric_of(config)

    def work():
        Landscape(metric=metric).search(url, timeout=.5).run(12)

    assert in_child(work, tmp_path / 'error') == EXIT_CODE
    landscape = Landscape(metric=metric)
    start = time.monotonic()
    with landscape.search(url, resume=True) as search:
        search.run(12)
    assert time.monotonic() - start < 30
    failed, = [c for c in search.candidates if c.state == FAILED]
    assert failed.error == 'TimeoutError: took longer than 0.5 s'
    assert failed.config not in landscape.evaluated and search.num_evaluated == 12


def test_who_is_waited_for_is_said_once_a_minute(capsys):
    console = SearchConsole()
    for seconds in (1, 30, 60, 90, 121, 3, 59):
        console.waiting('left-1-a', '[[0.4]]', seconds)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f'waiting for worker left-1-a for {s} s: [[0.4]]' for s in (60, 121)]


def test_a_worker_that_waits_for_the_last_candidate_says_for_whom(monkeypatch):
    landscape = Landscape()
    search = landscape.search()
    search.run(4)
    said = []
    monkeypatch.setattr(search.workers, 'claimed', lambda: (
        {'other': '[[0.1, 0.1], [0.2, 0.2]]'} if len(said) < 3 else {}))
    search.workers.on_wait = lambda *waited: said.append(waited)
    search.run(5)
    assert [(worker, key) for worker, key, _ in said] == [
        ('other', '[[0.1, 0.1], [0.2, 0.2]]')] * 3
    seconds = [s for *_, s in said]
    assert seconds == sorted(seconds) and seconds[0] == 0 < seconds[-1]
