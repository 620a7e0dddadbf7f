"""Convert arguments of mmpretrain's ViT, distilled DeiT and LeViT to those of our backbones."""
from typing import Dict, Sequence

from ..models import EvoLeViT, EvoVisionTransformer
from ..models.checkpoints import check_init_cfg

_SIZES = {  # embed_dims, num_layers, num_heads, feedforward_channels
    'small': (768, 8, 8, 2304), 'base': (768, 12, 12, 3072), 'large': (1024, 24, 16, 4096),
    'huge': (1280, 32, 16, 5120), 'deit-tiny': (192, 12, 3, 768), 'deit-small': (384, 12, 6, 1536),
    'deit-base': (768, 12, 12, 3072)}
_SHORT = {'s': 'small', 'b': 'base', 'l': 'large', 'h': 'huge', 'deit-t': 'deit-tiny',
          'deit-s': 'deit-small', 'deit-b': 'deit-base'}
_KEYS = 'embed_dims', 'num_layers', 'num_heads', 'feedforward_channels'
_VIT_SAME = ('img_size', 'in_channels', 'drop_rate', 'drop_path_rate', 'interpolate_mode',
             'with_cls_token')
# Arguments of which only this value, the default, has a counterpart.
_VIT_FIXED = dict(qkv_bias=True, layer_scale_init_value=0, patch_cfg={}, layer_cfgs={})
_LEVIT_SAME = 'img_size', 'mlp_ratio', 'drop_path_rate'
_LEVIT_FIXED = dict(patch_size=16, attn_ratio=2, act_cfg=dict(type='HSwish'), deploy=False)


def vit_of_mmpretrain(arguments: Dict, distilled: bool = False) -> Dict:
    """Convert arguments of mmpretrain's ``VisionTransformer`` to those of EvoVisionTransformer.

    The features are the same. Where mmpretrain outputs the class token, the output is a list of
    feature map and class token, which its ``VisionTransformerClsHead`` takes too. Stochastic depth
    applies to FFNs only, in mmpretrain also to attention.

    Args:
        arguments: Arguments without the type.
        distilled: Whether they are those of ``DistilledVisionTransformer``.

    Raises:
        ValueError: If an argument has no counterpart. The message names it.
    """
    left, name = dict(arguments), EvoVisionTransformer.__name__
    _check_fixed(left, _VIT_FIXED, name)
    arch = left.pop('arch', 'deit-base' if distilled else 'base')
    new = _sizes(arch)
    new.update({key: left.pop(key) for key in _VIT_SAME if key in left})
    if distilled:
        new['with_dist_token'] = True
    patch = left.pop('patch_size', 16)
    new['patch_size'] = patch[0] if isinstance(patch, Sequence) and len({*patch}) == 1 else patch
    out_type = left.pop('out_type', 'cls_token')
    if out_type not in ('cls_token', 'featmap'):
        raise ValueError(f'out_type={out_type!r} has no counterpart in {name}: its output is the '
                         f'feature map, or a list of map and class token')
    new['output_cls_token'] = out_type == 'cls_token'
    outs = left.pop('out_indices', -1)
    new['out_indices'] = [place % new['num_layers'] for place in
                          ([outs] if isinstance(outs, int) else outs)]
    pre_norm = left.pop('pre_norm', False)
    if pre_norm and distilled:
        raise ValueError('pre_norm is ignored by DistilledVisionTransformer')
    new.update(pre_norm=pre_norm, patch_bias=not pre_norm, final_norm=left.pop('final_norm', True),
               norm_cfg=left.pop('norm_cfg', dict(type='LN', eps=1e-6)))
    frozen = left.pop('frozen_stages', -1)
    if frozen > 0:
        raise ValueError(f'frozen_stages={frozen} has no counterpart in {name}')
    return _finished(new, left, name)


def distilled_of_mmpretrain(arguments: Dict) -> Dict:
    """Same as :func:`vit_of_mmpretrain`, for ``DistilledVisionTransformer``.

    Its ``DeiTClsHead`` also takes a list of map, class token and distillation token.
    """
    return vit_of_mmpretrain(arguments, distilled=True)


def levit_of_mmpretrain(arguments: Dict) -> Dict:
    """Convert arguments of mmpretrain's ``LeViT`` to those of EvoLeViT that give the same features.

    EvoLeViT then has attention biases and no class token, so patches are selected by the attention
    that they receive.

    Raises:
        ValueError: If an argument has no counterpart. The message names it.
    """
    left, name = dict(arguments), EvoLeViT.__name__
    _check_fixed(left, _LEVIT_FIXED, name)
    new = dict(arch=left.pop('arch', None), attention_bias=True, with_cls_token=False,
               importance='received')
    if not isinstance(new['arch'], str):
        raise ValueError(f'arch {new["arch"]!r} has no counterpart in {name}: use the '
                         f'name of an architecture')
    outs = left.pop('out_indices', -1)
    new['out_indices'] = [place % 3 for place in ([outs] if isinstance(outs, int) else outs)]
    new.update({key: left.pop(key) for key in _LEVIT_SAME if key in left})
    return _finished(new, left, name)


def _sizes(arch) -> Dict:
    if isinstance(arch, str):
        key = _SHORT.get(arch.lower(), arch.lower())
        if key not in _SIZES:
            raise ValueError(f'arch {arch!r} is not one of {", ".join(_SIZES)}')
        arch = dict(zip(_KEYS, _SIZES[key]))
    if not set(_KEYS) <= set(arch):
        raise ValueError(f'arch {arch} must define {", ".join(_KEYS)}')
    width, depth, heads, hidden = (arch[key] for key in _KEYS)
    ratio = hidden / width
    return dict(embed_dims=width, num_layers=depth, num_heads=heads,
                mlp_ratio=int(ratio) if ratio == int(ratio) else ratio)


def _check_fixed(arguments: Dict, fixed: Dict, name: str) -> None:
    for key, value in fixed.items():
        given = arguments.pop(key, value)
        if given != value:
            raise ValueError(f'{key}={given!r} has no counterpart in {name}, which supports only '
                             f'{key}={value!r}')


def _finished(new: Dict, left: Dict, name: str) -> Dict:
    """Add the `init_cfg`, and check that no other argument is left."""
    init_cfg = left.pop('init_cfg', None)
    if init_cfg:
        check_init_cfg(init_cfg, others=name == EvoVisionTransformer.__name__)
        new['init_cfg'] = init_cfg
    if left:
        raise ValueError(f'{name} has no counterpart for {", ".join(sorted(left))}')
    return new
