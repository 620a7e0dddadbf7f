"""What the tests of swapped configs share."""
import pytest

from sparsevit_mm.config.reading import load_config
from sparsevit_mm.config.swap import swap_backbone


@pytest.fixture
def write(tmp_path):
    """Writes a config file of some top-level settings; gives its path."""

    def write_file(name='base.py', **settings):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = ''.join(f'{key} = {value!r}\n' for key, value in settings.items())
        path.write_text(text)
        return str(path)

    return write_file


@pytest.fixture
def swapped(tmp_path):
    """Swaps; gives the child as it is read."""

    def swap(config, name='out/new.py', **options):
        swap_backbone(config, tmp_path / name, **options)
        assert not list((tmp_path / name).parent.glob('.*'))
        return load_config(str(tmp_path / name))

    return swap
