"""Generated data sets on disk: written once and in one step, and identified by their parameters."""
import os
import tempfile
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence


def check_counts(num_images: Dict[str, int], splits: Sequence[str]) -> None:
    """Raise a ValueError unless ``num_images`` gives exactly these splits positive counts."""
    if set(num_images) != set(splits) or min(num_images.values()) < 1:
        raise ValueError(f'num_images must give a positive count for each of {splits}, '
                         f'got {num_images}')


def make_folder(root: Path, parameters: dict, read_parameters: Callable[[Path], Optional[dict]],
                write: Callable[[Path], None], overwrite: bool) -> Path:
    """Write a data set, or keep an existing one with the same parameters.

    The folder appears in one step once it is complete, so an interrupted call leaves no
    half-written data set behind.

    Args:
        root (Path): Folder to create.
        parameters (dict): Parameters of the data set, as a JSON round trip returns them.
        read_parameters (Callable): Returns the parameters of the data set in a folder, or None if
            it holds none.
        write (Callable): Fills the empty folder it is given.
        overwrite (bool): Whether to replace ``root`` if it exists.

    Returns:
        Path: ``root``.

    Raises:
        FileExistsError: If ``root`` exists with other parameters and ``overwrite`` is False.
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
