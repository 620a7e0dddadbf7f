"""Training and testing within the process of a benchmark, which saves the imports of train.py and
test.py, and searches in a subprocess."""
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, Mapping, Optional, Tuple

import torch
from mmengine.config import Config

from sparsevit_mm.config.building import build_runner
from sparsevit_mm.config.reading import ADAPTATION_HOOK, is_type, load_config, without_adaptation
from sparsevit_mm.evaluation.evaluator import Evaluator
from sparsevit_mm.evaluation.metrics import default_metric
from sparsevit_mm.files import replacing
from sparsevit_mm.models.selection.ranking import Selection

TOOLS = Path(__file__).resolve().parents[1] / 'tools'


def schedule(iters: int) -> Dict:
    """Return options that set the number of iterations of a demo config."""
    return {'train_cfg.max_iters': iters, 'param_scheduler.1.end': iters}


def train(config: Path, checkpoint: Path, seed: int, load_from: Optional[Path] = None,
          options: Optional[Mapping] = None) -> None:
    """Train an iteration-based config without validation.

    Args:
        config: The config. Its adaptation hook, if any, also gets the seed.
        checkpoint: Path of the checkpoint to write; the log goes to a folder beside it.
        seed: Seed of the training.
        load_from: Checkpoint to start from.
        options: Options merged into the config, as with ``--cfg-options``.
    """
    cfg = load_config(str(config), dict(options or {}))
    cfg.work_dir = str(checkpoint.with_suffix(''))
    cfg.randomness = dict(seed=seed)
    cfg.load_from = load_from and str(load_from)
    for hook in cfg.get('custom_hooks') or []:
        if is_type(hook, ADAPTATION_HOOK):
            hook.seed = seed
    iters = cfg.train_cfg.max_iters
    cfg.train_cfg.val_interval = iters + 1
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', by_epoch=False, interval=iters, save_optimizer=False,
        save_last=False)
    for key in [key for key in cfg if key.startswith(('val_', 'test_'))]:
        cfg.pop(key)
    _one_process(cfg)
    build_runner(cfg).train()
    os.replace(Path(cfg.work_dir) / f'iter_{iters}.pth', checkpoint)


def test(config: Path, checkpoint: Path, results: Path, cases: Mapping[str, Tuple],
         options: Optional[Mapping] = None, split: str = 'test', seed: int = 0,
         block: Optional[int] = None) -> None:
    """Test a checkpoint at several sparsities.

    Args:
        config: The config; the default metric of its evaluator is the objective.
        checkpoint: Checkpoint of the whole model.
        results: JSON file to write: the metric, and the metric on resamples, by name of the case.
        cases: Maps names to the sparsity and the settings of the Selection, or None for the
            config's.
        options: Options merged into the config.
        split: 'test' or 'val'.
        seed: Seed of random selection.
        block: Number of consecutive frames that a resample draws together; the default is that of
            :func:`~sparsevit_mm.evaluation.units.find_units`.
    """
    cfg = load_config(str(config), dict(options or {}))
    cfg.work_dir = str(results.with_suffix(''))
    cfg.custom_hooks = without_adaptation(cfg.get('custom_hooks'))
    if split == 'test':
        cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
    _one_process(cfg)
    evaluator = Evaluator(cfg, str(checkpoint))
    objective = default_metric(cfg)
    resample = evaluator.main.resampler(objective)
    record: Dict[str, Dict] = {}
    for name, (sparsity, selection) in cases.items():
        torch.manual_seed(seed)
        selection = None if selection is None else Selection(**selection)
        metrics = evaluator.evaluate(sparsity, selection)
        record[name] = dict(metric=float(metrics.get(objective, 0.)),
                            resampled=resample(block=block).to_json())
        print(f'{name}: {record[name]["metric"]:.4f}', flush=True)
    with replacing(results) as partial:
        partial.write_text(json.dumps(record))


def search(config: Path, checkpoint: Path, winner: Path, limit: float, trials: int,
           seed: int, batch_size: int = 1) -> None:
    """Run or resume search_sparsity.py with a share of the dense latency as the limit."""
    subprocess.run([
        sys.executable, str(TOOLS / 'search_sparsity.py'), str(config), str(checkpoint),
        '--work-dir', str(winner.parent), '--out', str(winner), '--max-latency', f'{limit:.1%}',
        '--trials', str(trials), '--batch-size', str(batch_size), '--seed', str(seed),
        '--rounds', '5', '--threads', '1', '--resume'], check=True)


def _one_process(cfg: Config) -> None:
    """Load data in the main process, because parallel jobs already use all cores."""
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            loader.num_workers, loader.persistent_workers = 0, False
