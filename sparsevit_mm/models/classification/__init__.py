"""Classification heads for mmpretrain. Importing this package registers them there."""
from .heads import EvoClsHead, EvoLeViTClsHead

__all__ = ['EvoClsHead', 'EvoLeViTClsHead']
