"""EvoLeViT: LeViT with slow-fast token evolution (Evo-ViT, AAAI 2022)."""
import math
from functools import partial
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.model import ModuleList
from mmengine.registry import MODELS
from mmengine.utils import to_2tuple
from torch import Tensor, nn

from ...sparsity import Sparsity, SparsityConfig, SparsitySpace, kept_windows
from ..selection.ranking import Selection
from .evolving import EvolvingBackbone
from .levit_layers import ConvBN, FeedForwardResidual, LeViTAttention, LeViTLayer, take_every
from .levit_pretrained import from_dense, load_levit
from .plan import RESELECT

ARCHS = {
    '128s': dict(embed_dims=(128, 256, 384), num_heads=(4, 6, 8), depths=(2, 3, 4), key_dims=16),
    '128': dict(embed_dims=(128, 256, 384), num_heads=(4, 8, 12), depths=(4, 4, 4), key_dims=16),
    '192': dict(embed_dims=(192, 288, 384), num_heads=(3, 5, 6), depths=(4, 4, 4), key_dims=32),
    '256': dict(embed_dims=(256, 384, 512), num_heads=(4, 6, 8), depths=(4, 4, 4), key_dims=32),
    '384': dict(embed_dims=(384, 512, 768), num_heads=(6, 9, 12), depths=(4, 4, 4), key_dims=32),
}


