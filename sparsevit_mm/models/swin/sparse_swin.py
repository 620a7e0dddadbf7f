"""Swin Transformer with window activation pruning (SparseViT, CVPR 2023)."""
import math
from functools import partial
from typing import Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import PatchEmbed, PatchMerging
from mmengine.logging import print_log
from mmengine.model import ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...sparsity import Sparsity, SparsityConfig, SparsitySpace
from ..block_widths import Widths, block_widths, uniform
from ..checkpoints import with_pretrained
from ..grids import image_size, resize_grid
from ..interface import SparseBackbone
from ..selection.head import ImportanceHead, TrainedHead, check_heads, learned_sizes
from ..selection.importance import LEARNED, SELECTOR, TRAINED
from ..selection.metadata import read_batch
from ..selection.ranking import Batch, Selection
from ..selection.selector import TokenSelector
from .bypass import SKIPPED, Bypass
from .inspect import record_windows, smallest_margin
from .macs import stage_windows, swin_macs
from .patches import embed_patches, merge_patches, to_features
from .pretrained import init_from_scratch, load_pretrained
from .stage import SwinStage
from .watch import WindowWatch


def swin_widths(depths: Sequence[int], num_heads: Sequence[int], channels: Sequence[int],
                mlp_ratio: float, block_heads: Widths, ffn_widths: Widths
                ) -> Tuple[List[int], List[int]]:
    """Return heads and hidden channels of every block.

    Raises:
        ValueError: See :func:`~..block_widths.block_widths`.
    """
    heads = [num_heads[i] for i, depth in enumerate(depths) for _ in range(depth)]
    hidden = [int(mlp_ratio * channels[i]) for i, depth in enumerate(depths) for _ in range(depth)]
    return (block_widths(block_heads, heads, 'block_heads', at_most_default=True),
            block_widths(ffn_widths, hidden, 'ffn_widths'))


