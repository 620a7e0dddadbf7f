"""Files that appear whole or not at all."""
import pytest

from sparsevit_mm.files import replacing


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