@MODELS.register_module()
class EvoLeViT(EvolvingBackbone):
    """LeViT with a class token and slow-fast token evolution.

    The released variant adds position embeddings at the input and before each subsampling, and has
    no attention biases. With `attention_bias` the model follows the original LeViT instead; rows
    and columns of the bias are gathered along with the patches (0 for class token and
    representative).

    Args:
        arch: '128s', '128', '192', '256' or '384', or a dict of `embed_dims`, `num_heads`,
            `depths` and `key_dims`.
        img_size: Input size in pixels. LeViT's position embeddings and biases are tied to it.
        in_channels: Number of input channels.
        attn_ratio: Ratio of value channels to key channels.
        mlp_ratio: Ratio of the FFN's hidden channels to the embedding channels.
        drop_path_rate: Stochastic depth rate of the residuals.
        with_cls_token: Whether to use a class token.
        attention_bias: Use attention biases instead of position embeddings.
        out_indices: Stages whose features are returned; their strides are 16, 32 and 64.
        output_cls_token: Whether each output is a pair of feature map and class token.
        dense_layers: Number of leading layers that a single ratio, or a search, leaves dense.
        sparsity, importance, fast, reselect, execution: As in
            :class:`~.evo_vit.EvoVisionTransformer`. With ``reselect='stage'``, one selection covers
            the layers of a stage that follow the dense layers.
        init_cfg: None, or ``dict(type='Pretrained', checkpoint=FILE)`` with a checkpoint of the
            released Evo-ViT, of LeViT or of mmpretrain.

    Raises:
        ValueError: If settings are invalid or contradict each other. Names the setting.
    """
    def __init__(self,
                 arch: Union[str, Dict] = '128s',
                 img_size: Union[int, Sequence[int]] = 224,
                 in_channels: int = 3,
                 attn_ratio: float = 2,
                 mlp_ratio: float = 2,
                 drop_path_rate: float = 0.,
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
            raise ValueError(f'arch {arch!r} is not one of {", ".join(ARCHS)}')
        arch = ARCHS[arch.lower()] if isinstance(arch, str) else arch
        if set(arch) != set(ARCHS['128']):
            raise ValueError(f'arch {arch} must have the keys {", ".join(ARCHS["128"])}')
        widths, depths = tuple(arch['embed_dims']), tuple(arch['depths'])
        self._depths, self._dense_layers = depths, dense_layers
        super().__init__(fast, reselect, with_cls_token, output_cls_token, in_channels=in_channels,
                         patch_size=16, out_indices=out_indices, execution=execution,
                         init_cfg=init_cfg)
        self.num_features, self.mlp_ratio = widths, mlp_ratio
        size = to_2tuple(img_size)
        stem = [in_channels, *(widths[0] // 8 * 2**i for i in range(4))]
        convs = [ConvBN(a, b) for a, b in zip(stem, stem[1:])]
        stem = [m for conv in convs for m in (conv, nn.Hardswish())]
        self.patch_embed = nn.Sequential(*stem[:-1])
        grid = _halved(size, 4)
        if with_cls_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, widths[0]))
        self.absolute, self.grid = not attention_bias, grid
        if self.absolute:
            self.poss = self._positions(grid, widths[0])
        self.blocks, self.places = ModuleList(), []  # of each stage's first block
        common = dict(key_dims=arch['key_dims'], biases=attention_bias)
        for stage, (width, heads, depth) in enumerate(zip(widths, arch['num_heads'], depths)):
            self.places.append(len(self.blocks))
            for _ in range(depth):
                self.blocks.append(LeViTLayer(width, mlp_ratio, drop_path_rate, num_heads=heads,
                                              grid=grid, attn_ratio=attn_ratio, **common))
            if stage + 1 < len(depths):
                subsample = LeViTAttention(
                    width, num_heads=width // arch['key_dims'], attn_ratio=2 * attn_ratio,
                    grid=grid, out_dims=widths[stage + 1], stride=2, **common)
                if self.absolute:
                    subsample.poss = self._positions(grid, width)
                hidden = int(mlp_ratio * widths[stage + 1])
                self.blocks.extend([subsample, FeedForwardResidual(widths[stage + 1], hidden,
                                                                   drop_path_rate)])
                grid = _halved(grid, 1)
        self.selection = Selection(importance)
        self.sparsity = sparsity

    def _positions(self, grid: Tuple[int, int], width: int) -> nn.Parameter:
        return nn.Parameter(torch.zeros(1, self.prefix + math.prod(grid), width))

    def _make_space(self, reselect: str) -> SparsitySpace:
        if reselect not in RESELECT:
            raise ValueError(f'reselect {reselect!r} is not one of {", ".join(RESELECT)}')
        return SparsitySpace(self._depths, group=1 if reselect == 'layer' else max(self._depths),
                             nested=False, dense=self._dense_layers)

    def _forward(self, x: Tensor) -> Tuple[Union[Tensor, List[Tensor]], ...]:
        x = self.patch_embed(x)
        grid, importance, outs = (x.shape[2], x.shape[3]), None, []
        if self.absolute and grid != self.grid:
            raise ValueError(f'position embeddings are for a map of {self.grid[0]}x{self.grid[1]}, '
                             f'but the input gives {grid[0]}x{grid[1]}: set img_size to the input '
                             f'size')
        x = x.flatten(2).transpose(1, 2)
        if self.prefix:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        x = self._placed(x, self)
        for stage, groups in enumerate(self._groups):
            run = partial(self._run_layer, stage, grid)
            for group in groups:
                x, importance = self._run_group(x, importance, grid, stage, group, run)
            if stage in self.out_indices:
                outs.append(self._output(x, grid))
            if stage + 1 < len(self.depths):
                x, importance = self._subsample(x, importance, grid, stage)
                grid = _halved(grid, 1)
        return tuple(outs)

    def _run_layer(self, stage: int, grid: Tuple[int, int], layer: int, tokens: Tensor,
                   score: Optional[str], kept: Optional[Tensor]):
        block = self.blocks[self.places[stage] + layer - sum(self.depths[:stage])]
        return (*block(tokens, grid, self.prefix, score, kept), block.m1.m.blend)

    def _placed(self, x: Tensor, owner: nn.Module) -> Tensor:
        """Add the position embeddings of `owner`, the backbone or a subsampling layer."""
        return x + owner.poss if self.absolute else x

    def _subsample(self, x: Tensor, importance: Optional[Tensor], grid: Tuple[int, int],
                   stage: int) -> Tuple[Tensor, Optional[Tensor]]:
        """Halve the map: queries are every second row and column, keys the whole map. Importance is
        subsampled alike and rescaled to keep its sum."""
        place = self.places[stage] + self.depths[stage]
        attention, last_layer = self.blocks[place], sum(self.depths[:stage + 1]) - 1
        x, scores = attention(self._placed(x, attention), grid, self.prefix,
                              self._attention_score(last_layer))
        if importance is not None:
            total = importance.sum(1, keepdim=True)
            importance = take_every(self._blend(importance, scores, attention.blend), grid, 2)
            importance = importance * (total / importance.sum(1, keepdim=True).clamp(
                min=torch.finfo(importance.dtype).tiny))
        return self.blocks[place + 1](x), importance

    def macs(self, shape: Sequence[int], config: SparsityConfig,
             count_padding: bool = False) -> int:
        """Return the MACs of one image: convolutions, linear layers and both matrix products of
        attention on the tokens that run, without norms and softmax."""
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
        """Return the number of patches in each stage."""
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

    def own_names(self, state: Dict[str, Tensor]) -> Dict[str, Tensor]:
        dense = any(name.startswith('stages.') for name in state)  # mmpretrain's names
        return from_dense(state, self)[0] if dense else state

    def init_weights(self) -> None:
        """Load the checkpoint in `init_cfg`. Without one, draw class token and position embeddings
        from a truncated normal and keep the other parameters as built."""
        if self.init_cfg is not None:
            load_levit(self, self.init_cfg['checkpoint'], self.init_cfg.get('prefix'))
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