@MODELS.register_module()
class SparseSwinTransformer(SparseBackbone):
    """Drop-in replacement for ``SwinTransformer`` of mmdet and mmseg with window activation
    pruning.

    It takes their arguments, loads their checkpoints, and equals them at zero sparsity. At
    sparsity ratio r a block runs the ``floor(nW * (1 - r))`` most important windows of each image,
    at least one; the others pass through unchanged (SparseViT, section 3). Within a detector or
    segmentor of the toolkits, the data samples tell which part of each image is padding, and
    padding is ranked last.

    Args:
        pretrain_img_size: Image size of the pretraining in pixels. It sets the size of the
            absolute position embedding, which is resized for other inputs.
        in_channels: Channels of the input.
        embed_dims: Channels of the first stage; each stage doubles them.
        patch_size: Side of a patch, in pixels; equals ``strides[0]``.
        window_size: Side of a window, in tokens.
        mlp_ratio: Ratio of the hidden channels of an FFN to its channels.
        depths: Number of blocks of each stage.
        num_heads: Attention heads of each stage.
        strides: Stride of the patch embedding, then of each patch merging.
        out_indices: Stages whose features are returned.
        qkv_bias: Whether query, key and value have a bias.
        qk_scale: Override of the attention scale ``head_dim ** -0.5``.
        patch_norm: Whether to normalise in patch embedding and merging.
        drop_rate, attn_drop_rate: Dropout rates of features and of attention weights.
        drop_path_rate: Stochastic depth rate of the last block; it rises linearly from 0.
        use_abs_pos_embed: Whether to add an absolute position embedding.
        act_cfg, norm_cfg: mmcv layer configs.
        with_cp: Whether to recompute activations in the backward pass to save memory.
        pretrained: Deprecated form of ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        convert_weights: Whether that checkpoint comes from the official Swin repository.
        frozen_stages: Number of stages to freeze in addition to the patch embedding. 0 freezes
            the patch embedding only, -1 nothing.
        init_cfg: None, or ``dict(type='Pretrained', checkpoint=FILE_OR_URL)``, with a `prefix`
            if the keys of the backbone begin with another one than ``backbone.``.
        sparsity: Any value that :class:`~sparsevit_mm.sparsity.SparsityConfig` accepts. The
            attribute may be set at any time, also on a loaded model.
        importance: Score that ranks windows: 'magnitude' (as published), 'l2', 'variation',
            'distinct', 'learned', 'selector' or 'random', see :mod:`..selection.importance`.
        scope, group_size, padding_last: Which windows compete, and the rank of padding, see
            :class:`~..selection.ranking.Selection`. Together with `importance` they form the
            attribute `selection`, which may be set at any time.
        skipped: Handling of skipped windows: 'copy' (as published), or 'linear', an update that
            adaptation trains, see :class:`~.bypass.Bypass`.
        execution: Inference mode: 'eager', 'compiled' or 'captured', see :mod:`..execution`. It
            may be set at any time. Hooks on submodules need 'eager'.
        block_heads, ffn_widths: Attention heads and FFN hidden channels of each block, one entry
            per block in order; None where they follow `num_heads` and `mlp_ratio`. Heads keep
            their channels, the stage's channels over its `num_heads`.
            ``tools/compact_model.py`` writes these arguments.
        widths: Share of the heads and FFN neurons of each stage that run, from the first on, e.g.
            ``dict(heads=[1, 1, .5, .5], ffn=.5)``, see :mod:`sparsevit_mm.widths`. It may be set
            at any time.
        triton: Whether inference on CUDA uses a Triton kernel for attention, if Triton is
            installed. Off by default: it was tested in Triton's interpreter, not on a GPU.

    Raises:
        ValueError: If an argument is invalid or contradicts another one; see SparsityConfig for
            `sparsity`.
    """

    def __init__(self,
                 pretrain_img_size: Union[int, Sequence[int]] = 224,
                 in_channels: int = 3,
                 embed_dims: int = 96,
                 patch_size: int = 4,
                 window_size: int = 7,
                 mlp_ratio: float = 4,
                 depths: Sequence[int] = (2, 2, 6, 2),
                 num_heads: Sequence[int] = (3, 6, 12, 24),
                 strides: Sequence[int] = (4, 2, 2, 2),
                 out_indices: Sequence[int] = (0, 1, 2, 3),
                 qkv_bias: bool = True,
                 qk_scale: Optional[float] = None,
                 patch_norm: bool = True,
                 drop_rate: float = 0.,
                 attn_drop_rate: float = 0.,
                 drop_path_rate: float = 0.1,
                 use_abs_pos_embed: bool = False,
                 act_cfg: dict = dict(type='GELU'),
                 norm_cfg: dict = dict(type='LN'),
                 with_cp: bool = False,
                 pretrained: Optional[str] = None,
                 convert_weights: bool = False,
                 frozen_stages: int = -1,
                 init_cfg: Optional[dict] = None,
                 sparsity: Sparsity = None,
                 importance: str = 'variation',
                 scope: str = 'image',
                 group_size: Optional[Union[int, str]] = None,
                 padding_last: bool = True,
                 skipped: str = 'copy',
                 execution: str = 'eager',
                 triton: bool = False,
                 block_heads: Widths = None,
                 ffn_widths: Widths = None,
                 widths: Optional[dict] = None):
        init_cfg = with_pretrained(init_cfg, pretrained)
        if strides[0] != patch_size:
            raise ValueError(f'strides[0] is {strides[0]}, patch_size {patch_size}: they must '
                             f'be equal')
        if skipped not in SKIPPED:
            raise ValueError(f'skipped {skipped!r} is not one of {", ".join(SKIPPED)}')
        selection = Selection(importance, scope, group_size, padding_last)
        super().__init__(SparsitySpace(depths), in_channels, patch_size, out_indices, sparsity,
                         execution, init_cfg, widths)
        self.window_size = window_size
        self.use_abs_pos_embed = use_abs_pos_embed
        self.convert_weights = convert_weights
        self.frozen_stages = frozen_stages
        self.num_features = [embed_dims * 2**i for i in range(len(depths))]

        self.patch_embed = PatchEmbed(
            in_channels=in_channels,
            embed_dims=embed_dims,
            kernel_size=patch_size,
            stride=patch_size,
            norm_cfg=norm_cfg if patch_norm else None)
        if use_abs_pos_embed:
            self.pos_embed_shape = tuple(side // patch_size
                                         for side in image_size(pretrain_img_size))
            self.absolute_pos_embed = nn.Parameter(
                torch.zeros(1, self.pos_embed_shape[0] * self.pos_embed_shape[1], embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)

        heads, hidden = swin_widths(depths, num_heads, self.num_features, mlp_ratio, block_heads,
                                    ffn_widths)
        drop_path_rates = torch.linspace(0, drop_path_rate, sum(depths)).tolist()
        self.stages = ModuleList()
        for i, (depth, channels) in enumerate(zip(depths, self.num_features)):
            blocks = slice(sum(depths[:i]), sum(depths[:i + 1]))
            downsample = None
            if i + 1 < len(depths):
                downsample = PatchMerging(
                    in_channels=channels,
                    out_channels=2 * channels,
                    stride=strides[i + 1],
                    norm_cfg=norm_cfg if patch_norm else None)
            self.stages.append(
                SwinStage(
                    depth=depth,
                    drop_path_rates=drop_path_rates[blocks],
                    downsample=downsample,
                    window_size=window_size,
                    embed_dims=channels,
                    num_heads=heads[blocks],
                    head_dims=channels // num_heads[i],
                    feedforward_channels=hidden[blocks],
                    qkv_bias=qkv_bias,
                    qk_scale=qk_scale,
                    drop_rate=drop_rate,
                    attn_drop_rate=attn_drop_rate,
                    act_cfg=act_cfg,
                    norm_cfg=norm_cfg,
                    with_cp=with_cp,
                    triton=triton,
                    bypass=skipped == 'linear'))
        for i in self.out_indices:
            self.add_module(f'norm{i}', build_norm_layer(norm_cfg, self.num_features[i])[1])
        self.selection = selection
        self._freeze_stages()

    @SparseBackbone.selection.setter
    def selection(self, value: Selection) -> None:
        SparseBackbone.selection.fset(self, value)
        self._make_heads({value.importance})

    def make_heads(self) -> None:
        """Add the head of the learned score to each stage that has none."""
        self._make_heads({LEARNED})

    def _make_heads(self, names: Set[str]) -> None:
        for stage, channels in zip(self.stages, self.num_features):
            like = next(stage.parameters())
            if LEARNED in names and stage.importance is None:
                stage.importance = ImportanceHead(channels).to(like.device, like.dtype)
            if SELECTOR in names and stage.selector is None:
                stage.selector = TokenSelector(channels).to(like.device, like.dtype)

    def scores_held(self, state_dict: Mapping[str, Tensor], prefix: str) -> Set[str]:
        sizes = {LEARNED: learned_sizes(self.num_features),
                 SELECTOR: {f'stages.{i}.selector.weight': channels
                            for i, channels in enumerate(self.num_features)}}
        return {name for name in TRAINED if check_heads(state_dict, prefix, name, sizes[name])}

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the feature maps of a batch of images.

        Args:
            x: (B, in_channels, H, W) with any H and W.

        Returns:
            One (B, C_i, H_i, W_i) tensor for each of `out_indices`.

        Raises:
            ValueError: If images share a budget and the group size is unknown or does not divide
                the batch size; or, when pruning, if the data samples contradict the tensor or the
                checkpoint lacks the weights of the score.
        """
        if not self.sparsity.is_dense:
            self._check_score()
        group, sizes = read_batch(self, x)
        if self._executor is None:
            return self._forward(group, x, sizes)
        config = self.sparsity, self.selection, group, self.widths
        return self._executor(self, partial(self._forward, group), config, (x, sizes))

    def _forward(self, group: int, x: Tensor, sizes: Optional[Tensor]) -> Tuple[Tensor, ...]:
        batch = Batch(group, sizes)
        x, hw_shape = embed_patches(self.patch_embed, x)
        if self.use_abs_pos_embed:
            x = x + self._position_embedding(hw_shape)
        x = self.drop_after_pos(x)

        outs = []
        for i, (stage, ratios, widths) in enumerate(zip(self.stages, self.sparsity.ratios,
                                                        self.running_units())):
            x = stage(x, hw_shape, ratios, self.selection, batch, widths=widths)
            if i in self.out_indices:
                outs.append(to_features(getattr(self, f'norm{i}'), x, hw_shape))
            if stage.downsample is not None:
                x, hw_shape = merge_patches(stage.downsample, x, hw_shape)
                batch = batch.merged(stage.downsample.sampler.stride[0])
        if self.training:
            # Blocks that are not pruned give these parameters no gradient, which DDP forbids.
            added = [p for m in self.modules() if isinstance(m, (Bypass, TrainedHead))
                     for p in m.parameters() if p.requires_grad]
            if added:
                outs[-1] = outs[-1] + 0. * sum(p.sum() for p in added)
        return tuple(outs)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        self._load_heads(state_dict, prefix)
        own = {f'{prefix}{name}' for name, _ in self.named_parameters()}
        lacking = [key for key in state_dict if key.startswith(f'{prefix}stages.')
                   and '.bypass.' in key and key not in own]
        if lacking:
            raise ValueError(f"the checkpoint was adapted with a linear update of skipped "
                             f"windows that this backbone lacks ({lacking[0]}, ...): set "
                             f"skipped='linear'; if it is set, the model was adapted with "
                             f'another version: adapt it again')
        super()._load_from_state_dict(state_dict, prefix, *args)

    def macs(self, shape: Sequence[int], config: SparsityConfig,
             count_padding: bool = False) -> int:
        """Compute the MACs of one image, see :func:`~.macs.swin_macs`."""
        return swin_macs(self, shape, config, count_padding)

    def totals(self, shape: Sequence[int]) -> List[int]:
        """Return the number of windows of each stage, see :func:`~.macs.stage_windows`."""
        return stage_windows(self, shape)

    def token_sides(self) -> List[int]:
        strides = [stage.downsample.sampler.stride[0] for stage in self.stages[:-1]]
        return [self.patch_size * math.prod(strides[:i]) for i in range(len(self.stages))]

    def attention_blocks(self) -> List[nn.Module]:
        return [block for stage in self.stages for block in stage.blocks]

    def identity(self) -> Dict:
        first = [stage.blocks[0] for stage in self.stages]
        units = self.unit_numbers()
        return {
            'depths': list(self.depths),
            'channels': list(self.num_features),
            'heads': [uniform([width.heads for width in stage]) for stage in units],
            'hidden channels': [uniform([width.neurons for width in stage]) for stage in units],
            'window size': self.window_size,
            'patch size': self.patch_size,
            'strides': [list(stage.downsample.sampler.stride) for stage in self.stages
                        if stage.downsample is not None],
            'in channels': self.in_channels,
            'outputs': list(self.out_indices),
            'importance': self.selection.importance,
            'activation': type(first[0].ffn.layers[0][1]).__name__,
            'triton': first[0].attn.w_msa.triton,
            'parameters': sum(p.numel() for p in self.parameters()),  # biases, norms, positions
        }

    def smallest_margin(self, image: Tensor) -> float:
        return smallest_margin(self, image)

    def _record(self, maps: List[List[Tensor]]) -> list:
        return record_windows(self, maps)

    def _watch(self, scores: Sequence[str]) -> WindowWatch:
        return WindowWatch(self.stages, scores)

    def _position_embedding(self, hw_shape: Tuple[int, int]) -> Tensor:
        """Return the position embedding (1, H * W, C), resized where the toolkits would fail."""
        if tuple(hw_shape) == self.pos_embed_shape:
            return self.absolute_pos_embed
        return resize_grid(self.absolute_pos_embed, self.pos_embed_shape, hw_shape)

    def init_weights(self) -> None:
        """Load the checkpoint of `init_cfg`, or initialise from scratch as mmdet does."""
        if self.init_cfg is not None:
            load_pretrained(self, self.init_cfg['checkpoint'], self.convert_weights,
                            self.init_cfg.get('prefix'))
            return
        print_log(f'{type(self).__name__} is initialised from scratch: no init_cfg', 'current')
        init_from_scratch(self)

    def train(self, mode: bool = True) -> 'SparseSwinTransformer':
        """Set the mode. Frozen stages stay in eval mode."""
        super().train(mode)
        self._freeze_stages()
        return self

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [self.patch_embed, self.drop_after_pos, *self.stages[:self.frozen_stages]]
        frozen += [getattr(self, f'norm{i}') for i in self.out_indices if i < self.frozen_stages]
        for module in frozen:
            module.eval()
            for param in module.parameters():
                param.requires_grad = False
        if self.use_abs_pos_embed:
            self.absolute_pos_embed.requires_grad = False
