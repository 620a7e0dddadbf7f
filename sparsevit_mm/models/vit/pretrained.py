"""Loading of plain ViT checkpoints in the naming of several toolkits, and initialisation."""
import math
import re
from typing import Dict, List, Optional, Tuple

import torch
from mmengine.logging import print_log
from mmengine.model.weight_init import constant_init, kaiming_init, trunc_normal_
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..checkpoints import OF_ADAPTATION, read_pretrained
from ..grids import grid_of, resize_grid

StateDict = Dict[str, Tensor]

# Maps timm's and DeiT's names to mmseg's. The released Evo-ViT keeps norms and attention outside of
# the blocks.
_TIMM = (
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'^norms\.(\d+)\.', r'layers.\1.ln1.'),
    (r'^qkvs?\.(\d+)\.', r'layers.\1.attn.attn.in_proj_'),
    (r'^projs\.(\d+)\.', r'layers.\1.attn.attn.out_proj.'),
    (r'^blocks\.', 'layers.'),
    (r'^norm\.', 'ln1.'),
    (r'^(norm_pre|pre_norm)\.', 'ln_pre.'),
)
_OF_LAYERS = (
    (r'\.norm(\d)\.', r'.ln\1.'),
    (r'\.attn\.qkv\.', '.attn.attn.in_proj_'),
    (r'\.attn\.proj\.', '.attn.attn.out_proj.'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
)
HEADS = re.compile(r'^(head|head_dist|fc|pre_logits)\.')


def load_pretrained(backbone: nn.Module, source: str, prefix: Optional[str] = None) -> None:
    """Load a checkpoint of mmseg, mmpretrain, timm, DeiT or the released Evo-ViT into a ViT.

    Classifier heads are skipped and logged, as are a final norm and a distillation token (with its
    position) if the backbone has none. A position embedding of another size is resized.

    Args:
        backbone: An EvoVisionTransformer.
        source: File or URL. The weights may be nested under the key `state_dict` or `model`, and
            in a whole model under the prefix ``backbone.`` or ``img_backbone.``.
        prefix: Any other prefix of the keys.

    Raises:
        FileNotFoundError: If `source` cannot be read.
        ValueError: If the checkpoint is invalid or does not fit the backbone. Lists missing and
            unexpected keys and keys with wrong shapes; asks for ``patch_bias=True`` if the
            checkpoint's patch embedding has a bias and the backbone's has none.
    """
    state = read_pretrained(source, prefix)
    current = backbone.state_dict()
    state, left_out = translate(state, 'dist_token' in current)
    if 'patch_embed.projection.bias' in set(state) - set(current):
        raise ValueError(f'{source}: the patch embedding has a bias, but that of the backbone has '
                         f'none: set patch_bias=True')
    for key in [key for key in state if re.match(r'ln1\.', key) and key not in current]:
        left_out.append(key)
        del state[key]
    if 'pos_embed' in state:
        state['pos_embed'] = _resize(state['pos_embed'], backbone, source)
    load_strictly(backbone, state, left_out, source)


def load_strictly(backbone: nn.Module, state: StateDict, left_out: List[str],
                  source: str) -> None:
    """Load weights that must match the backbone exactly, except for optional adaptation weights.

    Args:
        backbone: Any backbone.
        state: State dict with the names of the backbone.
        left_out: Names of skipped weights, for the log.
        source: File or URL, for messages.

    Raises:
        ValueError: If the weights do not fit. Lists missing and unexpected keys and keys with wrong
            shapes.
    """
    current = backbone.state_dict()
    missing = [k for k in current if k not in state and not OF_ADAPTATION.search(k)]
    unexpected = [k for k in state if k not in current and not OF_ADAPTATION.search(k)]
    misshapen = [f'{k}: {tuple(state[k].shape)} in the file, {tuple(v.shape)} in the backbone'
                 for k, v in current.items() if k in state and state[k].shape != v.shape]
    if missing or unexpected or misshapen:
        raise ValueError(f'{source} does not fit the backbone.\n  missing: {missing}\n  '
                         f'unexpected: {unexpected}\n  of another shape: {misshapen}')
    if left_out:
        print_log(f'{source}: weights not loaded: {", ".join(left_out)}', 'current')
    backbone.load_state_dict(state, strict=False)


def translate(state: StateDict, with_dist_token: bool = False) -> Tuple[StateDict, List[str]]:
    """Rename the weights of any supported origin to mmseg's names. Return them and the names of
    those skipped: heads and, without `with_dist_token`, the distillation token and its position."""
    new, left_out = {}, []
    for key, value in _fuse(state).items():
        if HEADS.match(key):
            left_out.append(key)
            continue
        if not key.startswith('layers.'):
            for pattern, replacement in _TIMM:
                key = re.sub(pattern, replacement, key)
        for pattern, replacement in _OF_LAYERS:
            key = re.sub(pattern, replacement, key)
        new[key] = value
    if 'dist_token' in new and not with_dist_token:
        left_out.append('dist_token and its position')
        del new['dist_token']
        if 'pos_embed' in new:
            new['pos_embed'] = torch.cat([new['pos_embed'][:, :1], new['pos_embed'][:, 2:]], 1)
    return new, left_out


def _fuse(state: StateDict) -> StateDict:
    """Fuse the released Evo-ViT's separate query-key and value weights into qkv weights."""
    fused = {}
    for key, value in state.items():
        match = re.match(r'qks\.(\d+)\.qk\.(weight|bias)$', key)
        if match:
            layer, kind = match.groups()
            fused[f'qkvs.{layer}.{kind}'] = torch.cat([value, state[f'vs.{layer}.v.{kind}']])
        elif not re.match(r'vs\.\d+\.v\.', key):
            fused[key] = value
    return fused


def _resize(position: Tensor, backbone: nn.Module, source: str) -> Tensor:
    """Resize a position embedding, (1, P + N, C), to the backbone's grid. P is 1, or 2 with a
    distillation token."""
    if position.shape == backbone.pos_embed.shape:
        return position
    first = backbone.pos_embed.shape[1] - math.prod(backbone.grid)
    grid = grid_of(position.shape[1] - first, backbone.grid, f'{source}: a position embedding')
    print_log(f'{source}: position embedding resized from {grid[0]}x{grid[1]} to '
              f'{backbone.grid[0]}x{backbone.grid[1]}', 'current')
    return torch.cat([position[:, :first], resize_grid(position[:, first:], grid, backbone.grid,
                                                       backbone.interpolate_mode)], 1)


def init_from_scratch(backbone: nn.Module) -> None:
    """Initialise a backbone as mmseg does its ``VisionTransformer``."""
    trunc_normal_(backbone.pos_embed, std=.02)
    trunc_normal_(backbone.cls_token, std=.02)
    if backbone.prefix == 2:
        trunc_normal_(backbone.dist_token, std=.02)
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=.02)
            if module.bias is not None:
                if 'ffn' in name:
                    nn.init.normal_(module.bias, mean=0., std=1e-6)
                else:
                    nn.init.constant_(module.bias, 0)
        elif isinstance(module, nn.Conv2d):
            kaiming_init(module, mode='fan_in', bias=0.)
        elif isinstance(module, (_BatchNorm, nn.GroupNorm, nn.LayerNorm)):
            constant_init(module, val=1.0, bias=0.)
