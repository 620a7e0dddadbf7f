"""Generated data sets on disk: made once, in one step, and known by their parameters."""
import os
import tempfile
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence


def check_counts(num_images: Dict[str, int], splits: Sequence[str]) -> None:
    """Raise a ValueError unless there is a positive count of images for each split."""
    if set(num_images) != set(splits) or min(num_images.values()) < 1:
        raise ValueError(f'num_images must give a positive count for each of {splits}, '
                         f'got {num_images}')


def make_folder(root: Path, parameters: dict, read_parameters: Callable[[Path], Optional[dict]],
                write: Callable[[Path], None], overwrite: bool) -> Path:
    """Write a data set, or keep the one that is there.

    The folder appears in one step when all of it is written, so an interrupted call leaves no
    half-written data set behind.

    Args:
        root (Path): Folder to make.
        parameters (dict): What the data set is made with, as JSON would give it back.
        read_parameters (Callable): From a folder to the parameters of the data set in it, None
            where there is none.
        write (Callable): Fills the empty folder it is given.
        overwrite (bool): Replace what is at ``root``.

    Returns:
        Path: ``root``.

    Raises:
        FileExistsError: Something is at ``root`` that was not made with these parameters, and
            ``overwrite`` is off.
    """
    if root.exists() and not overwrite:
        found = read_parameters(root)
        if found != parameters:
            raise FileExistsError(f'{root} was not made with these parameters (found {found}, '
                                  f'wanted {parameters}): pass overwrite=True or choose another '
                                  'folder')
        return root

    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as scratch:
        fresh = Path(scratch) / 'fresh'
        fresh.mkdir()
        write(fresh)
        if root.exists():
            os.replace(root, Path(scratch) / 'old')
        os.replace(fresh, root)
    return root
