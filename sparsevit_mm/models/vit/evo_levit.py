"""EvoLeViT: LeViT whose uninformative patches take a summary's update (Evo-ViT, AAAI 2022)."""
import math
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from mmengine.model import ModuleList
from mmengine.registry import MODELS
from mmengine.utils import to_2tuple
from torch import Tensor, nn

from ...sparsity import Sparsity, SparsityConfig, SparsitySpace, kept_windows
from ..interface import SparseBackbone
from ..selection.importance import LEARNED, TOKEN_SCORES, MapInfo
from ..selection.ranking import Selection
from .block import ATTENTION
from .evolution import blend, gather, margin, representative, select, update
from .levit_layers import ConvBN, FeedForwardResidual, LeViTAttention, LeViTLayer, take_every
from .plan import FAST, RESELECT, check_config, groups_of
from .pretrained import load_plain

ARCHS = {
    '128s': dict(embed_dims=(128, 256, 384), num_heads=(4, 6, 8), depths=(2, 3, 4), key_dims=16),
    '128': dict(embed_dims=(128, 256, 384), num_heads=(4, 8, 12), depths=(4, 4, 4), key_dims=16),
    '192': dict(embed_dims=(192, 288, 384), num_heads=(3, 5, 6), depths=(4, 4, 4), key_dims=32),
    '256': dict(embed_dims=(256, 384, 512), num_heads=(4, 6, 8), depths=(4, 4, 4), key_dims=32),
    '384': dict(embed_dims=(384, 512, 768), num_heads=(6, 9, 12), depths=(4, 4, 4), key_dims=32),
}


class Stream(NamedTuple):
    """What goes from layer to layer.

    Attributes:
        x: (B, P + N, C).
        importance: (B, N) fp32; None before the first attention.
        grid: (H, W) of the N patches.
    """
    x: Tensor
    importance: Optional[Tensor]
    grid: Tuple[int, int]


