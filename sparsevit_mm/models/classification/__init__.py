"""Heads for mmpretrain: importing this registers them there."""
from .heads import EvoClsHead, EvoLeViTClsHead

__all__ = ['EvoClsHead', 'EvoLeViTClsHead']
