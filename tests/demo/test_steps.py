"""Command lines run one after another."""
import json
import subprocess

import pytest

from steps import Steps

TRAIN = '''
import json, sys
from pathlib import Path
work_dir = Path(sys.argv[sys.argv.index('--work-dir') + 1])
options = dict(o.split('=', 1) for o in sys.argv[sys.argv.index('--cfg-options') + 1:])
work_dir.mkdir(parents=True, exist_ok=True)
(work_dir / 'options.json').write_text(json.dumps(options))
(work_dir / f"iter_{options['train_cfg.max_iters']}.pth").touch()
'''
CONFIG = '''
train_cfg = dict(max_iters=7)
custom_hooks = [dict(type='EMAHook'), dict(type='SparsityAdaptationHook')]
'''


@pytest.fixture
def steps(tmp_path):
    (tmp_path / 'train.py').write_text(TRAIN)
    (tmp_path / 'fail.py').write_text('raise SystemExit(3)')
    (tmp_path / 'config.py').write_text(CONFIG)
    return Steps(tmp_path, seed=5)


def options_of(work_dir):
    return json.loads((work_dir / 'options.json').read_text())


def test_training_is_seeded_and_its_checkpoint_returned(steps, tmp_path):
    checkpoint = steps.train('a', tmp_path / 'config.py', tmp_path / 'w', tmp_path / 'from.pth')
    assert checkpoint == tmp_path / 'w' / 'iter_7.pth' and checkpoint.exists()
    options = options_of(tmp_path / 'w')
    assert options['randomness.seed'] == options['custom_hooks.1.seed'] == '5'
    assert 'custom_hooks.0.seed' not in options
    assert options['load_from'] == str(tmp_path / 'from.pth')
    assert {options[key] for key in (
        'train_cfg.max_iters', 'train_cfg.val_interval',
        'default_hooks.checkpoint.interval')} == {'7'}


def test_options_and_iterations_of_the_caller_win(steps, tmp_path):
    checkpoint = steps.train('a', tmp_path / 'config.py', tmp_path / 'w', iters=2,
                             custom_hooks='[]', model__backbone__depths=(2, 2))
    assert checkpoint.name == 'iter_2.pth'
    options = options_of(tmp_path / 'w')
    assert options['custom_hooks'] == '[]' and options['model.backbone.depths'] == '(2, 2)'
    assert 'custom_hooks.1.seed' not in options and 'load_from' not in options


def test_what_is_there_is_not_made_again(steps, tmp_path, capsys):
    for _ in range(2):
        steps.train('a', tmp_path / 'config.py', tmp_path / 'w')
        assert options_of(tmp_path / 'w')
        (tmp_path / 'w' / 'options.json').write_text('{"kept": 1}')
    assert options_of(tmp_path / 'w') == {'kept': 1}
    assert 'iter_7.pth' in capsys.readouterr().out


def test_a_step_that_fails_ends_the_road(steps):
    with pytest.raises(subprocess.CalledProcessError):
        steps.run('b', None, 'fail.py')
