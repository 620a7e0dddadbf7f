"""Every shell block of README and docs runs on a tiny model, or needs what a test does not have."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, NamedTuple

import pytest
from helpers import ROOT, run_tool
from pages import HISTORY, PAGES, shell_blocks

from generators import generate_mini_cityscapes

# Blocks that are not run, by the page and how they begin, and what they need.
NEEDS = {
    ('README.md', 'pip install -e'): 'an environment of its own',
    ('README.md', 'make install'): 'an environment of its own',
    ('README.md', 'make demo'): 'up to 25 minutes each',
    ('README.md', 'CONFIG=mmdet::'): 'a download; the test has its own',
    ('CONTRIBUTING.md', 'make install'): 'an environment of its own',
    ('docs/get_started.md', 'CONFIG=mmdet::'): 'a download; the test has its own',
    ('docs/search.md', 'KNOB='): 'a detector; the test has a segmentor\'s',
    ('docs/get_started.md', 'IMAGE='): 'an image; the test has its own',
    ('docs/bevdet.md', 'bash tools/dist_train.sh'): 'nuScenes and 8 GPUs',
    ('docs/benchmarks.md', 'python benchmarks/run.py'): 'half an hour',
    ('docs/benchmarks.md', 'python benchmarks/gpu.py'): 'a GPU',
    ('configs/sparsevit/README.md', '# adapt'): 'COCO and 8 GPUs',
    ('configs/evo_vit/README.md', '# adapt'): 'ADE20K and 8 GPUs',
    ('configs/svite/README.md', 'bash tools/dist_train.sh'): 'COCO and 8 GPUs',
    ('configs/bevdet/README.md', '# nuScenes'): 'nuScenes and 8 GPUs',
}
# What the tiny data, a busy CPU and the time of a test allow, in place of the pages' figures.
SMALLER = {r'--num-samples \d+': '--num-samples 4', r'--num-images \d+': '--num-images 8',
           r'--trials \d+': '--trials 5', r'--budget \d+': '--budget 10',
           r'--rounds \d+': '--rounds 1', r'--max-latency \d+(?![\d%])': '--max-latency 5000',
           r'--max-latency \d+%': '--max-latency 1000%', r'--points \S+': '--points 1000%',
           r'--calibrate': '--calibrate --points 1000%'}
SIZE = (128, 256)
CONFIG = '''
_base_ = ['{demo}/configs/upernet_swin-narrow_mini_cityscapes.py']
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(256, 128), keep_ratio=True),
            dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
loader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='{data}/'))
train_dataloader = dict(loader, batch_size=2)
val_dataloader = dict(loader, dataset=dict(loader['dataset'], pipeline=pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=2)
param_scheduler = [dict(type='ConstantLR', factor=1., by_epoch=False)]
'''


def is_run(page: str, block: str) -> bool:
    return not any(page == of and block.startswith(start) for of, start in NEEDS)


RUN = [page for page in PAGES if page not in HISTORY
       and any(is_run(page, block) for block in shell_blocks(page))]


def test_what_is_not_run_is_there():
    for page, start in NEEDS:
        found = [block for block in shell_blocks(page) if block.startswith(start)]
        assert len(found) == 1, f'{page}: {len(found)} blocks begin with {start!r}'
    assert {'README.md', 'docs/get_started.md', 'docs/search.md'} <= set(RUN)


class Model(NamedTuple):
    """Of a user: a dense one, and what README makes of it. `folder` holds both configs."""
    folder: Path
    image: Path
    dense: str
    adapted: str

    def variables(self) -> Dict[str, str]:
        return dict(CONFIG='dense.py', CHECKPOINT=self.dense, ADAPTED=self.adapted,
                    IMAGE=str(self.image), KNOB='model.test_cfg.mode=whole')


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> Model:
    folder = tmp_path_factory.mktemp('model')
    data = generate_mini_cityscapes(folder / 'data', dict(train=8, val=8, test=3), SIZE)
    (folder / 'dense.py').write_text(CONFIG.format(demo=ROOT / 'demo', data=data))
    assert run_tool('swap_backbone', folder / 'dense.py', '--adapt', '-o',
                    folder / 'adapt.py').code == 0
    checkpoints = []
    for name in ('dense', 'adapt'):
        options = ['--cfg-options', f'load_from={checkpoints[0]}'] if checkpoints else []
        outcome = run_tool('train', folder / f'{name}.py', '--work-dir', folder / name, *options)
        assert outcome.code == 0, outcome.error
        checkpoints.append((folder / name / 'last_checkpoint').read_text())
    image = next(Path(data).glob('leftImg8bit/test/**/*.png'))
    return Model(folder, image, *checkpoints)


@pytest.mark.slow
@pytest.mark.parametrize('page', RUN)
def test_commands_run(page, model, tmp_path):
    for path in ROOT.iterdir():
        if path.name not in ('data', 'work_dirs') and not path.name.startswith('.'):
            (tmp_path / path.name).symlink_to(path)
    script = '\n'.join(block for block in shell_blocks(page) if is_run(page, block))
    configs = ['dense.py'] if '-o adapt.py' in script else ['dense.py', 'adapt.py']
    for name in configs:
        shutil.copy(model.folder / name, tmp_path / name)
    for pattern, replacement in SMALLER.items():
        script = re.sub(pattern, replacement, script)
    done = subprocess.run(
        ['bash', '-euxo', 'pipefail', '-c', script], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, **model.variables(), 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1',
             'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}'})
    assert done.returncode == 0, done.stdout[-4000:]
