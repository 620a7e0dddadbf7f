"""Values of the released Evo-ViT, and its weights by the rule that made them."""
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[4] / 'shared' / 'data' / 'reference'
needs_reference = pytest.mark.skipif(
    not FOLDER.is_dir(), reason='the reference values are not here')


def load(name):
    return np.load(FOLDER / name)


def weight(name, shape, levit=False, sharp=False):
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    last = name.rsplit('.', 1)[-1]
    if last in ('pos_embed', 'cls_token', 'poss'):
        z = .2 * z
    elif last == 'running_var':
        z = .2 * abs(z) + 1
    elif 2 <= len(shape) <= 4:
        z = 1.1 * z / np.sqrt(np.prod(shape[1:])) if levit else .08 * z
    elif last == 'weight':
        z = 1 + .2 * z
    else:
        z = .1 * z
    if sharp and len(shape) == 2 and re.search(r'qks\..*weight$', name):
        z = 4 * z
    return torch.from_numpy(z.astype(np.float32))


def image(height, width):
    x = np.random.default_rng(7).standard_normal((2, 3, height, width))
    x[:, :, height // 4:5 * height // 8, width // 8:3 * width // 4] *= 3
    return torch.from_numpy(x.astype(np.float32))


def deit_state(depth=12, width=48, patches=64, classes=10, sharp=False):
    """The released names of a DeiT of the reference."""
    shapes = {'cls_token': (1, 1, width), 'pos_embed': (1, patches + 1, width),
              'patch_embed.proj.weight': (width, 3, 8, 8), 'patch_embed.proj.bias': (width, ),
              'norm.weight': (width, ), 'norm.bias': (width, ),
              'head.weight': (classes, width), 'head.bias': (classes, )}
    for i in range(depth):
        for name, rows, columns in ((f'qks.{i}.qk', 2 * width, width), (f'vs.{i}.v', width, width),
                                    (f'projs.{i}', width, width),
                                    (f'blocks.{i}.mlp.fc1', 4 * width, width),
                                    (f'blocks.{i}.mlp.fc2', width, 4 * width)):
            shapes[f'{name}.weight'], shapes[f'{name}.bias'] = (rows, columns), (rows, )
        for name in (f'norms.{i}', f'blocks.{i}.norm2'):
            shapes[f'{name}.weight'] = shapes[f'{name}.bias'] = (width, )
    return {name: weight(name, shape, sharp=sharp) for name, shape in shapes.items()}
