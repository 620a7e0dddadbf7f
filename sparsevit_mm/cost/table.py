"""Latency table: predicts the latency of every configuration from measurements on a device."""
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from ..files import replacing
from ..models import SparseBackbone
from ..sparsity import Sparsity, SparsityConfig, SparsitySpace
from .additive import AdditiveModel, Stage
from .check import Check, check
from .latency import LatencyMeter, LatencySetting, Meter
from .macs import backbone_macs
from .runs import Draws, Progress, collect, windows_kept

VERSION = 1
RULES = ('group', 'nested', 'dense')  # rules of a SparsitySpace; defaults, Swin's, are not saved


@dataclass(frozen=True)
class LatencyTable:
    """Table that predicts the latency of one backbone in one setting.

    Attributes:
        setting: See :meth:`~.latency.LatencySetting.identity`.
        backbone: See :func:`backbone_identity`.
        choices: Measured sparsity ratios. In between, costs are interpolated in the kept windows;
            above the highest ratio they are constant.
        dense: Milliseconds of the dense configuration.
        stages: Costs of each stage relative to the dense configuration.
        check: Accuracy of the table.
        space: Space of the configurations that are made up of the choices.
    """
    setting: Dict
    backbone: Dict
    choices: Tuple[float, ...]
    dense: float
    stages: List[Stage]
    check: Check

    def __post_init__(self):
        rules = {name: self.backbone[name] for name in RULES if name in self.backbone}
        space = SparsitySpace(tuple(self.backbone['depths']), self.choices, **rules)
        object.__setattr__(self, 'space', space)
        known: List[Dict[Tuple[float, ...], float]] = [{} for _ in self.stages]
        object.__setattr__(self, '_known', known)

    @classmethod
    def measure(cls, backbone: SparseBackbone, setting: LatencySetting, budget: float,
                seed: int = 0, progress: Optional[Progress] = None,
                meter: Optional[Meter] = None) -> 'LatencyTable':
        """Measure, fit and check a table.

        Args:
            backbone: Sparse backbone. It is not changed.
            setting: Setting to measure in.
            budget: Time budget in seconds.
            seed: Seed of the configurations to measure.
            progress: Callback that receives, after each run, the seconds spent and the number of
                distinct configurations measured.
            meter: Meter for the setting; by default it measures the backbone alone.

        Raises:
            ValueError: If the budget is invalid or too small, or too few configurations differ.
        """
        space, totals = backbone.space, backbone.totals(setting.shape)
        draws = Draws(space, totals, np.random.default_rng(seed))
        runs = collect(meter or LatencyMeter(backbone, setting), draws, budget, progress)
        macs = _saved_macs(backbone, setting, space, totals)
        model = AdditiveModel([sorted(saved) for saved in macs], totals, macs)
        dense, stages, state = model.fit(runs)
        found = check(runs, state, lambda kept: dense + sum(
            stage.latency(blocks) for stage, blocks in zip(stages, kept)))
        return cls(setting.identity(), backbone_identity(backbone), space.choices, dense, stages,
                   found)

    @property
    def noise(self) -> float:
        """Milliseconds by which repeated measurements of the dense configuration may differ."""
        return self.check.spread * self.dense

    def predict(self, config: Sparsity) -> float:
        """Predict milliseconds. Plain and shifted blocks of a pair have equal costs.

        Raises:
            ValueError, TypeError: If `config` is not a configuration of this backbone.
        """
        if not isinstance(config, SparsityConfig) or config.depths != self.space.depths:
            config = self.space.config(config)
        latency = self.dense
        for stage, ratios, known in zip(self.stages, config.ratios, self._known):
            if ratios not in known:
                known[ratios] = stage.latency([stage.keeps(ratio) for ratio in ratios])
            latency += known[ratios]
        return latency

    def plateaus(self) -> List[List[Tuple[float, ...]]]:
        """Return the choices of each stage, ascending, in groups of about equal cost: a ratio saves
        at most the noise, divided by the number of genes, over the lowest ratio of its group."""
        tolerance = self.noise / self.space.num_genes
        return [self._groups(stage, min(depth, self.space.group), tolerance)
                for stage, depth in zip(self.stages, self.space.depths)]

    def _groups(self, stage: Stage, blocks: int, tolerance: float) -> List[Tuple[float, ...]]:
        groups: List[List[float]] = []
        lowest = np.inf  # cost of the first ratio of the last group
        for ratio in self.choices:
            kept = stage.keeps(ratio)
            cost = blocks * stage.block(kept)  # of the blocks that share a gene
            if kept < stage.total:
                cost += min(stage.fixed, 0.)  # a saving that ends when the stage is dense
            if groups and cost >= lowest - tolerance:
                groups[-1].append(ratio)
            else:
                groups.append([ratio])
                lowest = cost
        return [tuple(group) for group in groups]

    def canonical(self, config: Sparsity) -> SparsityConfig:
        """Lower each ratio of a configuration to the lowest of its plateau. The result prunes less,
        and is predicted to be slower by no more than the noise.

        Raises:
            ValueError: If the configuration is not in the space of the choices.
        """
        space = self.space
        lowest = [{r: group[0] for group in groups for r in group} for groups in self.plateaus()]
        ratios = space.config(config)
        space.encode(ratios)  # raises
        return SparsityConfig([[lowest[s][r] for r in stage]
                               for s, stage in enumerate(ratios.ratios)], space.depths)

    def require(self, backbone: SparseBackbone, setting: LatencySetting) -> None:
        """Check that the table was measured for a backbone and in a setting.

        Raises:
            ValueError: If it was not. The message lists the differences.
        """
        here = {**setting.identity(), **backbone_identity(backbone)}
        table = {'of': 'backbone', **self.setting, **self.backbone}  # all that 0.1 measured
        differences = [f'{key}: {table.get(key)} in the table, {here.get(key)} here'
                       for key in {**table, **here} if table.get(key) != here.get(key)]
        if differences:
            raise ValueError('the latency table was measured for another backbone or setting:\n  ' +
                             '\n  '.join(differences))

    def save(self, path: Union[str, Path]) -> None:
        """Write the table as JSON. The write is atomic."""
        with replacing(path) as partial:
            partial.write_text(json.dumps({'version': VERSION, **asdict(self)}, indent=1,
                                          allow_nan=False), encoding='utf-8')

    @classmethod
    def load(cls, path: Union[str, Path]) -> 'LatencyTable':
        """Read a table that :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not a latency table of this version. The message names the
                file and the fault.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f'latency table {path} does not exist')
        try:
            return cls._from_json(json.loads(path.read_text(encoding='utf-8')))
        except KeyError as error:
            raise ValueError(f'{path} is not a latency table: {error} is missing') from None
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f'{path} is not a latency table: {error}') from None

    @classmethod
    def _from_json(cls, record: Dict) -> 'LatencyTable':
        if record['version'] != VERSION:
            raise ValueError(f'version {record["version"]!r} is not supported, only {VERSION}')
        _check_finite(record, 'table')
        stages = [Stage(**{f.name: stage[f.name] for f in fields(Stage)})
                  for stage in record['stages']]
        found = Check(**{f.name: record['check'][f.name] for f in fields(Check)})
        choices = SparsitySpace((), record['choices']).choices
        table = cls(record['setting'], record['backbone'], choices, float(record['dense']), stages,
                    found)
        if len(stages) != len(table.space.depths):
            raise ValueError(f'{len(stages)} stages for depths {table.space.depths}')
        if table.dense <= 0:
            raise ValueError(f'dense latency {table.dense} is not positive')
        for s, stage in enumerate(stages):
            if len(stage.kept) != len(stage.costs):
                raise ValueError(f'stage {s} has {len(stage.kept)} numbers of windows and '
                                 f'{len(stage.costs)} costs')
            if any(a >= b for a, b in zip([0, *stage.kept], [*stage.kept, stage.total])):
                raise ValueError(f'stage {s} keeps {stage.kept} of {stage.total} windows: must '
                                 f'be ascending, above 0 and below the total')
            for value in (stage.fixed, *stage.costs):
                value + 0.  # raises TypeError unless it is a number
        str(found)
        return table


def backbone_identity(backbone: SparseBackbone) -> Dict:
    """Return what identifies the backbone of a table: its ``identity()`` and the rules of its space
    that differ from Swin's."""
    rules = {name: getattr(backbone.space, name) for name in RULES}
    swin = SparsitySpace(())
    return {**backbone.identity(),
            **{name: rule for name, rule in rules.items() if rule != getattr(swin, name)}}


def _saved_macs(backbone: SparseBackbone, setting: LatencySetting, space: SparsitySpace,
                totals: Sequence[int]) -> List[Dict[int, float]]:
    """Return, for each stage, kept windows -> MACs that a block saves, as a share of the dense
    backbone's."""
    def macs(ratios: List[float]) -> int:
        return backbone_macs(backbone, setting.shape, 1, ratios)

    num_stages = len(space.depths)
    dense, saved = macs([0.] * num_stages), []
    for s, total in enumerate(totals):
        by_kept = {}
        for ratio in space.choices:
            kept = windows_kept(total, ratio)
            if kept < total:
                ratios = [ratio if t == s else 0. for t in range(num_stages)]
                by_kept[kept] = (1 - macs(ratios) / dense) / max(space.prunable[s], 1)
        saved.append(by_kept)
    return saved


def _check_finite(value, where: str) -> None:
    """Raise ValueError, which names the place, if a number is not finite; json accepts NaN."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_finite(item, f'{where}.{key}')
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_finite(item, f'{where}[{i}]')
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f'{where} is {value}')
