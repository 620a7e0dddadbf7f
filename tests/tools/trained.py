"""A model of the demo, shrunk and trained for a moment, and what command lines leave behind."""
import json
import tempfile
from pathlib import Path
from typing import Dict, List, NamedTuple

from helpers import ROOT, run_tool


class Trained(NamedTuple):
    """Attributes:
        data: 8 images to train and validate on, 3 to test.
        config, checkpoint: Files.
        options: For ``--cfg-options``: a training of two iterations.
    """
    data: Path
    config: Path
    checkpoint: Path
    options = dict(train_cfg__max_iters=2, train_cfg__val_interval=2,
                   default_hooks__checkpoint__interval=2)


def lines_of(work_dir: Path) -> List[Dict]:
    """What mm's logger hook wrote in the latest run of a work directory."""
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return list(map(json.loads, logs[-1].read_text().splitlines()))


def metrics_of(*arguments, **options) -> Dict[str, float]:
    """Metrics that test.py gives."""
    with tempfile.TemporaryDirectory() as work_dir:
        outcome = run_tool('test', *arguments, '--work-dir', work_dir, **options)
        assert outcome.code == 0, outcome.error
        metrics = json.loads(next(Path(work_dir).glob('*/*.json')).read_text())
    return {key: value for key, value in metrics.items() if key not in ('time', 'data_time')}


def train(folder: Path, data: Path, config: str, size) -> Trained:
    """Trains a config with places for the repository, the data and their size."""
    path = folder / 'tiny.py'
    path.write_text(config.format(base=ROOT, root=f'{data}/', size=size))
    assert run_tool('train', path, '--work-dir', folder / 'trained').code == 0
    return Trained(data, path, next((folder / 'trained').glob('iter_*.pth')))
