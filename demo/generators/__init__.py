from .mini_cityscapes import generate_mini_cityscapes
from .mini_coco import CLASSES, METAINFO, generate_mini_coco
from .mini_nuscenes import generate_mini_nuscenes

__all__ = [
    'CLASSES', 'METAINFO', 'generate_mini_cityscapes', 'generate_mini_coco',
    'generate_mini_nuscenes'
]
