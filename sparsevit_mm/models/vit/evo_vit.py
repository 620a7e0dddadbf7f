"""EvoVisionTransformer: a plain ViT whose uninformative patches take a summary's update (Evo-ViT,
AAAI 2022)."""
import math
import warnings
from functools import partial
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import PatchEmbed
from mmengine.model import ModuleList
from mmengine.registry import MODELS
from mmengine.utils import to_2tuple
from torch import Tensor, nn

from ...sparsity import Sparsity, SparsityConfig, kept_windows
from ..interface import SparseBackbone
from ..selection.importance import LEARNED, TOKEN_SCORES, MapInfo
from ..selection.ranking import Selection
from .block import ATTENTION, EncoderLayer
from .evolution import Kept, blend, gather, margin, representative, select, update
from .macs import vit_macs
from .plan import FAST, Group, blend_weights, check_config, groups_of, make_space
from .pretrained import init_from_scratch, load_pretrained


@MODELS.register_module()
class EvoVisionTransformer(SparseBackbone):
    """A drop-in for mmseg's ``VisionTransformer`` with slow-fast token evolution.

    Takes its arguments, has its state-dict names, and at zero sparsity equals it; a position
    embedding is resized wherever the grid differs, not only where the number of patches does. At
    sparsity r a layer runs the ``floor(N * (1 - r))`` patches of highest importance, at least one;
    the others stay in their places, take the update of their representative, and may come back in
    a later layer (Evo-ViT, section 3). Maps are whole at every output.

    Args:
        img_size: Image size of the pretraining, in pixels: gives the grid of the position
            embedding, which is resized to any other.
        patch_size: Side of a patch, in pixels.
        patch_pad: How images that are no multiple of it are padded, see mmcv's ``PatchEmbed``.
        in_channels: Channels of the input.
        embed_dims: Channels.
        num_layers, num_heads, mlp_ratio, num_fcs: Of the layers.
        out_origin: Whether the embedding is an output, too.
        out_indices: Layers whose features are returned; -1 for the last.
        qkv_bias: Whether attention has biases, that of its output projection included, as in mmseg.
        drop_rate, attn_drop_rate, drop_path_rate: Dropout, and stochastic depth of FFNs.
        with_cls_token: Whether the class token runs along.
        output_cls_token: Whether outputs are pairs of map and class token.
        norm_cfg, act_cfg: mmcv layer configs.
        patch_norm, patch_bias, pre_norm, final_norm: Norms and bias that may be there.
        interpolate_mode: Of resized position embeddings.
        norm_eval: Keep norms in eval mode.
        with_cp: Recompute activations in the backward pass to save memory.
        frozen_exclude: Parts of names of parameters that train, others are frozen; ['all'] freezes
            none.
        pretrained: Deprecated form of ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: Of mmengine. Of type 'Pretrained', the checkpoint may be mmseg's, mmpretrain's,
            timm's or DeiT's, or the released Evo-ViT's, see :mod:`.pretrained`.
        sparsity: One ratio per layer, or what else :class:`~sparsevit_mm.sparsity.SparsityConfig`
            takes; keep ratio = 1 - ratio. One number is that of all but the dense layers.
        importance: How patches are ranked: 'class_attention' (as published), 'received', the
            attention that patches receive, or a score of :mod:`..selection.importance`.
        fast: What the others get: 'representative', or 'copy', nothing.
        reselect: Whether patches are chosen anew in each 'layer', or for each 'stage'.
        stages: With 'stage', the first layers of the stages after the first; by default at a third
            and two thirds of the depth.
        dense_layers: The first layers that one number leaves dense, and a search; by default a
            third of the depth.
        blend: How much of a layer's attention enters the importance: a number, or one per layer;
            by default 1 in the first third and 0.5 after.
        execution: How inference runs, see :mod:`..execution`.

    Raises:
        ValueError: A setting that does not fit the others; names it.
    """

    scores = (*ATTENTION, *(name for name in TOKEN_SCORES if name != LEARNED))

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
                 execution: str = 'eager'):
        if pretrained is not None:
            if init_cfg is not None:
                raise ValueError('pretrained and init_cfg exclude each other')
            warnings.warn('pretrained is deprecated, use init_cfg=dict(type="Pretrained", '
                          'checkpoint=...)', DeprecationWarning)
            init_cfg = dict(type='Pretrained', checkpoint=pretrained)
        if output_cls_token and not with_cls_token:
            raise ValueError('output_cls_token needs with_cls_token')
        if fast not in FAST:
            raise ValueError(f'fast {fast!r} is none of {", ".join(FAST)}')
        if isinstance(out_indices, int):
            out_indices = [num_layers - 1 if out_indices == -1 else out_indices]
        self._selection = None
        self._reselect, self._stages, self._dense_layers = reselect, stages, dense_layers
        super().__init__(make_space(num_layers, reselect, stages, dense_layers), in_channels,
                         patch_size, out_indices, None, execution, init_cfg)
        self.fast, self.out_origin, self.norm_eval = fast, out_origin, norm_eval
        self.with_cls_token, self.output_cls_token = with_cls_token, output_cls_token
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
        self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.grid) + 1, embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)
        self.pre_norm, self.final_norm = pre_norm, final_norm
        if pre_norm:
            self.pre_ln_name, norm = build_norm_layer(norm_cfg, embed_dims, postfix='_pre')
            self.add_module(self.pre_ln_name, norm)
        drop_path_rates = torch.linspace(0, drop_path_rate, num_layers).tolist()
        self.layers = ModuleList(
            EncoderLayer(embed_dims, num_heads, mlp_ratio * embed_dims, drop_rate, attn_drop_rate,
                         rate, num_fcs, qkv_bias, act_cfg, norm_cfg, with_cp)
            for rate in drop_path_rates)
        if final_norm:
            self.norm1_name, norm = build_norm_layer(norm_cfg, embed_dims, postfix=1)
            self.add_module(self.norm1_name, norm)
        self._maps: Optional[List[List[Tensor]]] = None  # while it is recorded
        self._margins: Optional[List[float]] = None  # while they are asked for
        self.selection = Selection(importance)
        self.sparsity = sparsity
        self._freeze()

    @property
    def reselect(self) -> str:
        """Whether patches are chosen anew for each 'layer' or 'stage'. May be set at any time; the
        ratios stay, and ValueError names a stage whose layers differ in theirs."""
        return self._reselect

    @reselect.setter
    def reselect(self, value: str) -> None:
        space = make_space(len(self.layers), value, self._stages, self._dense_layers)
        config = SparsityConfig([r for stage in self.sparsity.ratios for r in stage], space.depths,
                                group=1)
        check_config(config, value, self.selection.importance,
                     self.selection.importance in ATTENTION)
        self._reselect, self.space = value, space
        self.sparsity = config

    @SparseBackbone.sparsity.setter
    def sparsity(self, value: Sparsity) -> None:
        config = self.space.config(value)
        if self._selection is not None:
            self._check(config, self._selection)
        self._sparsity = config
        self._groups = groups_of(config, self.reselect)
        self._last_choice = max([g.layers[0] for g in self._groups if g.ratio], default=-1)

    @SparseBackbone.selection.setter
    def selection(self, value: Selection) -> None:
        self._check(self.sparsity, value)
        SparseBackbone.selection.fset(self, value)

    def _check(self, config: SparsityConfig, selection: Selection) -> None:
        check_config(config, self.reselect, selection.importance,
                     selection.importance in ATTENTION)
        if selection.importance == 'class_attention' and not (
                self.with_cls_token or config.is_dense):
            raise ValueError("importance 'class_attention' needs with_cls_token; without it take "
                             "'received', the attention that patches receive")

    def forward(self, x: Tensor) -> Tuple[Union[Tensor, List[Tensor]], ...]:
        """Features of an image.

        Args:
            x: (B, in_channels, H, W), any H and W.

        Returns:
            One (B, C, h, w) map for each of `out_indices`, as a list with the (B, C) class token if
            `output_cls_token`.
        """
        if not self.sparsity.is_dense:
            self.adapted_to.check(self.selection.importance, self.training)
        if self._executor is None:
            return self._forward(x)
        return self._executor(self, self._forward, (self.sparsity, self.selection), (x, ))

    def _forward(self, x: Tensor):
        x, hw_shape = self._embed(x)
        outs = [self._output(x, hw_shape)] if self.out_origin else []
        importance = None
        tell = self.selection.importance if self.selection.importance in ATTENTION else None
        for group in self._groups:
            # What attention tells is of use to a later selection only.
            tells = [tell if layer < self._last_choice else None for layer in group.layers]
            output = partial(self._collect, outs, hw_shape)
            if not group.ratio:
                x, importance = self._run_dense(x, importance, group, tells, output)
                self._note(group, hw_shape, x.shape[0])
            else:
                x, importance = self._evolve(x, importance, group, tells, output, hw_shape)
        return tuple(outs)

    def _run_dense(self, x: Tensor, importance: Optional[Tensor], group: Group,
                   tells: Sequence[Optional[str]], output) -> Tuple[Tensor, Optional[Tensor]]:
        for layer, tell in zip(group.layers, tells):
            x, told = self.layers[layer](x, tell)
            if told is not None:
                importance = blend(importance, told[:, self.prefix:],
                                   self._weight(layer, importance))
            x = self._finish(x, layer)
            output(layer, lambda: x)
        return x, importance

    def _evolve(self, x: Tensor, importance: Optional[Tensor], group: Group,
                tells: Sequence[Optional[str]], output,
                hw_shape: Tuple[int, int]) -> Tuple[Tensor, Optional[Tensor]]:
        """Selects, runs the layers of a group on what is kept, and brings all together."""
        prefix, patches = self.prefix, x[:, self.prefix:]
        scores = importance
        if self.selection.importance in TOKEN_SCORES:
            scores = TOKEN_SCORES[self.selection.importance](
                patches.detach(), MapInfo(tuple(hw_shape)))
        total = patches.shape[1]
        kept = select(scores, kept_windows(total, group.ratio), prefix)
        count = kept.patches.shape[1]
        tokens = gather(x, kept)
        summary = None
        if self.fast == 'representative' and count < total:
            summary = representative(patches, scores, kept.patches)
            tokens = torch.cat([tokens, summary], 1)
        self._note(group, hw_shape, x.shape[0], kept)
        if self._margins is not None and count < total:
            self._margins.append(margin(scores, count))

        def whole() -> Tensor:
            if summary is None:
                return update(x, tokens, kept)
            return update(x, tokens[:, :-1], kept, tokens[:, -1:] - summary)

        for layer, tell in zip(group.layers, tells):
            tokens, told = self.layers[layer](tokens, tell)
            if told is not None:
                new = told[:, prefix:prefix + count]
                importance = blend(importance, new, self._weight(layer, importance), kept.patches)
            if layer == len(self.layers) - 1:
                after = self._finish(whole(), layer)
                output(layer, lambda: after)
                return after, importance
            output(layer, whole)
        return whole(), importance

    def _weight(self, layer: int, importance: Optional[Tensor]) -> float:
        return 1. if importance is None else self.blend[layer]

    @property
    def prefix(self) -> int:
        """Tokens before the patches: 1 with a class token, else 0."""
        return int(self.with_cls_token)

    def _embed(self, x: Tensor) -> Tuple[Tensor, Tuple[int, int]]:
        x, hw_shape = self.patch_embed(x)
        position = self.pos_embed
        if tuple(hw_shape) != self.grid:
            grid = position[:, 1:].reshape(1, *self.grid, -1).permute(0, 3, 1, 2)
            grid = F.interpolate(grid, size=tuple(hw_shape), mode=self.interpolate_mode,
                                 align_corners=False if 'bi' in self.interpolate_mode else None)
            position = torch.cat([position[:, :1], grid.flatten(2).transpose(1, 2)], 1)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        x = self.drop_after_pos(x + position)[:, 1 - self.prefix:]
        return (getattr(self, self.pre_ln_name)(x) if self.pre_norm else x), hw_shape

    def _finish(self, x: Tensor, layer: int) -> Tensor:
        if self.final_norm and layer == len(self.layers) - 1:
            return getattr(self, self.norm1_name)(x)
        return x

    def _collect(self, outs: list, hw_shape: Tuple[int, int], layer: int, whole) -> None:
        if layer in self.out_indices:
            outs.append(self._output(whole(), hw_shape))

    def _output(self, x: Tensor, hw_shape: Tuple[int, int]) -> Union[Tensor, List[Tensor]]:
        out = x[:, self.prefix:].transpose(1, 2).unflatten(2, tuple(hw_shape)).contiguous()
        return [out, x[:, 0]] if self.output_cls_token else out

    def macs(self, shape: Sequence[int], config: SparsityConfig,
             count_padding: bool = False) -> int:
        """Of one image, see :func:`~.macs.vit_macs`."""
        return vit_macs(self, self._grid_of(shape), config)

    def totals(self, shape: Sequence[int]) -> List[int]:
        """Patches, the same in each stage."""
        return [math.prod(self._grid_of(shape))] * len(self.depths)

    def _grid_of(self, shape: Sequence[int]) -> Tuple[int, int]:
        return tuple(math.ceil(side / self.patch_size) for side in shape)

    def token_sides(self) -> List[int]:
        return [self.patch_size] * len(self.depths)

    def identity(self) -> Dict:
        layer = self.layers[0]
        return {
            'depths': list(self.depths),
            'channels': self.embed_dims,
            'heads': layer.attn.attn.num_heads,
            'hidden channels': layer.ffn.feedforward_channels,
            'patch size': self.patch_size,
            'in channels': self.in_channels,
            'outputs': list(self.out_indices),
            'class token': self.with_cls_token,
            'importance': self.selection.importance,
            'fast': self.fast,
            'reselect': self.reselect,
            'parameters': sum(p.numel() for p in self.parameters()),
        }

    def smallest_margin(self, image: Tensor) -> float:
        self._margins = []
        try:
            with torch.no_grad():
                self(image)
            return min(self._margins, default=float('inf'))
        finally:
            self._margins = None

    def _record(self, maps: List[List[Tensor]]) -> list:
        self._maps = maps
        return [self]

    def remove(self) -> None:
        """Ends a recording, as a hook's handle does."""
        self._maps = None

    def _note(self, group: Group, hw_shape: Tuple[int, int], batch: int,
              kept: Optional[Kept] = None) -> None:
        if self._maps is None:
            return
        ran = torch.full((batch, math.prod(hw_shape)), kept is None)
        if kept is not None:
            ran.scatter_(1, kept.patches.cpu(), True)
        stage = 0 if self.reselect == 'layer' else [
            sum(self.depths[:i]) for i in range(len(self.depths))].index(group.layers[0])
        self._maps[stage] += [ran.unflatten(1, tuple(hw_shape))] * len(group.layers)

    def init_weights(self) -> None:
        """From scratch as mmseg does it, or from the checkpoint that `init_cfg` names."""
        if isinstance(self.init_cfg, dict) and self.init_cfg.get('type') in (
                'Pretrained', 'Pretrained_Part'):
            part = 'image_encoder' if self.init_cfg['type'] == 'Pretrained_Part' else None
            load_pretrained(self, self.init_cfg['checkpoint'], part)
        elif self.init_cfg is not None:
            super().init_weights()
        else:
            init_from_scratch(self)

    def train(self, mode: bool = True) -> 'EvoVisionTransformer':
        """Sets the mode; returns self."""
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
