"""Export to ONNX and torch.export, see docs/deployment.md.

The ONNX packages are imported only when they are used.
"""
from .check import check_onnx, check_program, measure_onnx, open_session
from .export import export_onnx, export_program

__all__ = ['check_onnx', 'check_program', 'export_onnx', 'export_program', 'measure_onnx',
           'open_session']
