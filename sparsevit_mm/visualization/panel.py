"""Panels of kept windows beside prediction and ground truth drawn by the toolkit's visualizer."""
from typing import Dict, Optional, Sequence

import matplotlib
import numpy as np
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer

from .overlay import Counts, draw_panel

NAME = 'kept_windows'


class PanelPainter:
    """Draw panels of kept windows, prediction and ground truth.

    Args:
        settings: ``visualizer`` of a config; its backends are ignored. Without a visualizer that
            draws data samples, panels show the kept windows alone.
        dataset_meta: Classes and palette of the dataset; a missing palette is generated.
    """

    def __init__(self, settings: Optional[Dict], dataset_meta: Optional[Dict]):
        self.visualizer = None
        visualizer = _build(settings) if settings else None
        if visualizer and type(visualizer).add_datasample is not Visualizer.add_datasample:
            self.visualizer = visualizer
            if dataset_meta and dataset_meta.get('classes'):
                visualizer.dataset_meta = with_palette(dataset_meta)

    def panel(self, image: np.ndarray, stages: Sequence[Counts], title: str,
              prediction: Optional[BaseDataElement] = None,
              truth: Optional[BaseDataElement] = None) -> np.ndarray:
        """Draw a panel, see :func:`~.overlay.draw_panel`. The data samples use original image
        coordinates."""
        parts = {}
        if self.visualizer is not None:
            if prediction is not None:
                parts['prediction'] = self._draw(image, prediction, draw_gt=False)
            if truth is not None:
                parts['ground truth'] = self._draw(image, truth, draw_pred=False)
        return draw_panel(image, stages, parts, title)

    def _draw(self, image: np.ndarray, sample: BaseDataElement, **what) -> np.ndarray:
        self.visualizer.add_datasample(NAME, image, sample, show=False, **what)
        return self.visualizer.get_image()


def with_palette(dataset_meta: Dict) -> Dict:
    """Return the meta with an RGB colour (0 to 255) for each class if it has no palette."""
    if dataset_meta.get('palette'):
        return dict(dataset_meta)
    number = len(dataset_meta['classes'])
    colors = matplotlib.colormaps['gist_rainbow'](np.linspace(0, 1, number, endpoint=False))
    return dict(dataset_meta, palette=[tuple(map(int, c[:3] * 255)) for c in colors])


def _build(settings: Dict) -> Visualizer:
    """Build a visualizer separate from the Runner's. VISUALIZERS.build would make it the current
    instance, on which the toolkits' own hooks draw."""
    settings = {**settings, 'name': NAME, 'vis_backends': None, 'save_dir': None}
    kind = settings.pop('type')
    with VISUALIZERS.switch_scope_and_registry(settings.pop('_scope_', None)) as registry:
        cls = registry.get(kind) if isinstance(kind, str) else kind
    if cls is None:
        raise ValueError(f'visualizer {kind} of the config is not registered')
    return cls(**settings)
