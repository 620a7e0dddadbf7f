"""Adaptation of mmdet3d's NuScenesMetric and the nuScenes devkit to the needs of a search."""
import io
import math
from contextlib import redirect_stderr
from typing import Dict, List

import mmengine

from ..compat import replaced

EVAL_SETS = {'v1.0-mini': 'mini_val', 'v1.0-trainval': 'val'}
"""The split that NuScenesMetric scores, by version of the tables."""

_NO_BOXES = 'Invalid box type: None'  # the devkit's error if no frame has any box


def accept_any_predictions(metric) -> None:
    """Patch a NuScenesMetric to return a result for predictions on which it or the devkit fails.

    The result is empty if no frame has a box within the scored range, as with CocoMetric, and an
    NDS of NaN if a box is NaN. Other predictions that the devkit rejects, such as more than 500
    boxes in a frame, raise a ValueError. Progress bars are hidden.
    """
    compute = metric.compute_metrics

    def compute_any(results: List[Dict]) -> Dict[str, float]:
        if any(_has_nan(result['pred_instances_3d']) for result in results):
            return {'pred_instances_3d_NuScenes/NDS': math.nan}
        try:
            # Hide the devkit's progress bars on stderr, and mmengine's, which bound stdout at
            # import
            with redirect_stderr(io.StringIO()), replaced(
                    mmengine, 'track_iter_progress', iter):
                return compute(results)
        except AssertionError as error:
            raise ValueError(f'the nuScenes devkit rejects the predictions: {error}') from error
        except Exception as error:
            if _NO_BOXES in str(error):
                return {}
            raise

    metric.compute_metrics = compute_any


def _has_nan(predictions: Dict) -> bool:
    """Whether a box or score is NaN. The devkit accepts velocities that are NaN."""
    boxes = predictions['bboxes_3d'].tensor[:, :7]
    return bool(boxes.isnan().any() or predictions['scores_3d'].isnan().any())
