"""What a bootstrap draws: images, or where they are frames of videos, scenes or blocks of frames.

Frames of one scene resemble each other, so that drawing them one by one gives intervals that are
too narrow.
"""
import os
import re
from collections import Counter
from pathlib import PurePath
from typing import Hashable, List, NamedTuple, Optional, Sequence

import numpy as np

from .intervals import FEWEST_UNITS


class Frame(NamedTuple):
    """Attributes:
        sequence: The scene or sequence that an image belongs to.
        position: Where in it; only the order counts.
    """
    sequence: Hashable
    position: float


class Units(NamedTuple):
    """Attributes:
        of_image: (images,) int, the unit of each.
        text: '5000 images', '150 scenes', '16 blocks of 5 consecutive frames'.
    """
    of_image: np.ndarray
    text: str

    @property
    def number(self) -> int:
        return int(self.of_image.max()) + 1 if len(self.of_image) else 0


def find_units(num_images: int, frames: Optional[Sequence[Frame]] = None,
               block: Optional[int] = None, name: str = 'sequence') -> Units:
    """Scenes where there are ten or more of them; where there are fewer, blocks of consecutive
    frames within them; images where nothing says that they are frames.

    Args:
        num_images: Images.
        frames: What each is a frame of; None where that is not known.
        block: Frames of a block, which are then drawn in any case; of images that are not known as
            frames, in their order. By default the cube root of the number of frames, rounded up:
            its growth suits the variance of a mean (Hall, Horowitz and Jing 1995).
        name: What a sequence is called.
    """
    if frames is not None and len({f.sequence for f in frames}) == num_images:
        frames = None  # one image of each
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
    """Images of each sequence, as they follow each other."""
    if frames is None:
        return [list(range(num_images))]
    images = {}
    for i in sorted(range(num_images), key=lambda i: frames[i].position):
        images.setdefault(frames[i].sequence, []).append(i)
    return list(images.values())


def frames_of_files(paths: Sequence[str]) -> Optional[List[Frame]]:
    """Frames by file names that end with their number, before a suffix that all share:
    ``Seq05VD_f00330.png`` is number 330 of ``Seq05VD_f``. Its folder counts as well.

    Returns:
        None where names don't tell sequences: all are numbers of one, as those of photos are.
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
    """Frames by COCO's records of images: keys of the video formats, else file names."""
    for sequence, position in _OF_VIDEO:
        if images and all(sequence in image and position in image for image in images):
            return [Frame(image[sequence], image[position]) for image in images]
    if not all(image.get('file_name') for image in images):
        return None
    return frames_of_files([image['file_name'] for image in images])
