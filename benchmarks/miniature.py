"""Parts of the demo that benchmarks use: its generators, its configs, and its runner of tools."""
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1] / 'demo'
CONFIGS = DEMO / 'configs'
sys.path.insert(0, str(DEMO))

from generators import (generate_mini_cityscapes, generate_mini_coco,  # noqa: E402
                        generate_mini_nuscenes)
from steps import Steps  # noqa: E402

__all__ = ['CONFIGS', 'Steps', 'generate_mini_cityscapes', 'generate_mini_coco',
           'generate_mini_nuscenes']
