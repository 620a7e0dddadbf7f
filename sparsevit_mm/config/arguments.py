"""Check arguments of the backbones, and convert those of mmpretrain's Swin."""
import inspect
from typing import Callable, Dict

from ..models import EvoLeViT, EvoVisionTransformer, SparseSwinTransformer
from ..models.checkpoints import check_init_cfg
from ..models.swin.sparse_swin import image_size, swin_widths
from ..models.vit.evo_vit import vit_widths
from ..models.vit.plan import make_space
from ..sparsity import SparsitySpace

BACKBONE = SparseSwinTransformer.__name__


def _values_of(cls: Callable, arguments: Dict) -> Dict:
    """Return all arguments of a class, including defaults.

    Raises:
        ValueError: If the class does not take an argument. The message names it.
    """
    parameters = inspect.signature(cls).parameters
    unknown = sorted(set(arguments) - set(parameters))
    if unknown:
        raise ValueError(f'{cls.__name__} takes no argument {", ".join(unknown)}')
    return {name: arguments.get(name, p.default) for name, p in parameters.items()}


def check_vit(arguments: Dict) -> SparsitySpace:
    """Same as :func:`check_swin`, for EvoVisionTransformer."""
    values = _values_of(EvoVisionTransformer, arguments)
    _check_weights(values, others=True)
    if values['embed_dims'] % values['num_heads']:
        raise ValueError(f'{values["embed_dims"]} channels can\'t be split into num_heads '
                         f'{values["num_heads"]}')
    vit_widths(values['num_layers'], values['num_heads'],
               values['mlp_ratio'] * values['embed_dims'], values['block_heads'],
               values['ffn_widths'])
    space = make_space(*(values[name] for name in (
        'num_layers', 'reselect', 'stages', 'dense_layers')))
    space.config(values['sparsity'])
    return space


def check_levit(arguments: Dict) -> SparsitySpace:
    """Same as :func:`check_swin`, for EvoLeViT, which is small enough to build."""
    return EvoLeViT(**{**arguments, 'init_cfg': None}).space


def check_swin(arguments: Dict) -> SparsitySpace:
    """Check arguments of SparseSwinTransformer without allocating weights, and return its space.

    Raises:
        ValueError, TypeError: If it does not take an argument, or arguments do not fit each other.
            The message names the argument.
    """
    values = _values_of(SparseSwinTransformer, arguments)
    _check_weights(values)
    image_size(values['pretrain_img_size'])
    depths, heads, width = (values[k] for k in ('depths', 'num_heads', 'embed_dims'))
    for name in ('num_heads', 'strides'):
        if len(values[name]) < len(depths):
            raise ValueError(f'{name} {values[name]} has fewer entries than depths {depths}')
    if values['strides'][0] != values['patch_size']:
        raise ValueError(f'strides[0] is {values["strides"][0]}, patch_size '
                         f'{values["patch_size"]}: they must be equal')
    if max(values['out_indices'], default=0) >= len(depths):
        raise ValueError(f'out_indices {values["out_indices"]} go beyond depths {depths}')
    for stage, count in enumerate(heads[:len(depths)]):
        if width * 2**stage % count:
            raise ValueError(f'num_heads {heads}: the {width * 2**stage} channels of stage '
                             f'{stage} can\'t be split into {count}')
    swin_widths(depths, heads, [width * 2**stage for stage in range(len(depths))],
                values['mlp_ratio'], values['block_heads'], values['ffn_widths'])
    if not isinstance(values['window_size'], int) or values['window_size'] < 1:
        raise ValueError(f'window_size {values["window_size"]} is not a positive integer')
    space = SparsitySpace(depths)
    space.config(values['sparsity'])
    return space


def _check_weights(values: Dict, others: bool = False) -> None:
    pretrained = values['pretrained']
    if pretrained is not None and not isinstance(pretrained, str):
        raise ValueError(f'pretrained {pretrained!r} is not a file or URL')
    check_init_cfg(values['init_cfg'], others)


