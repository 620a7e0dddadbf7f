"""The labels of Cityscapes by name, as defined by its paper and scripts."""
from typing import NamedTuple, Tuple

import numpy as np


class Label(NamedTuple):
    """Ids and colour that represent a class in the files."""
    id: int
    train_id: int  # 255: ignored in training and scoring
    has_instances: bool
    colour: Tuple[int, int, int]  # RGB


LABELS = {
    'unlabeled': Label(0, 255, False, (0, 0, 0)),
    'ego vehicle': Label(1, 255, False, (0, 0, 0)),
    'rectification border': Label(2, 255, False, (0, 0, 0)),
    'out of roi': Label(3, 255, False, (0, 0, 0)),
    'static': Label(4, 255, False, (0, 0, 0)),
    'dynamic': Label(5, 255, False, (111, 74, 0)),
    'ground': Label(6, 255, False, (81, 0, 81)),
    'road': Label(7, 0, False, (128, 64, 128)),
    'sidewalk': Label(8, 1, False, (244, 35, 232)),
    'parking': Label(9, 255, False, (250, 170, 160)),
    'rail track': Label(10, 255, False, (230, 150, 140)),
    'building': Label(11, 2, False, (70, 70, 70)),
    'wall': Label(12, 3, False, (102, 102, 156)),
    'fence': Label(13, 4, False, (190, 153, 153)),
    'guard rail': Label(14, 255, False, (180, 165, 180)),
    'bridge': Label(15, 255, False, (150, 100, 100)),
    'tunnel': Label(16, 255, False, (150, 120, 90)),
    'pole': Label(17, 5, False, (153, 153, 153)),
    'polegroup': Label(18, 255, False, (153, 153, 153)),
    'traffic light': Label(19, 6, False, (250, 170, 30)),
    'traffic sign': Label(20, 7, False, (220, 220, 0)),
    'vegetation': Label(21, 8, False, (107, 142, 35)),
    'terrain': Label(22, 9, False, (152, 251, 152)),
    'sky': Label(23, 10, False, (70, 130, 180)),
    'person': Label(24, 11, True, (220, 20, 60)),
    'rider': Label(25, 12, True, (255, 0, 0)),
    'car': Label(26, 13, True, (0, 0, 142)),
    'truck': Label(27, 14, True, (0, 0, 70)),
    'bus': Label(28, 15, True, (0, 60, 100)),
    'caravan': Label(29, 255, True, (0, 0, 90)),
    'trailer': Label(30, 255, True, (0, 0, 110)),
    'train': Label(31, 16, True, (0, 80, 100)),
    'motorcycle': Label(32, 17, True, (0, 0, 230)),
    'bicycle': Label(33, 18, True, (119, 11, 32)),
}
# Indexed by label id.
TRAIN_IDS = np.array([label.train_id for label in LABELS.values()], np.uint8)
COLOURS = np.array([label.colour for label in LABELS.values()], np.uint8)


def label_ids(ids: np.ndarray) -> np.ndarray:
    """Convert instance ids (1000 * label id + number, or the label id itself) to uint8 label ids.
    """
    return np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
