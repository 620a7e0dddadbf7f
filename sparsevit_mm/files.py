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


def absolute(path: Union[str, os.PathLike]) -> str:
    """The absolute path, symbolic links as they were named; but where ``..`` follows one, which
    Python's ``abspath`` strikes out in the text, the place that the system means."""
    text = os.path.abspath(path)
    meant = os.path.realpath(path)  # follows links as it goes, as the system does
    return text if os.path.realpath(text) == meant else meant


def way_to(path: Union[str, os.PathLike], folder: Union[str, os.PathLike]) -> str:
    """The path relative to a folder, if that leads there whether ``..`` is followed from link to
    link, as the system does, or struck out in the text, as Python's ``abspath`` does; else, where a
    symbolic link lies between, the absolute path."""
    target, start = absolute(path), absolute(folder)
    relative = os.path.relpath(target, start)
    joined = os.path.join(start, relative)
    same = os.path.realpath(target)
    if os.path.realpath(joined) == same == os.path.realpath(os.path.normpath(joined)):
        return relative
    return target
