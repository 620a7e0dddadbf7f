"""Atomic writes, and absolute and relative paths in the presence of symbolic links."""
import os
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union


@contextmanager
def replacing(path: Union[str, os.PathLike]) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to, with a unique name and the same suffix.

    On success the temporary file replaces `path`. On an error `path` is left unchanged and the
    temporary file is removed.
    """
    path = Path(path)
    # No process id: two containers that share the folder may have the same.
    partial = path.with_name(f'.{path.stem}.{secrets.token_hex(8)}.partial{path.suffix}')
    try:
        yield partial
        partial.replace(path)
    finally:
        if partial.exists():
            partial.unlink()


def absolute(path: Union[str, os.PathLike]) -> str:
    """Return the absolute path, without resolving symbolic links.

    If ``..`` follows a link, ``os.path.abspath`` may name another file, as it removes ``..`` from
    the text. The path that the system would follow, with links resolved, is returned then.
    """
    text = os.path.abspath(path)
    meant = os.path.realpath(path)  # follows links as it goes, as the system does
    return text if os.path.realpath(text) == meant else meant


def way_to(path: Union[str, os.PathLike], folder: Union[str, os.PathLike]) -> str:
    """Return the path relative to a folder.

    The relative path must lead to the same file whether ``..`` is followed through links, as the
    system does, or removed from the text, as ``os.path.abspath`` does. Otherwise return the
    absolute path.
    """
    target, start = absolute(path), absolute(folder)
    relative = os.path.relpath(target, start)
    joined = os.path.join(start, relative)
    same = os.path.realpath(target)
    if os.path.realpath(joined) == same == os.path.realpath(os.path.normpath(joined)):
        return relative
    return target
