"""Convert a config and checkpoint of structured sparse training to those of a smaller dense model.
"""
import re
from copy import deepcopy
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor

from ..compat import is_lazy_config
from ..files import replacing
from ..models import SparseBackbone
from ..models.checkpoints import read_checkpoint
from ..weights.compaction import compact, cut
from ..weights.masking import Masks, unpack
from .building import build_backbone
from .child import Keys, body_of, child_text, write_config
from .reading import find_backbone, is_type, load_config, node_at, pretrained_above

HOOK, RECORD = 'StructuredSparseTrainingHook', 'structured_sparse_training'


class Compaction(NamedTuple):
    """Result of :func:`compact_model`.

    Attributes:
        config, checkpoint: Paths of the files written.
        before, after: Backbones before and after compaction, in eval mode.
        difference: Largest difference between outputs of the two on random images, without
            sparsity, relative to the largest absolute value of the output.
    """
    config: Path
    checkpoint: Path
    before: SparseBackbone
    after: SparseBackbone
    difference: float


def compact_model(config: str, checkpoint: str, out: Path, overwrite: bool = False,
                  options: Optional[Dict] = None) -> Compaction:
    """Write a config and a checkpoint of the model without its pruned heads and neurons.

    The result is an ordinary dense model, which can be tested, measured, searched and exported
    like any other. If the backbone of the config has `widths`, as after a search over them, the
    units beyond these are removed for good.

    The config is a child of the given one. It sets `block_heads` and `ffn_widths` of the backbone,
    loads the new checkpoint, and drops StructuredSparseTrainingHook. The checkpoint holds only
    weights and meta data.

    Args:
        config: Path of a config with one sparse backbone. A bare ``toolkit::path`` has none.
        checkpoint: Checkpoint of the whole model. Without `widths`, the masks that the hook stored
            in it tell which units exist. If there are none, units without effect are removed, see
            :func:`~sparsevit_mm.weights.compact`.
        out: Path of the config to write, NEW.py. The checkpoint is written beside it as NEW.pth.
        overwrite: Whether the two files may exist already.
        options: Options merged into the config, and written with it.

    Raises:
        FileNotFoundError: If the config or checkpoint does not exist.
        FileExistsError: If a file to write exists and `overwrite` is false.
        ValueError: If `out` has another suffix or would replace an input; if the config is
            new-style; if the model has no sparse backbone, or one without heads; or if the
            checkpoint does not fit it, was never trained with structured sparsity, holds masks
            that do not fit, or holds masks while the config has `widths`.
    """
    target = out.with_suffix('.pth')
    if out.suffix != '.py':
        raise ValueError(f'{out}: the name of the new config must end in .py')
    if '::' not in config and out.resolve() == Path(config).resolve():
        raise ValueError(f'{out} is the config itself: give another name for the new one')
    if target.resolve() == Path(checkpoint).resolve():
        raise ValueError(f'{target} is the checkpoint itself: give another name for the new config')
    for path in (out, target):
        if path.exists() and not overwrite:
            raise FileExistsError(f'{path} exists already: use --overwrite or another -o')
    cfg = load_config(config, options)
    if cfg.filename and is_lazy_config(cfg.filename):
        raise ValueError(f'{config} is a new-style config (read_base): compaction supports only '
                         f'configs with _base_')
    keys = find_backbone(cfg)
    before = build_backbone(cfg, checkpoint).eval()
    held = read_checkpoint(checkpoint)
    prefix = '.'.join(map(str, keys[1:])) + '.'
    narrow = not before.widths.is_full
    if narrow and RECORD in held:
        raise ValueError(f'{checkpoint} is from training with masks, but {config} has widths: '
                         f'the first heads and neurons need not be those that exist. Remove the '
                         f'widths')
    smaller = cut(before) if narrow else compact(before, _masks(held, prefix))

    changes = dict(block_heads=smaller.block_heads, ffn_widths=smaller.ffn_widths,
                   **dict(widths=None) if narrow else {})
    new, paths = _changed(cfg.to_dict(), keys, changes, str(target.resolve()))
    after = MODELS.build(node_at(new, keys)).eval()
    after.load_state_dict(smaller.state)
    paths += [tuple(name.split('.')) for name in options or ()]
    state = {re.sub(r'^module\.', '', key): value
             for key, value in held.get('state_dict', held).items()}
    state = {key: value for key, value in state.items() if not key.startswith(prefix)}
    state.update({prefix + key: value for key, value in smaller.state.items()})
    meta = dict(held.get('meta', {}) if 'state_dict' in held else {})

    def save(read: Config) -> None:
        if 'cfg' in meta:
            meta['cfg'] = read.pretty_text
        with replacing(target) as partial:
            torch.save(dict(meta=meta, state_dict=state), partial)
    write_config(child_text(config, body_of(new, paths), out), out, save)
    return Compaction(out, target, before, after, difference(before, after))


def _masks(checkpoint: Dict, prefix: str) -> Optional[Masks]:
    """Return the masks by their names in the backbone, or None if the checkpoint has none."""
    record = checkpoint.get(RECORD)
    if record is None:
        return None
    masks = {}
    for name, bits in record['masks'].items():
        if not name.startswith(prefix):
            raise ValueError(f'{name} is masked, but outside the sparse backbone: only the '
                             f'backbone can be compacted')
        masks[name[len(prefix):]] = unpack(bits, tuple(record['shapes'][name]))
    return masks


def _changed(base: Dict, keys: Keys, changes: Dict, checkpoint: str):
    """Return the config with all changes, and the key paths of these."""
    new = deepcopy(base)
    node = node_at(new, keys)
    # The toolkits would load these weights of the dense model into the smaller one.
    changes = dict(changes, init_cfg=None, **dict.fromkeys({'pretrained'} & set(node)))
    node.update(changes)
    paths: List[Keys] = [(*keys, name) for name in changes]
    for place in pretrained_above(new, keys):
        node_at(new, place[:-1])['pretrained'] = None
        paths.append(place)
    new.update(load_from=checkpoint, resume=False)
    paths += [('load_from', ), ('resume', )]
    hooks = new.get('custom_hooks') or []
    left = [hook for hook in hooks if not is_type(hook, HOOK)]
    if left != hooks:
        new['custom_hooks'] = left
        paths.append(('custom_hooks', ))
    return new, paths


@torch.no_grad()
def difference(before: SparseBackbone, after: SparseBackbone) -> float:
    """Return the relative difference of two backbones, see :class:`Compaction`."""
    side = 8 * max(before.token_sides())
    image = torch.randn(2, before.in_channels, side, side,
                        generator=torch.Generator().manual_seed(0))
    outputs: List[List[Tensor]] = []
    for model in (before, after):
        kept, model.sparsity = model.sparsity, 0.
        outputs.append([x for out in model(image)
                        for x in (out if isinstance(out, (list, tuple)) else [out])])
        model.sparsity = kept
    return max(float((one - other).abs().max() / one.abs().max().clamp(min=1e-12))
               for one, other in zip(*outputs))
