"""EvoVisionTransformer: a plain ViT with slow-fast token evolution (Evo-ViT, AAAI 2022)."""
import math
from functools import partial
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import PatchEmbed
from mmengine.model import ModuleList
from mmengine.registry import MODELS
from mmengine.utils import to_2tuple
from torch import Tensor, nn

from ...sparsity import Sparsity, SparsityConfig, SparsitySpace
from ...widths import StageWidths
from ..block_widths import Widths, block_widths, uniform
from ..checkpoints import with_pretrained
from ..grids import resize_grid
from ..selection.head import check_heads
from ..selection.importance import SELECTOR, TOKEN_SCORES, MapInfo
from ..selection.ranking import Selection
from ..selection.selector import TokenSelector, add_gumbel_noise
from .block import EncoderLayer
from .evolving import EvolvingBackbone
from .macs import vit_macs
from .plan import blend_weights, make_space
from .pretrained import init_from_scratch, load_pretrained, translate


def vit_widths(num_layers: int, num_heads: int, hidden: float, block_heads: Widths,
               ffn_widths: Widths) -> Tuple[List[int], List[int]]:
    """Return the number of heads and of hidden channels of every layer. Raises the errors of
    :func:`..block_widths.block_widths`."""
    return (block_widths(block_heads, [num_heads] * num_layers, 'block_heads',
                         at_most_default=True),
            block_widths(ffn_widths, [hidden] * num_layers, 'ffn_widths'))


