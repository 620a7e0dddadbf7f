"""Comparison of configurations on a split that the search has not seen: metric with confidence
interval, latency, MACs."""
from copy import deepcopy
from dataclasses import dataclass
from typing import Dict, List, Sequence

from mmengine.config import Config

from ..config.reading import without_adaptation
from ..config.resolution import at_scale
from ..cost.latency import Latency, LatencySetting, Meter
from ..cost.macs import backbone_macs
from ..operating_point import image_scale
from ..sparsity import SparsityConfig
from .bootstrap import RESAMPLES
from .evaluator import Evaluator, make_meter
from .intervals import Interval, Resampled
from .metrics import default_metric


@dataclass
class Compared:
    """Results of one configuration.

    Attributes:
        name: Label of the configuration.
        config: The configuration.
        metrics: All metrics of the evaluator.
        latency: Latency, measured in turn with the other configurations.
        macs: MACs of the backbone.
        resampled: The objective on all images and on resamples of them: box AP or NDS in [0, 1],
            mIoU or top-1 accuracy in [0, 100].
    """
    name: str
    config: SparsityConfig
    metrics: Dict[str, float]
    latency: Latency
    macs: int
    resampled: Resampled

    @property
    def interval(self) -> Interval:
        """The objective with its 95% confidence interval."""
        return self.resampled.interval()

    def difference(self, other: 'Compared') -> Interval:
        """Return the difference to another objective on the same resamples, with its interval."""
        return (self.resampled - other.resampled).interval()


class Comparison:
    """Test of one checkpoint at several configurations on the config's test split.

    Args:
        cfg: The config. The default metric of its test evaluator is the objective.
        checkpoint: Checkpoint file of the whole model.
        setting: How to measure latency, of the backbone or of the whole model on test images.
        rounds: Number of latency runs of each configuration.
        knobs: Names of the model's knobs that configurations may set.
        scales: Image scales that configurations may set if the whole model is measured.

    Attributes:
        meter: Latency meter for the setting.

    Raises:
        ValueError: If the objective cannot be resampled, see
            :func:`~sparsevit_mm.evaluation.bootstrap.make_resampler`.
    """

    def __init__(self, cfg: Config, checkpoint: str, setting: LatencySetting, rounds: int = 7,
                 knobs: Sequence[str] = (), scales: Sequence[float] = ()):
        cfg = deepcopy(cfg)
        cfg.custom_hooks = without_adaptation(cfg.get('custom_hooks'))
        cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
        self._cfg = cfg
        self._evaluator = Evaluator(cfg, checkpoint, knobs=knobs)
        objective = default_metric(cfg)
        self._resample = self._evaluator.main.resampler(objective)
        if self._resample is None:
            raise ValueError(f'{type(self._evaluator.metric).__name__}: bootstrap of {objective} '
                             f'is not supported')
        self.meter = make_meter(self._evaluator, self._evaluator.main, setting, rounds,
                                scales)

    def run(self, configs: Dict[str, SparsityConfig],
            resamples: int = RESAMPLES) -> List[Compared]:
        """Evaluate configurations and measure their latency in turn.

        Args:
            configs: Configurations by name. Latency ratios are relative to the first.
            resamples: Number of bootstrap resamples.
        """
        setting, compared = self.meter.setting, []
        for (name, config), latency in zip(configs.items(),
                                           self.meter.measure(list(configs.values()))):
            metrics = self._evaluator.evaluate(config)
            scale = image_scale(config)
            shape = setting.shape if scale == 1 else at_scale(self._cfg, scale)[1]
            macs = backbone_macs(self._evaluator.backbone, shape, setting.batch_size, config)
            compared.append(Compared(name, config, metrics, latency, macs,
                                     self._resample(resamples)))
        return compared


def least_uniform(meter: Meter, ratio: float, choices: Sequence[float]) -> SparsityConfig:
    """Return the uniform baseline for a configuration: the highest uniform sparsity that is not
    faster, or dense if all choices are faster.

    Args:
        meter: Meter that measures the choices in turn.
        ratio: Latency of the configuration as a share of the dense latency.
        choices: Sparsity ratios to try.
    """
    configs = [meter.backbone.space.config(c) for c in (0., *choices)]
    slower = [c for c, l in zip(configs, meter.measure(configs)) if l.ratio >= ratio]
    return max(slower, key=lambda c: c.mean, default=configs[0])
