"""A table that predicts the latency of every configuration, measured on the user's own device."""
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
RULES = ('group', 'nested', 'dense')  # of a space; Swin's, which are the default, are not written


@dataclass(frozen=True)
class LatencyTable:
    """Predicts the latency of one backbone in one setting.

    Attributes:
        setting: See :meth:`~.latency.LatencySetting.identity`.
        backbone: See :func:`backbone_identity`.
        choices: Ratios that were measured. Between them windows kept are interpolated; beyond
            the highest nothing more is saved.
        dense: Milliseconds of the dense backbone.
        stages: What each adds to that.
        check: How far to trust it.
        space: The configurations that the choices make up.
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
        """Measures, fits and checks.

        Args:
            backbone: The backbone; it is left as it is.
            setting: Where and how to run it.
            budget: Seconds.
            seed: Of the configurations measured.
            progress: Gets the seconds spent and the configurations measured, after each run.
            meter: What measures in the setting; the backbone alone by default.

        Raises:
            ValueError: The budget is no time or too small, or too few configurations differ.
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
        """Milliseconds by which repeated measurements of the dense backbone may differ."""
        return self.check.spread * self.dense

    def predict(self, config: Sparsity) -> float:
        """Milliseconds. Blocks of a pair count alike, plain or shifted.

        Raises:
            ValueError, TypeError: Not a configuration of this backbone.
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
        """For each stage the choices, ascending, in groups whose members cost the same: they keep
        as many windows, or differ by less than the noise over the number of pairs."""
        tolerance = self.noise / self.space.num_genes
        return [self._groups(stage, min(depth, self.space.group), tolerance)
                for stage, depth in zip(self.stages, self.space.depths)]

    def _groups(self, stage: Stage, blocks: int, tolerance: float) -> List[Tuple[float, ...]]:
        groups: List[List[float]] = []
        lowest = np.inf  # of what the first of the last group costs
        for ratio in self.choices:
            kept = stage.keeps(ratio)
            cost = blocks * stage.block(kept)  # of a group
            if kept < stage.total:
                cost += min(stage.fixed, 0.)  # lost where the stage turns dense
            if groups and cost >= lowest - tolerance:
                groups[-1].append(ratio)
            else:
                groups.append([ratio])
                lowest = cost
        return [tuple(group) for group in groups]

    def canonical(self, config: Sparsity) -> SparsityConfig:
        """The same configuration with each ratio lowered to the lowest of its plateau: it prunes
        less, and is predicted to be slower by no more than the noise.

        Raises:
            ValueError: The configuration is not in the space of the choices.
        """
        space = self.space
        lowest = [{r: group[0] for group in groups for r in group} for groups in self.plateaus()]
        ratios = space.config(config)
        space.encode(ratios)  # raises
        return SparsityConfig([[lowest[s][r] for r in stage]
                               for s, stage in enumerate(ratios.ratios)], space.depths)

    def require(self, backbone: SparseBackbone, setting: LatencySetting) -> None:
        """Raises ValueError, which lists the differences, if the table was measured for another
        backbone or in another setting."""
        here = {**setting.identity(), **backbone_identity(backbone)}
        table = {'of': 'backbone', **self.setting, **self.backbone}  # 0.1 measured nothing else
        differences = [f'{key}: {table.get(key)} in the table, {here.get(key)} here'
                       for key in {**table, **here} if table.get(key) != here.get(key)]
        if differences:
            raise ValueError('the latency table was measured for something else:\n  ' +
                             '\n  '.join(differences))

    def save(self, path: Union[str, Path]) -> None:
        """Writes JSON, whole or not at all."""
        with replacing(path) as partial:
            partial.write_text(json.dumps({'version': VERSION, **asdict(self)}, indent=1,
                                          allow_nan=False), encoding='utf-8')

    @classmethod
    def load(cls, path: Union[str, Path]) -> 'LatencyTable':
        """Reads what :meth:`save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is no latency table of this version; names file and fault.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f'{path}: no such latency table')
        try:
            return cls._from_json(json.loads(path.read_text(encoding='utf-8')))
        except KeyError as error:
            raise ValueError(f'{path} is no latency table: {error} is missing') from None
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f'{path} is no latency table: {error}') from None

    @classmethod
    def _from_json(cls, record: Dict) -> 'LatencyTable':
        if record['version'] != VERSION:
            raise ValueError(f'version {record["version"]!r}, this program reads {VERSION}')
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
            raise ValueError(f'dense latency {table.dense}')
        for s, stage in enumerate(stages):
            if len(stage.kept) != len(stage.costs):
                raise ValueError(f'stage {s} has {len(stage.kept)} numbers of windows and '
                                 f'{len(stage.costs)} costs')
            if any(a >= b for a, b in zip([0, *stage.kept], [*stage.kept, stage.total])):
                raise ValueError(f'stage {s} keeps {stage.kept} of {stage.total} windows')
            for value in (stage.fixed, *stage.costs):
                value + 0.  # TypeError where it is no number
        str(found)
        return table


def backbone_identity(backbone: SparseBackbone) -> Dict:
    """What a table is of: the backbone's ``identity()``, and the rules of its space."""
    rules = {name: getattr(backbone.space, name) for name in RULES}
    swin = SparsitySpace(())
    return {**backbone.identity(),
            **{name: rule for name, rule in rules.items() if rule != getattr(swin, name)}}


def _saved_macs(backbone: SparseBackbone, setting: LatencySetting, space: SparsitySpace,
                totals: Sequence[int]) -> List[Dict[int, float]]:
    """Stage -> windows kept -> MACs that one block saves, as a share of the dense backbone's."""
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
    """Raises ValueError that says where a number is not finite; json reads NaN without a word."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_finite(item, f'{where}.{key}')
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_finite(item, f'{where}[{i}]')
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f'{where} is {value}')
