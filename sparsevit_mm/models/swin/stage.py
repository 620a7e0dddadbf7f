"""Swin block and stage. A stage scores and ranks its windows once for all of its blocks."""
from typing import Dict, Optional, Sequence, Tuple

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import FFN, PatchMerging
from mmengine.model import BaseModule, ModuleList
from torch import Tensor

from ...sparsity import kept_windows
from ..narrow import BlockWidth
from ..selection.head import ImportanceHead
from ..selection.importance import SELECTOR, TOKEN_SCORES, TRAINED, MapInfo
from ..selection.ranking import (Batch, Selection, rank_windows, select_windows, valid_windows,
                                 window_energy, window_shares)
from ..selection.selector import TokenSelector, add_gumbel_noise, gumbel_shares
from .attention import ShiftWindowMSA
from .bypass import Bypass, update_skipped
from .kernels import run_block
from .rows import own, release
from ..windows import WindowPartition, num_windows, partition

Ranked = Tuple[Tensor, Optional[Tensor]]


class SwinBlock(BaseModule):
    """Swin block: window attention and FFN, each with pre-LayerNorm and a residual connection.

    When it runs all windows it equals ``SwinBlock`` of mmdet and mmseg. DropPath is drawn per
    image.

    Args:
        embed_dims: Channels C.
        num_heads: Attention heads.
        feedforward_channels: Hidden channels of the FFN.
        window_size: Side of a window, in tokens.
        shift: Whether windows are shifted by half their size.
        qkv_bias, qk_scale, attn_drop_rate: See :class:`~.attention.WindowMSA`.
        drop_rate: Dropout rate after the projection and in the FFN.
        drop_path_rate: Stochastic depth rate.
        act_cfg, norm_cfg: mmcv layer configs.
        with_cp: Whether to recompute activations in the backward pass to save memory.
        triton: See :class:`~.attention.WindowMSA`.
        bypass: Whether windows that are skipped from this block on get a linear update.
        head_dims: See :class:`~.attention.WindowMSA`.
    """

    def __init__(self,
                 embed_dims: int,
                 num_heads: int,
                 feedforward_channels: int,
                 window_size: int,
                 shift: bool,
                 qkv_bias: bool,
                 qk_scale: Optional[float],
                 drop_rate: float,
                 attn_drop_rate: float,
                 drop_path_rate: float,
                 act_cfg: dict,
                 norm_cfg: dict,
                 with_cp: bool,
                 triton: bool = False,
                 bypass: bool = False,
                 head_dims: Optional[int] = None):
        super().__init__()
        self.shift = window_size // 2 if shift else 0
        self.with_cp = with_cp
        self.norm1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.attn = ShiftWindowMSA(
            drop_path_rate=drop_path_rate,
            embed_dims=embed_dims,
            num_heads=num_heads,
            window_size=window_size,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop_rate=attn_drop_rate,
            proj_drop_rate=drop_rate,
            triton=triton,
            head_dims=head_dims)
        self.norm2 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.ffn = FFN(
            embed_dims=embed_dims,
            feedforward_channels=feedforward_channels,
            ffn_drop=drop_rate,
            dropout_layer=dict(type='DropPath', drop_prob=drop_path_rate),
            act_cfg=act_cfg)
        self.bypass = Bypass(embed_dims) if bypass else None

    def forward(self, x: Tensor, windows: WindowPartition, selected: Optional[Tensor] = None,
                group: int = 1, gate: Optional[Tensor] = None,
                width: Optional[BlockWidth] = None) -> Tensor:
        """Run the block on the residual stream (B, L, C), see :func:`~.kernels.run_block`."""
        return run_block(self, x, windows, selected, group, gate, width)

    @property
    def num_heads(self) -> int:
        return self.attn.w_msa.num_heads

    @property
    def num_neurons(self) -> int:
        return self.ffn.feedforward_channels


