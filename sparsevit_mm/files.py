"""Files that appear whole or not at all."""
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union


@contextmanager
def replacing(path: Union[str, os.PathLike]) -> Iterator[Path]:
    """A file beside `path`, of its suffix and this process alone, to write to. It takes the place
    of `path` if all goes well; else what stood there stays, and nothing else is left."""
    path = Path(path)
    partial = path.with_name(f'.{path.stem}.{os.getpid()}.partial{path.suffix}')
    try:
        yield partial
        partial.replace(path)
    finally:
        if partial.exists():
            partial.unlink()
