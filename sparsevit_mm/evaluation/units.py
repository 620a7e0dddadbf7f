"""Sampling units of a bootstrap: images or, if they are video frames, scenes or blocks of frames.

Frames of one scene are correlated, so drawing them individually gives too narrow intervals.
"""
import os
import re
from collections import Counter
from pathlib import PurePath
from typing import Hashable, List, NamedTuple, Optional, Sequence

import numpy as np

from .intervals import FEWEST_UNITS


class Frame(NamedTuple):
    """Position of an image in a video.

    Attributes:
        sequence: Scene or sequence that the image belongs to.
        position: Position within it; only the order matters.
    """
    sequence: Hashable
    position: float


class Units(NamedTuple):
    """Sampling units of a bootstrap.

    Attributes:
        of_image: (images,) int, index of the unit of each image.
        text: Description: '5000 images', '150 scenes', '16 blocks of 5 consecutive frames'.
    """
    of_image: np.ndarray
    text: str

    @property
    def number(self) -> int:
        return int(self.of_image.max()) + 1 if len(self.of_image) else 0


def find_units(num_images: int, frames: Optional[Sequence[Frame]] = None,
               block: Optional[int] = None, name: str = 'sequence') -> Units:
    """Choose the sampling units: scenes if there are at least ten, blocks of consecutive frames
    within scenes if there are fewer, and images if they are not known to be frames.

    Args:
        num_images: Number of images.
        frames: Frame of each image; None if unknown.
        block: Number of frames per block. If given, blocks are drawn in any case; images that are
            not known to be frames are then split in their order. Defaults to the cube root of the
            number of frames, rounded up: this rate is optimal for the variance of a mean (Hall,
            Horowitz and Jing 1995).
        name: Name of a sequence, such as 'scene'.
    """
    if frames is not None and len({f.sequence for f in frames}) == num_images:
        frames = None  # each sequence has one image
    if frames is None and (block is None or block == 1):
        return Units(np.arange(num_images), _count(num_images, 'image'))
    names = {sequence: i for i, sequence in enumerate(
        dict.fromkeys(f.sequence for f in frames or ()))}
    if block is None and len(names) >= FEWEST_UNITS:
        return Units(np.array([names[f.sequence] for f in frames]), _count(len(names), name))
    block = block or int(np.ceil(round(num_images**(1 / 3), 6)))
    of_image, number = np.zeros(num_images, int), 0
    for images in _ordered(num_images, frames):
        of_image[images] = number + np.arange(len(images)) // block
        number += -(-len(images) // block)
    return Units(of_image, f'{_count(number, "block")} of {block} consecutive frames')


def _count(number: int, name: str) -> str:
    return f'{number} {name}' if number == 1 else f'{number} {name}s'


def _ordered(num_images: int, frames: Optional[Sequence[Frame]]) -> List[List[int]]:
    """Return the image indices of each sequence in temporal order."""
    if frames is None:
        return [list(range(num_images))]
    images = {}
    for i in sorted(range(num_images), key=lambda i: frames[i].position):
        images.setdefault(frames[i].sequence, []).append(i)
    return list(images.values())


def frames_of_files(paths: Sequence[str]) -> Optional[List[Frame]]:
    """Derive frames from file names that end with a frame number, except for a common suffix.

    ``Seq05VD_f00330.png`` is frame 330 of ``Seq05VD_f``. The folder is part of the sequence.

    Returns:
        Frames; None if all files belong to one sequence, as numbered photos do.
    """
    stems = [PurePath(path).stem for path in paths]
    suffix = os.path.commonprefix([stem[::-1] for stem in stems])[::-1].lstrip('0123456789')
    frames = []
    for path, stem in zip(paths, stems):
        stem = stem[:len(stem) - len(suffix)]
        number = re.search(r'\d*$', stem).group()
        frames.append(Frame((str(PurePath(path).parent), stem[:len(stem) - len(number)]),
                            int(number or 0)))
    counts = Counter(frame.sequence for frame in frames)
    return frames if len(counts) > 1 else None


_OF_VIDEO = (('video_id', 'frame_id'), ('sid', 'fid'))  # CocoVID; Argoverse-HD


def frames_of_coco(images: Sequence[dict]) -> Optional[List[Frame]]:
    """Derive frames from COCO image records: from the keys of video formats, else file names."""
    for sequence, position in _OF_VIDEO:
        if images and all(sequence in image and position in image for image in images):
            return [Frame(image[sequence], image[position]) for image in images]
    if not all(image.get('file_name') for image in images):
        return None
    return frames_of_files([image['file_name'] for image in images])