class SwinStage(BaseModule):
    """Blocks of one resolution, followed by patch merging.

    Args:
        depth: Number of blocks; every second one is shifted.
        drop_path_rates: Stochastic depth rate of each block.
        num_heads: Attention heads of each block.
        feedforward_channels: Hidden channels of each block's FFN.
        downsample: Patch merging, or None in the last stage.
        bypass: Whether skipped windows get a linear update, see :class:`~.bypass.Bypass`.
        **kwargs: See :class:`SwinBlock`.
    """

    def __init__(self, depth: int, drop_path_rates: Sequence[float], num_heads: Sequence[int],
                 feedforward_channels: Sequence[int], downsample: Optional[PatchMerging],
                 window_size: int, bypass: bool = False, **kwargs):
        super().__init__()
        self.window_size = window_size
        self.blocks = ModuleList([
            SwinBlock(
                num_heads=num_heads[i],
                feedforward_channels=feedforward_channels[i],
                shift=i % 2 == 1,
                window_size=window_size,
                drop_path_rate=drop_path_rates[i],
                bypass=bypass and i % 2 == 0,
                **kwargs) for i in range(depth)
        ])
        self.downsample = downsample
        self.importance: Optional[ImportanceHead] = None  # of the learned score
        self.selector: Optional[TokenSelector] = None

    def forward(self, x: Tensor, hw_shape: Tuple[int, int], ratios: Sequence[float],
                selection: Selection = Selection(), batch: Batch = Batch(),
                widths: Optional[Sequence[Optional[BlockWidth]]] = None) -> Tensor:
        """Run the blocks, without the patch merging.

        Args:
            x: (B, H * W, C). At inference it may be modified in place.
            hw_shape: (H, W).
            ratios: Sparsity ratio of each block, non-decreasing.
            selection: How windows are chosen.
            batch: Group size and valid image sizes for the selection.
            widths: How many heads and neurons each block runs; None for all, per block or
                altogether.

        Returns:
            (B, H * W, C).
        """
        partitions = {
            shift: partition(*hw_shape, self.window_size, shift, x.device)
            for shift in sorted({block.shift for block in self.blocks})
        }
        total = num_windows(*hw_shape, self.window_size)
        kept = [kept_windows(total, ratio) if ratio else total for ratio in ratios]
        num_dense = kept.count(total)  # dense blocks come first, since ratios never fall
        x = x.contiguous()
        narrow = [{} if width is None else dict(width=width)
                  for width in widths or [None] * len(kept)]
        for block, width in zip(self.blocks[:num_dense], narrow):
            x = block(x, partitions[block.shift], **width)
        if num_dense == len(self.blocks):
            return x
        pruned = self.blocks[num_dense:]
        ranked = self._rank(x.detach(), hw_shape, {b.shift: partitions[b.shift] for b in pruned},
                            selection, batch)
        x = own(x, self.training)
        running = total  # windows of the plain partition that are not skipped yet
        for block, k, width in zip(pruned, kept[num_dense:], narrow[num_dense:]):
            ranking, shares = ranked[block.shift]
            if block.bypass is not None and k < running:
                dropped = ranking[:, k * batch.group:running * batch.group]
                x = update_skipped(block.bypass, x, partitions[block.shift], dropped, batch.group)
                running = k
            selected = select_windows(ranking, k * batch.group)
            gate = None if shares is None else shares.gather(1, selected)
            x = block(x, partitions[block.shift], selected, batch.group, gate, **width)
        return release(x)

    def map_info(self, hw_shape: Tuple[int, int], sizes: Optional[Tensor] = None) -> MapInfo:
        """Return the information that scores use besides the features of a map."""
        return MapInfo(hw_shape, sizes, self.importance, self.selector)

    def _rank(self, x: Tensor, hw_shape: Tuple[int, int], partitions: Dict[int, WindowPartition],
              selection: Selection, batch: Batch) -> Dict[int, Ranked]:
        """Score the tokens (B, L, C) once and rank the windows of each partition.

        Returns:
            Per shift, the ranking and, when a learned score is being trained, the shares that
            carry its gradient; else None.
        """
        info = self.map_info(hw_shape, batch.sizes)
        trains = selection.importance in TRAINED and self.training and torch.is_grad_enabled()
        with torch.set_grad_enabled(trains):
            token_scores = TOKEN_SCORES[selection.importance](x, info)
            energies = {shift: window_energy(token_scores, windows)
                        for shift, windows in partitions.items()}
            shares = dict.fromkeys(energies)
            if trains and selection.importance == SELECTOR:
                energies = {shift: add_gumbel_noise(e) for shift, e in energies.items()}
                shares = {shift: gumbel_shares(e, self.selector.tau, batch.group)
                          for shift, e in energies.items()}
            elif trains:
                shares = {shift: window_shares(e, batch.group) for shift, e in energies.items()}
        ranked = {}
        for shift, windows in partitions.items():
            valid = None
            if batch.sizes is not None and selection.padding_last:
                valid = valid_windows(windows, batch.sizes)
            ranked[shift] = rank_windows(
                energies[shift].detach().sqrt(), valid, batch.group), shares[shift]
        return ranked
