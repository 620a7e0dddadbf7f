"""Run command lines one after another, print each as a user would type it, and skip finished ones.
"""
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional

from sparsevit_mm.config.reading import ADAPTATION_HOOK, is_type, load_config


class Steps:
    """Runs the command-line tools.

    Args:
        tools: Folder of the tools.
        seed: Seed of every training.
    """

    def __init__(self, tools: Path, seed: int):
        self.tools, self.seed = tools, seed

    def run(self, title: str, done: Optional[Path], tool: str, *arguments) -> None:
        """Run a tool unless its result `done` exists.

        Raises:
            subprocess.CalledProcessError: If the tool fails.
        """
        if done and done.exists():
            print(f'\n== {title}: {done} exists')
            return
        command = [str(a) for a in (self.tools / tool, *arguments)]
        print(f'\n== {title}\n$ python {" ".join(command)}', flush=True)
        start = time.time()
        subprocess.run([sys.executable, *command], check=True)
        print(f'== {title}: {time.time() - start:.0f} s', flush=True)

    def train(self, title: str, config: Path, work_dir: Path, load_from: Optional[Path] = None,
              iters: Optional[int] = None, **options) -> Path:
        """Train a config, and validate once at the end.

        Args:
            title: Title of the step.
            config: An iteration-based config. Its adaptation hook, if any, also gets the seed,
                unless `options` replace the custom hooks.
            work_dir: Folder for the checkpoint.
            load_from: Checkpoint to start from.
            iters: Number of iterations, if not the config's.
            options: Further ``--cfg-options``; ``__`` in a name stands for a dot.

        Returns:
            Path of the last checkpoint.
        """
        cfg = load_config(str(config))
        iters = iters or cfg.train_cfg.max_iters
        settings = {'randomness.seed': self.seed, 'train_cfg.max_iters': iters,
                    'train_cfg.val_interval': iters, 'default_hooks.checkpoint.interval': iters}
        if load_from:
            settings['load_from'] = load_from
        if 'custom_hooks' not in options:
            for i, hook in enumerate(cfg.get('custom_hooks') or []):
                if is_type(hook, ADAPTATION_HOOK):
                    settings[f'custom_hooks.{i}.seed'] = self.seed
        settings.update({key.replace('__', '.'): value for key, value in options.items()})
        checkpoint = work_dir / f'iter_{iters}.pth'
        self.run(title, checkpoint, 'train.py', config, '--work-dir', work_dir, '--cfg-options',
                 *(f'{key}={value}' for key, value in settings.items()))
        return checkpoint
