"""Configurations side by side on a split the search never saw: metric, latency, MACs, interval."""
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
    """One configuration.

    Attributes:
        name: What it stands for.
        config: The configuration.
        metrics: All that the evaluator gave.
        latency: Interleaved with the others.
        macs: Of the backbone.
        resampled: The objective, on all images and on resamples of them: box AP or NDS in [0, 1],
            or mIoU in [0, 100].
    """
    name: str
    config: SparsityConfig
    metrics: Dict[str, float]
    latency: Latency
    macs: int
    resampled: Resampled

    @property
    def interval(self) -> Interval:
        """The objective with its 95% interval."""
        return self.resampled.interval()

    def difference(self, other: 'Compared') -> Interval:
        """This objective less another's, on the same resamples."""
        return (self.resampled - other.resampled).interval()


class Comparison:
    """Tests one checkpoint at several configurations with the config's test split.

    Args:
        cfg: The config; the usual metric of its test evaluator is the objective.
        checkpoint: Checkpoint file of the whole model.
        setting: In which latency is measured, of the backbone or of the whole model on test images.
        rounds: How often each configuration is run.
        knobs: Names of the knobs of the model that configurations may set.
        scales: Image scales that they may set, where the latency is of the model.

    Attributes:
        meter: Measures in the setting.

    Raises:
        ValueError: Nothing gives resamples of the objective, see
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
            raise ValueError(f'{type(self._evaluator.metric).__name__} has no resamples of '
                             f'{objective}')
        self.meter = make_meter(self._evaluator, self._evaluator.main, setting, rounds,
                                scales)

    def run(self, configs: Dict[str, SparsityConfig],
            resamples: int = RESAMPLES) -> List[Compared]:
        """All that there is to say of configurations, given by name; latency in turn.

        Args:
            configs: By name.
            resamples: Of the bootstrap.
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
    """The uniform sparsity to set beside a configuration that takes `ratio` of the dense latency:
    the highest one that is not faster than that.

    Args:
        meter: Measures the choices in turn.
        ratio: Of the dense latency.
        choices: Ratios of sparsity to try.
    """
    configs = [meter.backbone.space.config(c) for c in (0., *choices)]
    slower = [c for c, l in zip(configs, meter.measure(configs)) if l.ratio >= ratio]
    return max(slower, key=lambda c: c.mean, default=configs[0])
