"""Configurations side by side on a split the search never saw: metric, latency, MACs, interval."""
from copy import deepcopy
from dataclasses import dataclass
from typing import Dict, List, Sequence

from mmengine.config import Config

from ..config.reading import without_adaptation
from ..cost.latency import Latency, LatencyMeter
from ..cost.macs import backbone_macs
from ..sparsity import SparsityConfig
from .bootstrap import RESAMPLES
from .evaluator import Evaluator
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


def compare_on_test(cfg: Config, checkpoint: str, configs: Dict[str, SparsityConfig],
                    meter: LatencyMeter, resamples: int = RESAMPLES) -> List[Compared]:
    """Tests one checkpoint at several configurations with the config's test split.

    Args:
        cfg: The config; the usual metric of its test evaluator is the objective.
        checkpoint: Checkpoint file of the whole model.
        configs: By name.
        meter: Measures the latencies, all of them in turn.
        resamples: Of the bootstrap.

    Raises:
        ValueError: Nothing gives resamples of it, see
            :func:`~sparsevit_mm.evaluation.bootstrap.make_resampler`.
    """
    cfg = deepcopy(cfg)
    cfg.custom_hooks = without_adaptation(cfg.get('custom_hooks'))
    cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
    evaluator = Evaluator(cfg, checkpoint)
    metric, objective = evaluator.metric, default_metric(cfg)
    resample = evaluator.main.resampler(objective)
    if resample is None:
        raise ValueError(f'{type(metric).__name__} has no resamples of {objective}')
    setting, compared = meter.setting, []
    for (name, config), latency in zip(configs.items(), meter.measure(list(configs.values()))):
        metrics = evaluator.evaluate(config)
        macs = backbone_macs(evaluator.backbone, setting.shape, setting.batch_size, config)
        compared.append(Compared(name, config, metrics, latency, macs, resample(resamples)))
    return compared


def least_uniform(meter: LatencyMeter, ratio: float, choices: Sequence[float]) -> SparsityConfig:
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
