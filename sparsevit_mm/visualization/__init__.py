"""Figures of searches and of kept windows. Importing it registers `KeptWindowsHook` in mmengine's
root registry; it needs matplotlib."""
from .kept_windows_hook import KeptWindowsHook

__all__ = ['KeptWindowsHook']
