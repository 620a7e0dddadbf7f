"""Files that appear whole or not at all."""
import os

import pytest

from sparsevit_mm.files import absolute, replacing, way_to


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('old')
    with replacing(path) as partial:
        partial.write_text('new')
        assert path.read_text() == 'old' and partial.suffix == '.json'
    assert path.read_text() == 'new' and list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('old')
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text('half')
        raise KeyboardInterrupt
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_never_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / 'a.json'):
        pass
    assert not list(tmp_path.iterdir())


def test_two_that_write_the_same_file_do_not_meet(tmp_path, monkeypatch):
    """In two containers with one folder, both with the same process id."""
    monkeypatch.setattr(os, 'getpid', lambda: 7)
    with replacing(tmp_path / 'a') as one, replacing(tmp_path / 'a') as other:
        assert one != other
        one.write_text('1')
        other.write_text('2')


def test_a_path_that_holds_behind_a_symbolic_link(tmp_path):
    """`..` behind a link leads elsewhere for the system than in the text."""
    for folder in ('proj/configs', 'disk/deep/er/s1', 'proj/plain'):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / 'proj/work_dirs').symlink_to('../disk/deep/er')
    config = tmp_path / 'proj/configs/det.py'
    config.touch()
    assert way_to(config, tmp_path / 'proj/plain') == '../configs/det.py'
    for folder in ('proj/work_dirs', 'proj/work_dirs/s1'):
        way = way_to(config, tmp_path / folder)
        assert os.path.samefile(os.path.join(tmp_path / folder, way), config)
        assert os.path.samefile(os.path.normpath(os.path.join(tmp_path / folder, way)), config)
    beside = tmp_path / 'proj/work_dirs/s1/winner.py'
    beside.touch()
    assert way_to(beside, beside.parent) == 'winner.py'


def test_dots_behind_a_symbolic_link_mean_what_they_mean_to_the_system(tmp_path, monkeypatch):
    (tmp_path / 'proj').mkdir()
    (tmp_path / 'disk/deep').mkdir(parents=True)
    (tmp_path / 'proj/link').symlink_to('../disk/deep')
    monkeypatch.chdir(tmp_path / 'proj')
    (tmp_path / 'disk/det.py').touch()
    assert os.path.samefile('link/../det.py', absolute('link/../det.py'))
    assert os.path.samefile(way_to('link/../det.py', tmp_path / 'proj'), 'link/../det.py')
    assert absolute('link/new.py') == str(tmp_path / 'proj/link/new.py')  # a link keeps its name
