"""A config and checkpoint of structured sparse training as those of an ordinary smaller model."""
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
    """What was written, and what it amounts to.

    Attributes:
        config, checkpoint: The files.
        before, after: The backbones, in eval mode.
        difference: Largest between outputs of the two on a random image, dense, as a share of the
            largest value.
    """
    config: Path
    checkpoint: Path
    before: SparseBackbone
    after: SparseBackbone
    difference: float


def compact_model(config: str, checkpoint: str, out: Path, overwrite: bool = False,
                  options: Optional[Dict] = None) -> Compaction:
    """Writes a config and a checkpoint of the model in which heads and neurons that are out do not
    exist: an ordinary dense model, that is tested, measured, searched and exported as any other. Of
    a config whose backbone has `widths`, as a search over them leaves it, these are cut for good.

    The config is a child of the given one with `block_heads` and `ffn_widths` of the backbone, the
    new checkpoint to load from, and without StructuredSparseTrainingHook. The checkpoint holds
    weights and meta data alone.

    Args:
        config: A file with one sparse backbone; not only ``toolkit::path``, which has none.
        checkpoint: Of the whole model. Without `widths`, which units exist it says itself where the
            hook trained it; else those are out that add nothing, see
            :func:`~sparsevit_mm.weights.compact`.
        out: The config to write, NEW.py; the checkpoint lies beside it as NEW.pth.
        overwrite: Whether the two may be there already.
        options: Merged into the config, and written with it.

    Raises:
        FileNotFoundError: No such config or checkpoint.
        FileExistsError: `out` is there.
        ValueError: The config is one of new style; the model has no sparse backbone or one without
            heads; the checkpoint does not fit it, was never trained with structured sparsity, or
            holds masks that do not fit.
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
            raise FileExistsError(f'{path} is there already: --overwrite, or another -o')
    cfg = load_config(config, options)
    if cfg.filename and is_lazy_config(cfg.filename):
        raise ValueError(f'{config} is a new-style config (read_base): compaction writes children '
                         f'of configs with _base_ alone')
    keys = find_backbone(cfg)
    before = build_backbone(cfg, checkpoint).eval()
    held = read_checkpoint(checkpoint)
    prefix = '.'.join(map(str, keys[1:])) + '.'
    narrow = not before.widths.is_full
    if narrow and RECORD in held:
        raise ValueError(f'{checkpoint} is of a training with masks, {config} has widths: the '
                         f'first heads and neurons are not those that exist. Compact it without '
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
    """By names within the backbone; None if the checkpoint holds none."""
    record = checkpoint.get(RECORD)
    if record is None:
        return None
    masks = {}
    for name, bits in record['masks'].items():
        if not name.startswith(prefix):
            raise ValueError(f'{name} is masked, and lies outside of the sparse backbone: only '
                             f'that can be compacted')
        masks[name[len(prefix):]] = unpack(bits, tuple(record['shapes'][name]))
    return masks


def _changed(base: Dict, keys: Keys, changes: Dict, checkpoint: str):
    """The config with all changes, and where they are."""
    new = deepcopy(base)
    node = node_at(new, keys)
    # Weights of the dense model, that the toolkits would load into this one.
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
    """See :class:`Compaction`."""
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