@MODELS.register_module()
class EvoVisionTransformer(EvolvingBackbone):
    """Drop-in replacement for mmseg's ``VisionTransformer`` with slow-fast token evolution.

    It takes the same arguments, has the same state-dict keys, and equals mmseg's backbone at zero
    sparsity, except that the position embedding is resized whenever the grid differs, not only when
    the number of patches does. At sparsity ratio r a layer runs the ``floor(N * (1 - r))`` patches
    of highest importance, at least one. The others keep their positions, receive the update of
    their representative, and can be selected again by a later layer (Evo-ViT, section 3). Output
    maps hold all patches.

    Args:
        img_size: Image size of the pretraining in pixels. Sets the grid of the position embedding,
            which is resized to the grid of each input.
        patch_size: Side of a patch in pixels.
        patch_pad: Padding of images whose size is not a multiple of `patch_size`, see mmcv's
            ``PatchEmbed``.
        in_channels: Number of input channels.
        embed_dims: Number of embedding channels.
        num_layers, num_heads, mlp_ratio, num_fcs: Depth, heads per layer, ratio of the FFN's hidden
            channels to `embed_dims`, and linear layers per FFN.
        out_origin: Whether to output the patch embedding as well.
        out_indices: Layers whose features are returned; -1 for the last.
        qkv_bias: Whether the attention has biases, including its output projection, as in mmseg.
        drop_rate, attn_drop_rate: Dropout rates.
        drop_path_rate: Stochastic depth rate of the FFNs.
        with_cls_token: Whether the class token runs through the layers.
        with_dist_token: Whether to add a distillation token, as in mmpretrain's
            ``DistilledVisionTransformer``.
        output_cls_token: Whether each output is a list of feature map, class token and, if present,
            distillation token.
        norm_cfg, act_cfg: mmcv layer configs.
        patch_norm, patch_bias: Whether the patch embedding has a norm and a bias.
        pre_norm, final_norm: Whether there is a norm before the first and after the last layer.
        interpolate_mode: Interpolation mode for resizing the position embedding.
        norm_eval: Keep LayerNorms in eval mode.
        with_cp: Recompute activations in the backward pass to save memory.
        frozen_exclude: Substrings of the names of trainable parameters; all others are frozen.
            ``['all']`` freezes none.
        pretrained: Deprecated form of ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: mmengine's initialisation config. A 'Pretrained' checkpoint may come from mmseg,
            mmpretrain, timm, DeiT or the released Evo-ViT, see :mod:`.pretrained`.
        sparsity: One ratio per layer, or any other form that
            :class:`~sparsevit_mm.sparsity.SparsityConfig` takes; keep ratio = 1 - sparsity ratio. A
            single number applies to all but the dense layers.
        importance: How to rank patches: 'class_attention' (as published), 'received' (the attention
            that patches receive), or a score of :mod:`..selection.importance`. 'selector', from
            SViTE+, scores the patch embedding; with ``fast='copy'``, ``reselect='stage'``,
            ``stages=()`` and ``dense_layers=0`` the patches that it drops run in no layer.
        fast: Update of the patches that do not run: 'representative', or 'copy' for none.
        reselect: Whether to select patches in each 'layer' or once per 'stage'.
        stages: With ``reselect='stage'``, the first layer of each stage after the first; by default
            at one third and two thirds of the depth.
        dense_layers: Number of leading layers that a single ratio, or a search, leaves dense; by
            default a third of the depth.
        blend: Weight of a layer's attention in the importance, one number or one per layer; by
            default 1 in the first third of the layers and 0.5 after it.
        execution: How inference runs, see :mod:`..execution`.
        widths: Share of each layer's heads and FFN neurons that run, always the first ones:
            ``dict(heads=.5, ffn=.75)``, or with ``reselect='stage'`` lists with one share per
            stage, see :mod:`sparsevit_mm.widths`. Can be changed at any time.
        block_heads, ffn_widths: Number of heads, and of hidden FFN channels, of each layer, as
            written by ``tools/compact_model.py``. One entry per layer; None takes the value of
            `num_heads` or `mlp_ratio`. Each head keeps ``embed_dims / num_heads`` channels.

    Raises:
        ValueError: If settings are invalid or contradict each other. Names the setting.
    """

    other_inits = True
    scores = (*EvolvingBackbone.scores, SELECTOR)

    def __init__(self,
                 img_size: Union[int, Sequence[int]] = 224,
                 patch_size: int = 16,
                 patch_pad: Union[str, int] = 'corner',
                 in_channels: int = 3,
                 embed_dims: int = 768,
                 num_layers: int = 12,
                 num_heads: int = 12,
                 mlp_ratio: float = 4,
                 out_origin: bool = False,
                 out_indices: Union[int, Sequence[int]] = -1,
                 qkv_bias: bool = True,
                 drop_rate: float = 0.,
                 attn_drop_rate: float = 0.,
                 drop_path_rate: float = 0.,
                 with_cls_token: bool = True,
                 with_dist_token: bool = False,
                 output_cls_token: bool = False,
                 norm_cfg: dict = dict(type='LN'),
                 act_cfg: dict = dict(type='GELU'),
                 patch_norm: bool = False,
                 patch_bias: bool = False,
                 pre_norm: bool = False,
                 final_norm: bool = False,
                 interpolate_mode: str = 'bicubic',
                 num_fcs: int = 2,
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 frozen_exclude: Sequence[str] = ('all', ),
                 pretrained: Optional[str] = None,
                 init_cfg: Optional[dict] = None,
                 sparsity: Sparsity = None,
                 importance: str = 'class_attention',
                 fast: str = 'representative',
                 reselect: str = 'layer',
                 stages: Optional[Sequence[int]] = None,
                 dense_layers: Optional[int] = None,
                 blend: Optional[Union[float, Sequence[float]]] = None,
                 execution: str = 'eager',
                 block_heads: Widths = None,
                 ffn_widths: Widths = None,
                 widths: Optional[dict] = None):
        init_cfg = with_pretrained(init_cfg, pretrained)
        if isinstance(out_indices, int):
            out_indices = [num_layers - 1 if out_indices == -1 else out_indices]
        self._spaces = partial(make_space, num_layers, stages=stages, dense_layers=dense_layers)
        super().__init__(fast, reselect, with_cls_token, output_cls_token, in_channels=in_channels,
                         patch_size=patch_size, out_indices=out_indices, execution=execution,
                         init_cfg=init_cfg, widths=widths)
        self.patch_pad, self.out_origin, self.norm_eval = patch_pad, out_origin, norm_eval
        self.embed_dims, self.interpolate_mode = embed_dims, interpolate_mode
        self.frozen_exclude = frozen_exclude
        self.blend = blend_weights(blend, num_layers)
        size = to_2tuple(img_size[0] if not isinstance(img_size, int) and len(img_size) == 1
                         else img_size)
        self.grid = tuple(side // patch_size for side in size)

        self.patch_embed = PatchEmbed(
            in_channels=in_channels, embed_dims=embed_dims, kernel_size=patch_size,
            stride=patch_size, padding=patch_pad, bias=patch_bias,
            norm_cfg=norm_cfg if patch_norm else None)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        if with_dist_token:
            if not with_cls_token:
                raise ValueError('with_dist_token needs with_cls_token')
            self.dist_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
            self.prefix = 2
        self.pos_embed = nn.Parameter(torch.zeros(
            1, math.prod(self.grid) + 1 + with_dist_token, embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)
        self.pre_norm, self.final_norm = pre_norm, final_norm
        if pre_norm:
            self.pre_ln_name, norm = build_norm_layer(norm_cfg, embed_dims, postfix='_pre')
            self.add_module(self.pre_ln_name, norm)
        drop_path_rates = torch.linspace(0, drop_path_rate, num_layers).tolist()
        self.layers = ModuleList(
            EncoderLayer(embed_dims, num_heads, hidden, drop_rate, attn_drop_rate, rate, num_fcs,
                         qkv_bias, act_cfg, norm_cfg, with_cp, heads)
            for rate, heads, hidden in zip(drop_path_rates, *vit_widths(
                num_layers, num_heads, round(mlp_ratio * embed_dims), block_heads, ffn_widths)))
        self.selector: Optional[TokenSelector] = None
        if final_norm:
            self.norm1_name, norm = build_norm_layer(norm_cfg, embed_dims, postfix=1)
            self.add_module(self.norm1_name, norm)
        self.selection = Selection(importance)
        self.sparsity = sparsity
        self._check_widths(self.widths)
        self._freeze()

    def _make_space(self, reselect: str) -> SparsitySpace:
        return self._spaces(reselect)

    def _forward(self, x: Tensor) -> Tuple[Union[Tensor, List[Tensor]], ...]:
        x, grid = self._embed(x)
        outs = [self._output(x, grid)] if self.out_origin else []
        importance = self._selector_scores(x, grid)
        widths = [width for stage in self.running_units() for width in stage]

        def run(layer: int, tokens: Tensor, score: Optional[str], kept: Optional[Tensor]):
            return (*self.layers[layer](tokens, score, widths[layer]), self.blend[layer])

        def collect(layer: int, whole: Callable[[], Tensor]) -> None:
            if layer in self.out_indices:
                outs.append(self._output(self._finish(whole(), layer), grid))

        for stage, groups in enumerate(self._groups):
            for group in groups:
                x, importance = self._run_group(x, importance, grid, stage, group, run, collect)
        return tuple(outs)

    def _selector_scores(self, x: Tensor, grid: Tuple[int, int]) -> Optional[Tensor]:
        """Return the token selector's scores of the embedding, (B, N), with Gumbel noise in
        training; None if the selector is not in use."""
        if self.selection.importance != SELECTOR or self.sparsity.is_dense:
            return None
        trains = self.training and torch.is_grad_enabled()
        with torch.set_grad_enabled(trains):
            scores = TOKEN_SCORES[SELECTOR](x[:, self.prefix:].detach(),
                                            MapInfo(grid, selector=self.selector))
            return add_gumbel_noise(scores.square()).sqrt() if trains else scores

    @EvolvingBackbone.selection.setter
    def selection(self, value: Selection) -> None:
        EvolvingBackbone.selection.fset(self, value)
        self._make_heads({value.importance})

    def _make_heads(self, names: Set[str]) -> None:
        if SELECTOR in names and self.selector is None:
            self.selector = TokenSelector(self.embed_dims).to(
                self.pos_embed.device, self.pos_embed.dtype)

    def scores_held(self, state_dict: Mapping[str, Tensor], prefix: str) -> Set[str]:
        held = check_heads(state_dict, prefix, SELECTOR, {'selector.weight': self.embed_dims})
        return {SELECTOR} if held else set()

    def _load_from_state_dict(self, state_dict, prefix, *args):
        self._load_heads(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _embed(self, x: Tensor) -> Tuple[Tensor, Tuple[int, int]]:
        x, hw_shape = self.patch_embed(x)
        position, tokens = self.pos_embed, [self.cls_token]
        if self.prefix == 2:
            tokens.append(self.dist_token)
        first = len(tokens)
        if tuple(hw_shape) != self.grid:
            position = torch.cat([position[:, :first], resize_grid(
                position[:, first:], self.grid, hw_shape, self.interpolate_mode)], 1)
        x = torch.cat([*(token.expand(x.shape[0], -1, -1) for token in tokens), x], 1)
        x = self.drop_after_pos(x + position)[:, first - self.prefix:]
        if self.training and self.selector is not None:
            # An unused selector would have no gradient, which DDP does not allow.
            x = x + 0. * self.selector.weight.sum()
        return (getattr(self, self.pre_ln_name)(x) if self.pre_norm else x), hw_shape

    def _finish(self, x: Tensor, layer: int) -> Tensor:
        if self.final_norm and layer == len(self.layers) - 1:
            return getattr(self, self.norm1_name)(x)
        return x

    def macs(self, shape: Sequence[int], config: SparsityConfig,
             count_padding: bool = False) -> int:
        """Return the MACs of one image, see :func:`~.macs.vit_macs`."""
        return vit_macs(self, self._grid_of(shape), config)

    def totals(self, shape: Sequence[int]) -> List[int]:
        """Return the number of patches, the same in each stage."""
        return [math.prod(self._grid_of(shape))] * len(self.depths)

    def _grid_of(self, shape: Sequence[int]) -> Tuple[int, int]:
        if isinstance(self.patch_pad, str):  # pads to a multiple of the patch size
            return tuple(math.ceil(side / self.patch_size) for side in shape)
        return tuple((side + 2 * pad) // self.patch_size
                     for side, pad in zip(shape, to_2tuple(self.patch_pad)))

    def token_sides(self) -> List[int]:
        return [self.patch_size] * len(self.depths)

    def attention_blocks(self) -> List[nn.Module]:
        return list(self.layers)

    def _check_widths(self, widths: StageWidths) -> None:
        super()._check_widths(widths)
        fcs = self.layers[0].ffn.num_fcs
        if fcs != 2 and not widths.is_full:
            raise ValueError(f'widths: an FFN of {fcs} layers cannot run a subset of its neurons')

    def identity(self) -> Dict:
        units = [width for stage in self.unit_numbers() for width in stage]
        return {
            'depths': list(self.depths),
            'channels': self.embed_dims,
            'heads': uniform([width.heads for width in units]),
            'hidden channels': uniform([width.neurons for width in units]),
            'patch size': self.patch_size,
            'in channels': self.in_channels,
            'outputs': list(self.out_indices),
            'class token': bool(self.prefix),
            'importance': self.selection.importance,
            'fast': self.fast,
            'reselect': self.reselect,
            'parameters': sum(p.numel() for p in self.parameters()),
        }

    def init_weights(self) -> None:
        """Load the checkpoint in `init_cfg`, or follow another type of it as mmengine does. Without
        `init_cfg`, initialise from scratch as in mmseg."""
        if isinstance(self.init_cfg, dict) and self.init_cfg.get('type') in (
                'Pretrained', 'Pretrained_Part'):
            part = 'image_encoder' if self.init_cfg['type'] == 'Pretrained_Part' else None
            load_pretrained(self, self.init_cfg['checkpoint'], self.init_cfg.get('prefix', part))
        elif self.init_cfg is not None:
            super().init_weights()
        else:
            init_from_scratch(self)

    def own_names(self, state: Dict[str, Tensor]) -> Dict[str, Tensor]:
        if not any('.attn.qkv.' in name for name in state):
            return state
        return translate(state, self.prefix == 2)[0]

    def train(self, mode: bool = True) -> 'EvoVisionTransformer':
        """Set the mode, keeping LayerNorms in eval mode with `norm_eval`. Returns self."""
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.LayerNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        if 'all' in self.frozen_exclude:
            return
        for name, param in self.named_parameters():
            if not any(part in name for part in self.frozen_exclude):
                param.requires_grad = False
