"""mmdet3d's NuScenesMetric and the devkit beneath it, where a search needs more than they give."""
import io
import math
from contextlib import redirect_stderr
from typing import Dict, List

import mmengine

from ..compat import replaced

EVAL_SETS = {'v1.0-mini': 'mini_val', 'v1.0-trainval': 'val'}
"""The split that NuScenesMetric scores, by version of the tables."""

_NO_BOXES = 'Invalid box type: None'  # what the devkit says where no frame has any box


def accept_any_predictions(metric) -> None:
    """Makes a NuScenesMetric give a value for predictions that it or the devkit stops at: no
    metrics where no frame has a box in the range that is scored, as CocoMetric does, and NaN as
    NDS where a box is NaN.

    What they refuse otherwise, more than 500 boxes in a frame say, becomes a ValueError. Their
    progress bars are left out.
    """
    compute = metric.compute_metrics

    def compute_any(results: List[Dict]) -> Dict[str, float]:
        if any(_has_nan(result['pred_instances_3d']) for result in results):
            return {'pred_instances_3d_NuScenes/NDS': math.nan}
        try:
            # Progress bars: the devkit's, and mmengine's that bound the console on import.
            with redirect_stderr(io.StringIO()), replaced(
                    mmengine, 'track_iter_progress', iter):
                return compute(results)
        except AssertionError as error:
            raise ValueError(f'the nuScenes devkit refuses to score this: {error}') from error
        except Exception as error:
            if _NO_BOXES in str(error):
                return {}
            raise

    metric.compute_metrics = compute_any


def _has_nan(predictions: Dict) -> bool:
    """Of velocities the devkit takes NaN itself."""
    boxes = predictions['bboxes_3d'].tensor[:, :7]
    return bool(boxes.isnan().any() or predictions['scores_3d'].isnan().any())
