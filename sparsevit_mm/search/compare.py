"""Configurations side by side on a split the search never saw: metric, latency, MACs, interval."""
import io
import json
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np
from mmengine.config import Config
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..config import without_adaptation
from ..cost.latency import Latency, LatencyMeter
from ..cost.macs import backbone_macs
from ..sparsity import SparsityConfig
from .evaluator import Evaluator


@dataclass
class Compared:
    """One configuration.

    Attributes:
        name: What it stands for.
        config: The configuration.
        metrics: All that the evaluator gave.
        latency: Interleaved with the others.
        macs: Of the backbone.
        ap: Box AP of each bootstrap resample of the images.
    """
    name: str
    config: SparsityConfig
    metrics: Dict[str, float]
    latency: Latency
    macs: int
    ap: np.ndarray

    @property
    def interval(self) -> Tuple[float, float]:
        """95% bootstrap interval of box AP over images."""
        return tuple(np.percentile(self.ap, (2.5, 97.5)))

    def difference(self, other: 'Compared') -> Tuple[float, float]:
        """95% interval of this box AP less another's, over the same resampled images."""
        return tuple(np.percentile(self.ap - other.ap, (2.5, 97.5)))


def compare_on_coco(cfg: Config, checkpoint: str, configs: Dict[str, SparsityConfig],
                    meter: LatencyMeter, build_runner: Callable, work_dir: Path,
                    resamples: int = 300) -> List[Compared]:
    """Tests one checkpoint at several configurations with the config's test split and CocoMetric.

    Args:
        cfg: The config.
        checkpoint: Checkpoint file of the whole model.
        configs: By name.
        meter: Measures the latencies, all of them in turn.
        build_runner: Config -> mmengine Runner.
        work_dir: Where the detections of each configuration go.
        resamples: Of the bootstrap over images.
    """
    cfg = deepcopy(cfg)
    cfg.custom_hooks = without_adaptation(cfg.get('custom_hooks'))
    cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
    cfg.val_evaluator.outfile_prefix = str(work_dir / 'detections')
    evaluator = Evaluator(cfg, checkpoint, build_runner)
    detections = work_dir / 'detections.bbox.json'
    latencies = meter.measure(list(configs.values()))
    compared = []
    for (name, config), latency in zip(configs.items(), latencies):
        detections.unlink(missing_ok=True)
        metrics = evaluator.evaluate(config)
        found = json.loads(detections.read_text()) if detections.exists() else []
        compared.append(
            Compared(name, config, metrics, latency,
                     backbone_macs(evaluator.backbone, meter.setting.shape,
                                   meter.setting.batch_size, config),
                     bootstrap_box_ap(cfg.val_evaluator.ann_file, found, resamples)))
    return compared


def bootstrap_box_ap(ann_file: str, detections: List[Dict], resamples: int,
                     seed: int = 0) -> np.ndarray:
    """Box AP (COCO, 0.50:0.95) of resamples of the images, (resamples,) float64.

    The resamples depend on the seed and the number of images alone, so those of two models can
    be subtracted.
    """
    if not detections:
        return np.zeros(resamples)
    with redirect_stdout(io.StringIO()):  # pycocotools talks
        return _bootstrap(COCO(ann_file), detections, resamples, np.random.default_rng(seed))


def _bootstrap(truth: COCO, detections: List[Dict], resamples: int,
               rng: np.random.Generator) -> np.ndarray:
    evaluation = COCOeval(truth, truth.loadRes(detections), 'bbox')
    evaluation.params.areaRng = evaluation.params.areaRng[:1]  # all sizes
    evaluation.params.areaRngLbl = ['all']
    evaluation.params.maxDets = [100]
    evaluation.evaluate()
    num_images = len(evaluation.params.imgIds)
    per_image = np.array(evaluation.evalImgs, dtype=object).reshape(-1, num_images)
    # COCOeval looks images up by position: positions may stand for any images, repeated too.
    evaluation.params.imgIds = evaluation._paramsEval.imgIds = list(range(num_images))
    values = np.empty(resamples)
    for i in range(resamples):
        drawn = rng.integers(num_images, size=num_images)
        evaluation.evalImgs = per_image[:, drawn].reshape(-1).tolist()
        evaluation.accumulate()
        precision = evaluation.eval['precision']
        values[i] = precision[precision > -1].mean()
    return values


def least_uniform(meter: LatencyMeter, ratio: float, choices: Sequence[float]) -> SparsityConfig:
    """The uniform sparsity to set beside a configuration that takes `ratio` of the dense latency:
    the highest one that is not faster than that.

    Args:
        meter: Measures the choices in turn.
        ratio: Of the dense latency.
        choices: Ratios of sparsity to try.
    """
    configs = [SparsityConfig(c, meter.backbone.depths) for c in (0., *choices)]
    slower = [c for c, l in zip(configs, meter.measure(configs)) if l.ratio >= ratio]
    return max(slower, key=lambda c: c.mean, default=configs[0])
