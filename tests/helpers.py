"""Stand-ins for detectors and data: a model around a real sparse backbone whose prediction tells
at what sparsity and with which weights it ran, and the way to call a command line."""
import io
import itertools
import os
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.utils import ManagerMixin
from torch.utils.data import Dataset

from sparsevit_mm.config.building import build_runner
from sparsevit_mm.models import SparseSwinTransformer

ROOT = Path(__file__).parents[1]
BACKBONE = dict(
    type='SparseSwinTransformer',
    embed_dims=8,
    depths=(2, 2),
    num_heads=(1, 2),
    strides=(2, 2),
    patch_size=2,
    window_size=2,
    out_indices=(0, 1),
    drop_path_rate=0.)
_count = itertools.count()


def backbone(**changes) -> SparseSwinTransformer:
    return MODELS.build({**BACKBONE, **changes})


@MODELS.register_module(force=True)
class ToyModel(BaseModel):

    def __init__(self, backbone):
        super().__init__()
        self.backbone = MODELS.build(backbone)

    def forward(self, inputs, mode='tensor'):
        features = self.backbone(inputs)
        if mode == 'loss':
            return dict(loss=sum(f[:, 0].mean() for f in features))
        facts = dict(sparsity=self.backbone.sparsity.mean, weight=weight_of(self),
                     output=features[-1].square().sum().item())
        return [facts] * len(inputs)


def weight_of(model) -> float:
    """A figure that changes when the weights do."""
    return sum(p.detach().double().abs().sum().item() for p in model.parameters())


@DATASETS.register_module(force=True)
class ToyDataset(Dataset):

    def __init__(self, length=8):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, idx):
        return dict(inputs=torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(idx)))


@METRICS.register_module(force=True)
class ToyMetric(BaseMetric):
    """Means of what the model predicts: ``toy/sparsity``, ``toy/weight``, ``toy/output``."""
    default_prefix = 'toy'

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return {key: sum(r[key] for r in results) / len(results) for key in results[0]}


class Spy(Hook):
    """Keeps the backbone's sparsity in each training iteration, the data, and val metrics."""
    priority = 'LOWEST'

    def __init__(self):
        self.draws, self.inputs, self.metrics = {}, [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        model = getattr(runner.model, 'module', runner.model)
        self.draws[runner.iter] = model.backbone.sparsity
        self.inputs.append(float(data_batch['inputs'].sum()))

    def after_val_epoch(self, runner, metrics=None):
        self.metrics.append(dict(metrics))


def toy_config(work_dir, **changes) -> Config:
    """An iteration-based run of six steps; `changes` replace top-level settings."""
    loader = dict(batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
                  dataset=dict(type='ToyDataset'))
    return Config({
        **dict(
            model=dict(type='ToyModel', backbone=dict(BACKBONE)),
            work_dir=str(work_dir),
            experiment_name=unique_name(),
            train_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=True)),
            val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
            val_evaluator=dict(type='ToyMetric'),
            train_cfg=dict(by_epoch=False, max_iters=6, val_interval=3),
            val_cfg=dict(),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=.1)),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3)),
            log_processor=dict(by_epoch=False),
            log_level='WARNING',
            randomness=dict(seed=0)),
        **changes
    })


def train_toy(work_dir, **changes):
    """Trains; returns the runner and what a Spy saw."""
    runner, spy = build_runner(toy_config(work_dir, **changes)), Spy()
    runner.register_hook(spy)
    runner.train()
    return runner, spy


def unique_name() -> str:
    """mmengine keeps loggers and message hubs by experiment: two runs of one second would share
    theirs."""
    return f'test_{os.getpid()}_{next(_count)}'


class Outcome(NamedTuple):
    code: int
    error: str
    output: str


def run_tool(name, *arguments, folder='tools', **options) -> Outcome:
    """Runs tools/NAME.py in this process, as the interpreter would in a fresh one.

    `options` go to ``--cfg-options``, with ``__`` for the dot.
    """
    arguments = [f'{name}.py', *map(str, arguments)]
    if options:
        arguments += ['--cfg-options', *(f'{k.replace("__", ".")}={v}'
                                         for k, v in options.items())]
    forget_experiments()
    code, message, output, error = 0, '', io.StringIO(), io.StringIO()
    with mock.patch.object(sys, 'argv', arguments), redirect_stdout(output), redirect_stderr(error):
        try:
            runpy.run_path(str(ROOT / folder / f'{name}.py'), run_name='__main__')
        except SystemExit as end:  # the interpreter prints a text to stderr, and ends with 1
            code = end.code if isinstance(end.code, int) else 1
            message = '' if isinstance(end.code, int) else str(end.code)
    return Outcome(code, error.getvalue() + message, output.getvalue())


def refused(*arguments, **options) -> str:
    """The message of a command line that must end with one."""
    outcome = run_tool(*arguments, **options)
    assert outcome.code == 1, outcome
    assert outcome.error.startswith('error: '), outcome
    return outcome.error


def forget_experiments(manager=ManagerMixin) -> None:
    """mmengine keeps loggers and message hubs for as long as a process lives."""
    for kind in manager.__subclasses__():
        kind._instance_dict.clear()
        forget_experiments(kind)


def drawn(scatter, estimate=0.):
    """A figure whose resamples scatter about it like this, of 200 images."""
    from sparsevit_mm.evaluation.intervals import Resampled
    return Resampled(estimate, estimate + np.asarray(scatter), np.zeros(0), '200 images', 200)
