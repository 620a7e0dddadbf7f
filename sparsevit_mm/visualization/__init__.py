"""Figures of kept windows, breakdowns and masks. Needs matplotlib. Importing it registers
`KeptWindowsHook` in mmengine's root registry."""
from .kept_windows_hook import KeptWindowsHook

__all__ = ['KeptWindowsHook']
