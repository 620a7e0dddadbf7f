"""A model and data for sparse training that draw from the global random generators, and a hook
that keeps what each iteration left."""
import copy

import torch
from helpers import toy_config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn
from torch.utils.checkpoint import checkpoint

from sparsevit_mm.config.building import build_runner
from sparsevit_mm.hooks.masked_training import MaskedTrainingHook

HOOK = dict(type='SparseTrainingHook', density=.4, interval=2, seed=3)
ADAMW = dict(optimizer=dict(type='AdamW', lr=.01, weight_decay=.05))
EMA = dict(type='EMAHook', momentum=.3)
BY_EPOCH = dict(
    train_cfg=dict(by_epoch=True, max_epochs=4, val_interval=1),
    default_hooks=dict(logger=dict(type='LoggerHook', interval=1),
                       checkpoint=dict(type='CheckpointHook', interval=1)),
    log_processor=dict(by_epoch=True))
OPTIMIZERS = dict(
    adamw=ADAMW,
    amsgrad=dict(optimizer=dict(type='AdamW', lr=.01, amsgrad=True)),
    momentum=dict(optimizer=dict(type='SGD', lr=.05, momentum=.9, weight_decay=.1, nesterov=True)),
    clipped=dict(ADAMW, clip_grad=dict(max_norm=.1)),
    by_value=dict(ADAMW, clip_grad=dict(type='value', clip_value=1e-4)),
    accumulated=dict(ADAMW, accumulative_counts=2))


@MODELS.register_module(force=True)
class SparseToy(BaseModel):

    def __init__(self, frozen=False, tied=False, unused=False, with_cp=False, dropout=.1,
                 nan_at=None):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.fc1, self.fc2 = nn.Linear(8 * 49, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)
        self.dropout = nn.Dropout(dropout)
        if tied:
            self.fc3 = nn.Linear(16, 16)
            self.fc3.weight = self.fc2.weight
        if unused:
            self.unused = nn.Linear(16, 16)
        if frozen:
            self.conv.requires_grad_(False)
        self.with_cp, self.nan_at, self.calls = with_cp, nan_at, 0

    def features(self, x):
        return self.fc2(torch.relu(self.fc1(self.dropout(x))))

    def forward(self, inputs, mode='tensor'):
        x = torch.relu(self.norm(self.conv(inputs))).flatten(1)
        x = checkpoint(self.features, x, use_reentrant=False) if self.with_cp else self.features(x)
        out = self.head(self.dropout(torch.relu(x)))
        if mode == 'loss':
            self.calls += 1
            scale = float('nan') if self.calls == self.nan_at else 1.
            return dict(loss=scale * out.logsumexp(1).sub(out[:, 0]).mean())
        return [dict(output=out.square().sum().item())] * len(inputs)


@DATASETS.register_module(force=True)
class NoisyDataset(torch.utils.data.Dataset):

    def __len__(self):
        return 8

    def __getitem__(self, idx):
        image = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(idx))
        return dict(inputs=image + .1 * torch.randn(3, 16, 16))


class Watch(Hook):
    """After each iteration: masks, weights, moments and averages of the masked layers."""
    priority = 'LOWEST'

    def __init__(self):
        self.steps = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.steps.append(state_of(runner))


def masked_hook(runner):
    """The runner's hook that trains with masks."""
    return next(h for h in runner.hooks if isinstance(h, MaskedTrainingHook))


def state_of(runner):
    masks = masked_hook(runner).masks
    model = getattr(runner.model, 'module', runner.model)
    optimizer = runner.optim_wrapper.optimizer
    averages = [h.ema_model.module for h in runner.hooks if type(h).__name__ == 'EMAHook']
    moments = {name: {key: value for key, value in optimizer.state.get(p, {}).items()
                      if torch.is_tensor(value)} for name, p in model.named_parameters()}
    return copy.deepcopy(dict(
        masks=masks.masks, weights=model.state_dict(), moments=moments,
        averages=averages[0].state_dict() if averages else {}))


def config(work_dir, hook=None, model=None, **changes):
    loader = dict(batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
                  dataset=dict(type='NoisyDataset'))
    changes.setdefault('optim_wrapper', ADAMW)
    changes.setdefault('custom_hooks', [{**HOOK, **(hook or {})}])
    changes.setdefault('train_cfg', dict(by_epoch=False, max_iters=10, val_interval=4))
    changes.setdefault('default_hooks', dict(
        logger=dict(type='LoggerHook', interval=1),
        checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)))
    # An epoch of an infinite sampler would not end.
    sampler = 'DefaultSampler' if changes['train_cfg']['by_epoch'] else 'InfiniteSampler'
    return toy_config(
        work_dir, model=dict(type='SparseToy', **(model or {})),
        train_dataloader=dict(loader, sampler=dict(type=sampler, shuffle=True)),
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)), **changes)


def train(work_dir, *hooks, **changes):
    """Trains; returns the runner and what each iteration left."""
    return watched(config(work_dir, **changes), *hooks)


def watched(cfg, *hooks):
    """As :func:`train`, of a config."""
    runner, watch = build_runner(cfg), Watch()
    for hook in (*hooks, watch):
        runner.register_hook(hook)
    runner.train()
    return runner, watch.steps


def equal(one, other):
    """Bit by bit, whatever the nesting."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return torch.equal(one, other)


def check_laws(steps):
    count = {name: int(mask.sum()) for name, mask in steps[0]['masks'].items()}
    for before, step in zip([None] + steps, steps):
        for name, mask in step['masks'].items():
            assert int(mask.sum()) == count[name]
            held = [step['weights'][name], *step['moments'][name].values()]
            if step['averages']:
                held.append(step['averages'][f'module.{name}' if f'module.{name}' in
                                             step['averages'] else name])
            for value in held:
                if value.shape == mask.shape:
                    assert not value[~mask].any()
            if before:
                new = mask & ~before['masks'][name]
                assert not any(value[new].any() for value in held if value.shape == mask.shape)
            assert step['weights'][name][mask].any()
