from .mini_coco import CLASSES, METAINFO, generate_mini_coco

__all__ = ['CLASSES', 'METAINFO', 'generate_mini_coco']
