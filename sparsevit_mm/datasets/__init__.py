from .mini_cityscapes import generate_mini_cityscapes
from .mini_coco import CLASSES, METAINFO, generate_mini_coco

__all__ = ['CLASSES', 'METAINFO', 'generate_mini_cityscapes', 'generate_mini_coco']
