"""A miniature Cityscapes: generated streets in Cityscapes' on-disk layout.

``mmseg.CityscapesDataset`` reads it; ``mmseg.IoUMetric`` and ``mmseg.CityscapesMetric`` score it.
Unlike in the real data set, the test split has ground truth.
"""
import json
from pathlib import Path
from typing import Dict, Optional, Tuple

import cv2
import numpy as np

from .cityscapes_labels import COLOURS, TRAIN_IDS, label_ids
from .folder import check_counts, make_folder
from .streets import draw_street

# Part of the parameters that identify a data set; increase it when the images change.
VERSION = '1.0'
# Fictional cities, so that no file is mistaken for one of the real data set.
CITIES = dict(
    train=('almstadt', 'birkheim', 'dornwald', 'eschbruck'),
    val=('lindfeld', 'moosbrunn'),
    test=('rotwald', 'tannhagen', 'weidenburg'))
SPLITS = tuple(CITIES)
FRAME = 19  # annotated frame of each snippet
MIN_SIDE = 32
PARAMETERS = 'mini_cityscapes.json'


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise OSError(f'could not write {path}')


def _write_split(root: Path, split: str, count: int, size: Tuple[int, int], seed: int) -> None:
    """Draw and write the images and labels of one split."""
    cities = CITIES[split]
    for index in range(count):
        # One random stream per image, so that more images never change the earlier ones.
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        picture, ids = draw_street(*size, rng)
        labels = label_ids(ids)
        city, sequence = cities[index % len(cities)], index // len(cities)
        name = f'{split}/{city}/{city}_{sequence:06d}_{FRAME:06d}'
        _write_image(root / f'leftImg8bit/{name}_leftImg8bit.png', picture[..., ::-1])
        for kind, image in dict(
                labelIds=labels,
                labelTrainIds=TRAIN_IDS[labels],
                instanceIds=ids,
                color=cv2.cvtColor(COLOURS[labels], cv2.COLOR_RGB2BGRA)).items():
            _write_image(root / f'gtFine/{name}_gtFine_{kind}.png', image)


def _read_parameters(root: Path) -> Optional[dict]:
    """Return the parameters of the data set at ``root``, or None if there is none."""
    path = root / PARAMETERS
    return json.loads(path.read_text()) if path.is_file() else None


def generate_mini_cityscapes(root,
                             num_images: Optional[Dict[str, int]] = None,
                             image_size: Tuple[int, int] = (128, 256),
                             seed: int = 0,
                             overwrite: bool = False) -> Path:
    """Write a miniature Cityscapes, or keep an existing one with the same parameters.

    The folder appears in one step once it is complete, so an interrupted call leaves no
    half-written data set behind.

    Args:
        root (str | Path): Folder to create, with
            ``leftImg8bit/{split}/{city}/{city}_{sequence}_{frame}_leftImg8bit.png`` and
            ``gtFine/{split}/{city}/{city}_{sequence}_{frame}_gtFine_{kind}.png`` for the splits
            train, val and test and the kinds labelIds, labelTrainIds, instanceIds (16 bit) and
            color.
        num_images (dict[str, int], optional): Images per split; 500, 80 and 120 by default.
        image_size (tuple[int, int]): Height and width in pixels.
        seed (int): Random seed. Image i of a split depends only on the seed, the image size, the
            split and i.
        overwrite (bool): Whether to replace ``root`` if it exists.

    Returns:
        Path: ``root``.

    Raises:
        ValueError: If ``num_images`` does not give the three splits positive counts, or
            ``image_size`` is not two numbers of at least 32.
        FileExistsError: If ``root`` exists with other parameters and ``overwrite`` is False.
    """
    num_images = dict(num_images or dict(train=500, val=80, test=120))
    check_counts(num_images, SPLITS)
    image_size = list(image_size)
    if len(image_size) != 2 or min(image_size) < MIN_SIDE:
        raise ValueError(f'image_size must be (height, width) of {MIN_SIDE} pixels or more, '
                         f'got {image_size}')
    parameters = dict(
        description='Miniature Cityscapes of generated streets',
        version=VERSION,
        num_images=num_images,
        image_size=image_size,
        seed=seed)

    def write(folder: Path) -> None:
        for split in SPLITS:
            _write_split(folder, split, num_images[split], image_size, seed)
        (folder / PARAMETERS).write_text(json.dumps(parameters, indent=2) + '\n')

    return make_folder(Path(root), parameters, _read_parameters, write, overwrite)
