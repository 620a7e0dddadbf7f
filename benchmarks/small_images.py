"""Small images in one folder per class, and their augmentation in batches."""
from pathlib import Path
from typing import Optional, Tuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsevit_mm.files import replacing

SIZE = 32
MEAN, STD = torch.tensor([123.7, 116.3, 103.5]), torch.tensor([58.4, 57.1, 57.4])


def read_image(path: Path) -> np.ndarray:
    """Read an image, (H, W, 3) uint8 RGB; raise a ValueError unless it is an image of SIZE."""
    image = cv2.imread(str(path))
    if image is None or image.shape[:2] != (SIZE, SIZE):
        raise ValueError(f'{path} is not an image of {SIZE}x{SIZE}')
    return image[..., ::-1]


def read_images(folder: Path, cache: Path, per_class: Optional[int]) -> Tuple[Tensor, Tensor]:
    """Read the first `per_class` images of each class by file name, or all if None.

    Args:
        folder: Folder with one folder per class.
        cache: File that the images are written to, or read from if it exists.
        per_class: Number of images per class.

    Returns:
        Images (N, 3, H, W) uint8 RGB, and labels (N,) int64.

    Raises:
        FileNotFoundError: If there are no folders of classes.
    """
    if not cache.exists():
        classes = sorted(path for path in folder.glob('*') if path.is_dir())
        if not classes:
            raise FileNotFoundError(f'{folder} contains no class folders')
        files = [(path, label) for label, of_class in enumerate(classes)
                 for path in sorted(of_class.iterdir())[:per_class]]
        images = np.stack([read_image(path) for path, _ in files])
        cache.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cache) as partial_file:
            np.savez(partial_file, images=images, labels=[label for _, label in files])
    with np.load(cache) as pack:
        images, labels = torch.from_numpy(pack['images']), torch.from_numpy(pack['labels'])
    return images.permute(0, 3, 1, 2).contiguous(), labels


def normalised(images: Tensor) -> Tensor:
    return (images.float() - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip at random, and crop at random after padding by 4 pixels."""
    padded = F.pad(images, (4, ) * 4)
    flips = torch.rand(len(images), generator=generator) < .5
    offsets = torch.randint(9, (len(images), 2), generator=generator).tolist()
    crops = torch.stack([image[:, y:y + SIZE, x:x + SIZE]
                         for image, (y, x) in zip(padded, offsets)])
    crops[flips] = crops[flips].flip(-1)
    return crops
