"""Initialise a Swin from a pretrained checkpoint or from scratch.

Keys may be those of the toolkits or of the official repository. Position bias tables and embeddings
may have another size."""
import math
import re
from typing import Dict, Optional

from mmengine.logging import print_log
from mmengine.model.weight_init import constant_init, trunc_normal_, trunc_normal_init
from torch import Tensor, nn

from ..checkpoints import OF_ADAPTATION, read_pretrained
from ..grids import grid_of, resize_grid

StateDict = Dict[str, Tensor]

# Official Swin name -> the toolkits' name.
_OFFICIAL_NAMES = (
    (r'^layers\.', 'stages.'),
    (r'\.attn\.', '.attn.w_msa.'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
)
# Missing in classification checkpoints (output norms), computed (buffers), or added by adaptation.
_MAY_BE_MISSING = re.compile(r'^norm\d+\.|\.relative_position_index$|' + OF_ADAPTATION.pattern)
_TABLE = 'relative_position_bias_table'


def load_pretrained(backbone: nn.Module, source: str, convert_weights: bool = False,
                    prefix: Optional[str] = None) -> None:
    """Load a checkpoint file or URL into a Swin backbone.

    Args:
        backbone: A SparseSwinTransformer.
        source: File or URL, see :func:`~..checkpoints.read_pretrained`.
        convert_weights: Whether keys and the order of merged patches are those of the official
            Swin repository (equals `swin_converter` of mmdet).
        prefix: Prefix of the keys to load, see :func:`~..checkpoints.read_pretrained`.

    Raises:
        FileNotFoundError: If `source` cannot be read. The message names it and says how to give a
            local file.
        ValueError: If it is not a checkpoint, or does not fit the backbone. In the latter case the
            message lists missing and unexpected keys, and keys with another shape.
    """
    state = read_pretrained(source, prefix)
    if convert_weights:
        state = from_official(state)
    state = resize_to(state, backbone)
    # These are computed from the window size, which may differ from that of the file.
    state = {k: v for k, v in state.items() if not k.endswith('.relative_position_index')}
    current = backbone.state_dict()
    missing = [k for k in current if k not in state and not _MAY_BE_MISSING.search(k)]
    unexpected = [k for k in state if k not in current and not OF_ADAPTATION.search(k)]
    misshapen = [f'{k}: {tuple(state[k].shape)} in the file, {tuple(v.shape)} in the backbone'
                 for k, v in current.items() if k in state and state[k].shape != v.shape]
    if missing or misshapen:
        raise ValueError(f'{source} does not fit the backbone.\n  missing: {missing}\n  '
                         f'unexpected: {unexpected}\n  of another shape: {misshapen}')
    if unexpected:
        print_log(f'{source}: unused keys: {unexpected}', 'current')
    backbone.load_state_dict(state, strict=False)


def from_official(state: StateDict) -> StateDict:
    """Convert keys and layouts of the official Swin repository to those of mmdet and mmseg."""
    converted = {}
    for name, value in state.items():
        if name.startswith('head.') or name.endswith('.attn_mask'):
            continue
        for pattern, replacement in _OFFICIAL_NAMES:
            name = re.sub(pattern, replacement, name)
        if '.downsample.' in name:
            value = _unfold_order(value)
        converted[name] = value
    return converted


def resize_to(state: StateDict, backbone: nn.Module) -> StateDict:
    """Interpolate position bias tables and the absolute position embedding to the sizes of the
    backbone (bicubic, as mmdet resizes the tables).

    Raises:
        ValueError: If the shape of a table or embedding is ambiguous or unknown.
    """
    resized = dict(state)
    current = backbone.state_dict()
    for name, value in state.items():
        if name not in current or value.dim() != current[name].dim():
            continue
        target = current[name]
        if name.endswith(_TABLE) and len(value) != len(target):
            side = math.isqrt(len(target))  # windows are square
            square = grid_of(len(value), (side, side), f'{name}: a table')
            resized[name] = resize_grid(value[None], square, (side, side))[0]
        elif name == 'absolute_pos_embed' and value.shape[1] != target.shape[1]:
            grid = grid_of(value.shape[1], backbone.pos_embed_shape, f'{name}: an embedding')
            resized[name] = resize_grid(value, grid, backbone.pos_embed_shape)
    return resized


def _unfold_order(value: Tensor) -> Tensor:
    """Reorder the input channels of patch merging, (..., 4C) -> (..., 4C).

    The official code lists the four patches of a cell column by column, with channels innermost.
    ``nn.Unfold`` lists channels outermost, and the patches row by row.
    """
    patches = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return patches.transpose(-1, -2).flatten(-2).contiguous()


def init_from_scratch(backbone: nn.Module) -> None:
    """Initialise weights randomly, as mmdet's ``SwinTransformer`` does."""
    if backbone.use_abs_pos_embed:
        trunc_normal_(backbone.absolute_pos_embed, std=.02)
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            trunc_normal_init(module, std=.02, bias=0.)
        elif isinstance(module, nn.LayerNorm):
            constant_init(module, 1.)
        elif hasattr(module, 'relative_position_bias_table'):
            trunc_normal_(module.relative_position_bias_table, std=.02)