_ARCHS = {
    'tiny': dict(embed_dims=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24]),
    'small': dict(embed_dims=96, depths=[2, 2, 18, 2], num_heads=[3, 6, 12, 24]),
    'base': dict(embed_dims=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32]),
    'large': dict(embed_dims=192, depths=[2, 2, 18, 2], num_heads=[6, 12, 24, 48])
}
# (default, the only value with a counterpart) of arguments of mmpretrain's Swin. Its drop_rate
# applies to the embedding only, its norm_cfg to the output norms.
_FIXED = dict(
    out_after_downsample=(False, False),
    pad_small_map=(False, True),
    drop_rate=(0., 0.),
    norm_cfg=(dict(type='LN'), dict(type='LN')),
    patch_cfg=({}, {}))
_SAME = ('in_channels', 'window_size', 'drop_path_rate', 'use_abs_pos_embed', 'with_cp')


def from_mmpretrain(arguments: Dict) -> Dict:
    """Convert arguments of the ``SwinTransformer`` of mmpretrain 1.x (mmcls) to those of
    :class:`.SparseSwinTransformer` that give the same features, training and state dict.

    Raises:
        ValueError: If an argument has no counterpart. The message names it.
    """
    left = dict(arguments)
    for name, (default, value) in _FIXED.items():
        given = left.pop(name, default)
        if given != value:
            raise ValueError(f'{name}={given!r} of mmpretrain\'s Swin has no counterpart in '
                             f'{BACKBONE}, which supports only {name}={value!r}')
    arch = left.pop('arch', 'tiny')
    if isinstance(arch, str):
        names = [name for name in _ARCHS if arch.lower() in (name, name[0])]
        if not names:
            raise ValueError(f'arch {arch!r} is not one of {", ".join(_ARCHS)}')
        arch = _ARCHS[names[0]]
    if set(arch) != set(_ARCHS['tiny']):
        raise ValueError(f'arch {arch} must define {", ".join(_ARCHS["tiny"])}')
    new = dict(arch, out_indices=list(left.pop('out_indices', (3, ))))
    new.update({name: left.pop(name) for name in _SAME if name in left})
    patch = left.pop('patch_size', 4)
    patch = patch[0] if isinstance(patch, (list, tuple)) and len({*patch}) == 1 else patch
    new.update(patch_size=patch, strides=[patch] + [2] * (len(arch['depths']) - 1))

    left.pop('norm_eval', None)  # affects batch norms only, which Swin lacks
    size, mode = left.pop('img_size', 224), left.pop('interpolate_mode', 'bicubic')
    frozen = left.pop('frozen_stages', -1)
    if new.get('use_abs_pos_embed'):
        sides = size if isinstance(size, (list, tuple)) else [size]
        if any(side % patch for side in sides):
            raise ValueError(f'img_size {size} is not a multiple of patch_size {patch}')
        if mode != 'bicubic':
            raise ValueError(f'interpolate_mode={mode!r} has no counterpart: only bicubic has')
        if frozen >= 0:
            raise ValueError(f'frozen_stages={frozen} with use_abs_pos_embed has no counterpart: '
                             f'the embedding would be frozen too')
        new['pretrain_img_size'] = size
    if frozen >= 0:  # index of the last frozen stage there, number of frozen stages here
        new['frozen_stages'] = frozen + 1
    new.update(_of_blocks(left.pop('stage_cfgs', None) or {}))
    init_cfg = left.pop('init_cfg', None)
    if init_cfg:
        check_init_cfg(init_cfg)
        new['init_cfg'] = dict(type='Pretrained', checkpoint=init_cfg['checkpoint'])
        prefix = init_cfg.get('prefix') or 'backbone'
        if prefix.rstrip('.') != 'backbone':  # the default prefix here
            new['init_cfg']['prefix'] = prefix
    if left:
        raise ValueError(f'{BACKBONE} has no counterpart for {", ".join(sorted(left))}')
    return new


def _of_blocks(stage_cfgs) -> Dict:
    """Convert `stage_cfgs`, which may only hold values for all blocks at once."""
    names = dict(window_size='window_size', ffn_ratio='mlp_ratio')
    blocks = stage_cfgs.get('block_cfgs', {}) if isinstance(stage_cfgs, dict) else None
    if not isinstance(blocks, dict) or set(stage_cfgs) - {'block_cfgs'} or set(blocks) - set(names):
        raise ValueError(f'stage_cfgs {stage_cfgs} has no counterpart: only block_cfgs with '
                         f'{" and ".join(names)}, the same in all blocks, have one')
    return {names[name]: value for name, value in blocks.items()}
