"""Models with heads and FFN neurons, trained under the structured hook on the noise of
:mod:`sparse_toy`."""
import sparse_toy
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

HOOK = dict(type='StructuredSparseTrainingHook', head_density=.5, neuron_density=.6, interval=2)
SWIN = dict(type='SparseSwinTransformer', embed_dims=8, depths=(2, 2), num_heads=(2, 4),
            strides=(2, 2), patch_size=2, window_size=3, out_indices=(0, 1), drop_rate=.1,
            mlp_ratio=2)
VIT = dict(type='EvoVisionTransformer', img_size=16, patch_size=4, embed_dims=16, num_layers=2,
           num_heads=4, mlp_ratio=2, drop_rate=.1)
BACKBONES = dict(swin=SWIN, vit=VIT)


@MODELS.register_module(force=True)
class UnitToy(BaseModel):
    """A backbone and a head; `inner` stands beside it under a name that patterns may give."""

    def __init__(self, backbone, nan_at=None):
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.head = nn.LazyLinear(4)
        self.nan_at, self.calls = nan_at, 0
        self(torch.zeros(1, 3, 16, 16))

    def forward(self, inputs, mode='tensor'):
        out = self.head(self.backbone(inputs)[-1].flatten(1))
        if mode == 'loss':
            self.calls += 1
            scale = float('nan') if self.calls == self.nan_at else 1.
            return dict(loss=scale * out.logsumexp(1).sub(out[:, 0]).mean())
        return [dict(output=out.square().sum().item())] * len(inputs)


@MODELS.register_module(force=True)
class PlainBlocks(nn.Module):
    """Blocks with the names of timm, and no sparse backbone."""

    def __init__(self, depth=2, width=8, heads=2):
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, stride=4)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(depth))

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return [x]


class PlainBlock(nn.Module):

    def __init__(self, width, heads):
        super().__init__()
        self.attn, self.mlp = PlainAttention(width, heads), nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp.fc2(torch.relu(self.mlp.fc1(x)))


class PlainAttention(nn.Module):

    def __init__(self, width, heads):
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        out = nn.functional.scaled_dot_product_attention(*qkv)
        return self.proj(out.transpose(1, 2).flatten(2))


def config(work_dir, hook=None, backbone=VIT, model=None, **changes):
    changes.setdefault('custom_hooks', [{**HOOK, **(hook or {})}])
    made = sparse_toy.config(work_dir, **changes)
    made.model = dict(type='UnitToy', backbone=backbone, **(model or {}))
    return made


def train(work_dir, *hooks, **changes):
    """Trains; returns the runner and what each iteration left."""
    return sparse_toy.watched(config(work_dir, **changes), *hooks)


def check_laws(runner, steps):
    """Counts stay; units that do not exist have output weights, moments of them and averages of
    zero, and keep their input weights; those that come start with output weights of zero."""
    groups = sparse_toy.masked_hook(runner).groups
    for before, step in zip([None] + steps, steps):
        for name, group in groups.items():
            mask = step['masks'][name]
            assert int(mask.sum()) == int(steps[0]['masks'][name].sum()) >= 1
            output = group.output.name
            columns = (~mask).repeat_interleave(step['weights'][output].shape[1] // len(mask))
            held = [step['weights'][output], *step['moments'][output].values()]
            if step['averages']:
                held.append(step['averages'][output])
            for value in held:
                if value.dim() == 2:
                    assert not value[:, columns].any()
            assert held[0][:, ~columns].any()
            if before is None:
                continue
            was_out = ~before['masks'][name]
            new = (mask & was_out).repeat_interleave(len(columns) // len(mask))
            assert not any(value[:, new].any() for value in held if value.dim() == 2)
            for part in group.inputs:
                index = part.index(was_out)
                assert torch.equal(*(
                    state['weights'][part.name].index_select(part.dim, index)
                    for state in (before, step)))