@MODELS.register_module()
class EvoLeViT(SparseBackbone):
    """LeViT with a class token and slow-fast token evolution.

    The released variant adds position embeddings at the input and before each subsample, and has no
    attention biases; with `attention_bias` it is the dense LeViT of before, whose bias rows and
    columns are gathered with the patches (0 for class token and representative).

    Args:
        arch: '128s', '128', '192', '256' or '384', or a dict of `embed_dims`, `num_heads`,
            `depths` and `key_dims`.
        img_size: Size of the input, in pixels: LeViT's positions and biases belong to one size.
        in_channels: Channels of the input.
        attn_ratio, mlp_ratio: Channels of values and of hidden layers, over keys and embeddings.
        with_cls_token: Whether there is a class token.
        attention_bias: Whether attention has biases, and the input no position embeddings.
        out_indices: Stages whose features are returned, of strides 16, 32 and 64.
        output_cls_token: Whether outputs are pairs of map and class token.
        dense_layers: The first layers that one number leaves dense, and a search.
        sparsity, importance, fast, reselect, execution: As of
            :class:`~.evo_vit.EvoVisionTransformer`; with 'stage' a selection serves what is left
            of a stage after the dense layers.
        init_cfg: None, or ``dict(type='Pretrained', checkpoint=FILE)`` with the released names.

    Raises:
        ValueError: A setting that does not fit the others; names it.
    """
    scores = (*ATTENTION, *(name for name in TOKEN_SCORES if name != LEARNED))

    def __init__(self,
                 arch: Union[str, Dict] = '128s',
                 img_size: Union[int, Sequence[int]] = 224,
                 in_channels: int = 3,
                 attn_ratio: float = 2,
                 mlp_ratio: float = 2,
                 with_cls_token: bool = True,
                 attention_bias: bool = False,
                 out_indices: Sequence[int] = (2, ),
                 output_cls_token: bool = False,
                 dense_layers: int = 2,
                 sparsity: Sparsity = None,
                 importance: str = 'class_attention',
                 fast: str = 'representative',
                 reselect: str = 'layer',
                 execution: str = 'eager',
                 init_cfg: Optional[dict] = None):
        if isinstance(arch, str) and arch.lower() not in ARCHS:
            raise ValueError(f'arch {arch!r} is none of {", ".join(ARCHS)}')
        arch = ARCHS[arch.lower()] if isinstance(arch, str) else arch
        if set(arch) != set(ARCHS['128']):
            raise ValueError(f'arch {arch} must give {", ".join(ARCHS["128"])}')
        for name, value, known in (('fast', fast, FAST), ('reselect', reselect, RESELECT)):
            if value not in known:
                raise ValueError(f'{name} {value!r} is none of {", ".join(known)}')
        if output_cls_token and not with_cls_token:
            raise ValueError('output_cls_token needs with_cls_token')
        widths, depths = tuple(arch['embed_dims']), tuple(arch['depths'])
        space = SparsitySpace(depths, group=1 if reselect == 'layer' else max(depths),
                              nested=False, dense=dense_layers)
        self._selection = None
        self.reselect, self.dense_layers = reselect, dense_layers
        super().__init__(space, in_channels, 16, out_indices, None, execution, init_cfg)
        self.fast, self.output_cls_token, self.prefix = fast, output_cls_token, int(with_cls_token)
        self.num_features, self.mlp_ratio = widths, mlp_ratio
        size = to_2tuple(img_size)
        stem = [in_channels, *(widths[0] // 8 * 2**i for i in range(4))]
        convs = [ConvBN(a, b) for a, b in zip(stem, stem[1:])]
        stem = [m for conv in convs for m in (conv, nn.Hardswish())]
        self.patch_embed = nn.Sequential(*stem[:-1])
        grid = _halved(size, 4)
        if with_cls_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, widths[0]))
        self.absolute = not attention_bias
        if self.absolute:
            self.poss = self._positions(grid, widths[0])
        self.blocks, self.places = ModuleList(), []  # of each stage's first block
        common = dict(key_dims=arch['key_dims'], biases=attention_bias)
        for stage, (width, heads, depth) in enumerate(zip(widths, arch['num_heads'], depths)):
            self.places.append(len(self.blocks))
            for _ in range(depth):
                self.blocks.append(LeViTLayer(width, mlp_ratio, num_heads=heads, grid=grid,
                                              attn_ratio=attn_ratio, **common))
            if stage + 1 < len(depths):
                subsample = LeViTAttention(
                    width, num_heads=width // arch['key_dims'], attn_ratio=2 * attn_ratio,
                    grid=grid, out_dims=widths[stage + 1], stride=2, **common)
                if self.absolute:
                    subsample.poss = self._positions(grid, width)
                hidden = int(mlp_ratio * widths[stage + 1])
                self.blocks.extend([subsample, FeedForwardResidual(widths[stage + 1], hidden)])
                grid = _halved(grid, 1)
        self._maps: Optional[List[List[Tensor]]] = None
        self._margins: Optional[List[float]] = None
        self.selection = Selection(importance)
        self.sparsity = sparsity

    def _positions(self, grid: Tuple[int, int], width: int) -> nn.Parameter:
        return nn.Parameter(torch.zeros(1, self.prefix + math.prod(grid), width))

    @SparseBackbone.sparsity.setter
    def sparsity(self, value: Sparsity) -> None:
        config = self.space.config(value)
        if self._selection is not None:
            self._check(config, self._selection)
        self._sparsity = config
        self._groups = groups_of(config, self.reselect, self.dense_layers)
        self._last_choice = max([g.layers[0] for g in self._groups if g.ratio], default=-1)

    @SparseBackbone.selection.setter
    def selection(self, value: Selection) -> None:
        self._check(self.sparsity, value)
        SparseBackbone.selection.fset(self, value)

    def _check(self, config: SparsityConfig, selection: Selection) -> None:
        check_config(config, self.reselect, selection.importance,
                     selection.importance in ATTENTION, self.dense_layers)
        if selection.importance == 'class_attention' and not (self.prefix or config.is_dense):
            raise ValueError("importance 'class_attention' needs with_cls_token; without it take "
                             "'received', the attention that patches receive")

    def forward(self, x: Tensor) -> Tuple[Union[Tensor, List[Tensor]], ...]:
        """(B, in_channels, H, W) -> one (B, C_i, H_i, W_i) map for each of `out_indices`, as a list
        with the (B, C_i) class token if `output_cls_token`.

        Raises:
            ValueError: The input is of another size than positions or biases.
        """
        if not self.sparsity.is_dense:
            self.adapted_to.check(self.selection.importance, self.training)
        if self._executor is None:
            return self._forward(x)
        return self._executor(self, self._forward, (self.sparsity, self.selection), (x, ))

    def _forward(self, x: Tensor):
        x = self.patch_embed(x)
        grid = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        if self.prefix:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        stream = Stream(self._placed(x, 'poss', self), None, grid)
        outs, first = [], 0
        for stage, depth in enumerate(self.depths):
            for group in self._groups:
                if first <= group.layers[0] < first + depth:
                    stream = self._run_group(stream, group, stage, first)
            if stage in self.out_indices:
                outs.append(self._output(stream))
            first += depth
            if stage + 1 < len(self.depths):
                stream = self._subsample(stream, self.places[stage] + depth, first)
        return tuple(outs)

    def _placed(self, x: Tensor, name: str, owner: nn.Module) -> Tensor:
        if not self.absolute:
            return x
        position = getattr(owner, name)
        if position.shape[1] != x.shape[1]:
            raise ValueError(f'position embeddings are of {position.shape[1] - self.prefix} '
                             f'patches, the input has {x.shape[1] - self.prefix}: set img_size to '
                             f'its size')
        return x + position

    def _tell(self, layer: int) -> Optional[str]:
        """What attention tells is of use to a later selection only."""
        name = self.selection.importance
        return name if name in ATTENTION and layer < self._last_choice else None

    def _run_group(self, stream: Stream, group, stage: int, first: int) -> Stream:
        x, importance, grid = stream
        blocks = [(layer, self.blocks[self.places[stage] + layer - first])
                  for layer in group.layers]
        patches = x[:, self.prefix:]
        total = patches.shape[1]
        if not group.ratio:
            for layer, block in blocks:
                x, told = block(x, grid, self.prefix, self._tell(layer))
                importance = self._blended(importance, told, block.m1.m)
            self._note(stage, group, grid, x.shape[0])
            return Stream(x, importance, grid)
        scores = importance
        if self.selection.importance in TOKEN_SCORES:
            scores = TOKEN_SCORES[self.selection.importance](patches.detach(), MapInfo(grid))
        kept = select(scores, kept_windows(total, group.ratio), self.prefix)
        count = kept.patches.shape[1]
        if self._margins is not None and count < total:
            self._margins.append(margin(scores, count))
        tokens, summary = gather(x, kept), None
        if self.fast == 'representative' and count < total:
            summary = representative(patches, scores, kept.patches)
            tokens = torch.cat([tokens, summary], 1)
        for layer, block in blocks:
            tokens, told = block(tokens, grid, self.prefix, self._tell(layer), kept.patches)
            importance = self._blended(importance, told, block.m1.m, kept.patches)
        self._note(stage, group, grid, x.shape[0], kept.patches)
        residual = None
        if summary is not None:
            tokens, residual = tokens[:, :-1], tokens[:, -1:] - summary
        return Stream(update(x, tokens, kept, residual), importance, grid)

    def _blended(self, importance: Optional[Tensor], told: Optional[Tensor],
                 attention: LeViTAttention, kept: Optional[Tensor] = None) -> Optional[Tensor]:
        if told is None:
            return importance
        count = None if kept is None else self.prefix + kept.shape[1]
        return blend(importance, told[:, self.prefix:count], attention.blend, kept)

    def _subsample(self, stream: Stream, place: int, layer: int) -> Stream:
        """Every second row and column attends to all: on the restored grid. Importance goes along,
        and keeps its sum."""
        attention, grid = self.blocks[place], stream.grid
        x = self._placed(stream.x, 'poss', attention)
        x, told = attention(x, grid, self.prefix, self._tell(layer - 1))
        importance = stream.importance
        if importance is not None:
            former = importance.sum(1, keepdim=True)
            importance = take_every(self._blended(importance, told, attention), grid, 2)
            importance = importance * (former / importance.sum(1, keepdim=True).clamp(
                min=torch.finfo(importance.dtype).tiny))
        return Stream(self.blocks[place + 1](x), importance, _halved(grid, 1))

    def _output(self, stream: Stream) -> Union[Tensor, List[Tensor]]:
        x = stream.x
        out = x[:, self.prefix:].transpose(1, 2).unflatten(2, stream.grid).contiguous()
        return [out, x[:, 0]] if self.output_cls_token else out

    def macs(self, shape: Sequence[int], config: SparsityConfig,
             count_padding: bool = False) -> int:
        """Of one image: convolutions, linear layers and both products of attention, on the tokens
        that run; no norms, no softmax."""
        height, width = shape
        macs = 0
        for conv in self.patch_embed[::2]:
            height, width = math.ceil(height / 2), math.ceil(width / 2)
            macs += height * width * conv.c.weight.numel()
        grid = (height, width)
        for stage, ratios in enumerate(config.ratios):
            patches = math.prod(grid)
            for i, ratio in enumerate(ratios):
                kept = kept_windows(patches, ratio) if ratio else patches
                tokens = kept + self.prefix + (self.fast == 'representative' and kept < patches)
                layer = self.blocks[self.places[stage] + i]
                macs += tokens * sum(m.weight.numel() for m in layer.modules()
                                     if isinstance(m, nn.Linear))
                macs += _attention_macs(layer.m1.m, tokens, tokens)
            if stage + 1 < len(self.depths):
                place = self.places[stage] + len(ratios)
                attention, tokens = self.blocks[place], patches + self.prefix
                grid = _halved(grid, 1)
                queries = math.prod(grid) + self.prefix
                of_queries = [*attention.q.modules(), *attention.proj.modules(),
                              *self.blocks[place + 1].modules()]
                macs += tokens * attention.kv.c.weight.numel()
                macs += queries * sum(m.weight.numel() for m in of_queries
                                      if isinstance(m, nn.Linear))
                macs += _attention_macs(attention, queries, tokens)
        return macs

    def _grids(self, shape: Sequence[int]) -> List[Tuple[int, int]]:
        grids = [_halved(shape, 4)]
        for _ in self.depths[1:]:
            grids.append(_halved(grids[-1], 1))
        return grids

    def totals(self, shape: Sequence[int]) -> List[int]:
        """Patches of each stage."""
        return list(map(math.prod, self._grids(shape)))

    def token_sides(self) -> List[int]:
        return [16 * 2**i for i in range(len(self.depths))]

    def identity(self) -> Dict:
        return {
            'depths': list(self.depths),
            'channels': list(self.num_features),
            'heads': [self.blocks[place].m1.m.num_heads for place in self.places],
            'key channels': self.blocks[0].m1.m.key_dims,
            'ratios': [self.blocks[0].m1.m.value_dims, self.mlp_ratio],
            'in channels': self.in_channels,
            'outputs': list(self.out_indices),
            'class token': bool(self.prefix),
            'attention bias': not self.absolute,
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

    def _note(self, stage: int, group, grid: Tuple[int, int], batch: int,
              kept: Optional[Tensor] = None) -> None:
        if self._maps is None:
            return
        ran = torch.full((batch, math.prod(grid)), kept is None)
        if kept is not None:
            ran.scatter_(1, kept.cpu(), True)
        self._maps[stage] += [ran.unflatten(1, tuple(grid))] * len(group.layers)

    def init_weights(self) -> None:
        """From the checkpoint that `init_cfg` names; from scratch as built."""
        if self.init_cfg is not None:
            load_plain(self, self.init_cfg['checkpoint'])
            return
        for name, param in self.named_parameters():
            if name.endswith(('cls_token', 'poss')):
                nn.init.trunc_normal_(param, std=.02)


def _halved(size: Sequence[int], times: int) -> Tuple[int, int]:
    for _ in range(times):
        size = [(side + 1) // 2 for side in size]
    return tuple(size)


def _attention_macs(attention: LeViTAttention, queries: int, keys: int) -> int:
    channels = attention.num_heads * (attention.key_dims + attention.value_dims)
    return queries * keys * channels
