"""Files that appear whole or not at all, and the way from one to another."""
import os
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union


@contextmanager
def replacing(path: Union[str, os.PathLike]) -> Iterator[Path]:
    """A file beside `path`, of its suffix and with a name of its own, to write to. It takes the
    place of `path` if all goes well; else what stood there stays, and nothing else is left."""
    path = Path(path)
    # Not by process id: those of two containers that share the folder may be the same.
    partial = path.with_name(f'.{path.stem}.{secrets.token_hex(8)}.partial{path.suffix}')
    try:
        yield partial
        partial.replace(path)
    finally:
        if partial.exists():
            partial.unlink()


def way_to(path: Union[str, os.PathLike], folder: Union[str, os.PathLike]) -> str:
    """The path relative to a folder, if that leads there whether ``..`` is followed from link to
    link, as the system does, or struck out in the text, as Python's ``abspath`` does; else, where a
    symbolic link lies between, the absolute path."""
    absolute = os.path.abspath(path)
    relative = os.path.relpath(absolute, folder)
    joined = os.path.join(os.path.abspath(folder), relative)
    same = os.path.realpath(absolute)
    # realpath follows links as it goes: so does the system.
    if os.path.realpath(joined) == same == os.path.realpath(os.path.normpath(joined)):
        return relative
    return absolute
