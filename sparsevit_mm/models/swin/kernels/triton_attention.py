"""Window attention as one Triton kernel, for inference on CUDA.

The bias and mask of a pair of tokens are computed where they are added, so that no tensor of size
(windows, heads, N, N) is materialised. The module can be imported without Triton, see
:func:`is_available`.
"""
from functools import lru_cache
from typing import Optional

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
    if int(triton.__version__.split('.')[0]) < 3:  # Triton 2 lacks input_precision
        triton = None
except ImportError:
    triton = None

MAX_TOKENS = 256
MAX_TILE = 64
MAX_HEAD_DIM = {torch.float32: 64, torch.float16: 128, torch.bfloat16: 128}  # limited by registers

if triton is not None:

    # The number of windows changes from call to call, so the kernel must not specialise on it.
    @triton.jit(do_not_specialize=['num_indices'])
    def _attend(qkv, bias, mask_index, out, num_indices, scale, HEADS: tl.constexpr,
                HEAD_DIM: tl.constexpr, WINDOW: tl.constexpr, SHIFT: tl.constexpr,
                TILE: tl.constexpr):
        """Compute one tile of queries of one window and head, over tiles of keys with online
        softmax.

        Pointers: qkv (windows, N, 3, HEADS, HEAD_DIM), bias (HEADS, (2 * WINDOW - 1)**2),
        mask_index (num_indices,) or None, and out (windows, N, HEADS, HEAD_DIM).
        """
        N: tl.constexpr = WINDOW * WINDOW
        C: tl.constexpr = HEADS * HEAD_DIM
        SIDE: tl.constexpr = 2 * WINDOW - 1
        TILES: tl.constexpr = (N + TILE - 1) // TILE
        # Tiles and heads of one window are adjacent programs, since they read the same cache lines.
        tile = tl.program_id(0) % TILES
        head = tl.program_id(0) // TILES % HEADS
        window = tl.program_id(0) // (TILES * HEADS)
        first = window.to(tl.int64) * N

        channel = tl.arange(0, HEAD_DIM)
        query = tile * TILE + tl.arange(0, TILE)
        own = qkv + first * (3 * C) + head * HEAD_DIM + channel[None, :]
        q = tl.load(own + query[:, None] * (3 * C), mask=query[:, None] < N, other=0.)
        query_y, query_x = query // WINDOW, query % WINDOW
        # Rows from `bottom` on and columns from `right` on were wrapped around by the shift.
        bottom, right = WINDOW, WINDOW
        if mask_index is not None:
            kind = tl.load(mask_index + window % num_indices)
            bottom = tl.where(kind & 2 != 0, WINDOW - SHIFT, WINDOW)
            right = tl.where(kind & 1 != 0, WINDOW - SHIFT, WINDOW)

        # Padded queries have no row in the bias table. They are never stored, so any row will do.
        real = tl.minimum(query, N - 1)
        bias_of_query = head * (SIDE * SIDE) + SIDE * (real // WINDOW + WINDOW - 1) + (
            real % WINDOW + WINDOW - 1)

        highest = tl.full((TILE,), float('-inf'), tl.float32)
        total = tl.zeros((TILE,), tl.float32)
        acc = tl.zeros((TILE, HEAD_DIM), tl.float32)
        for start in range(0, N, TILE):
            key = start + tl.arange(0, TILE)
            key_y, key_x = key // WINDOW, key % WINDOW
            rows = own + C + key[:, None] * (3 * C)
            k = tl.load(rows, mask=key[:, None] < N, other=0.)
            v = tl.load(rows + C, mask=key[:, None] < N, other=0.)

            # The bias of padded keys is -inf.
            row = bias_of_query[:, None] - (SIDE * key_y + key_x)[None, :]
            logits = tl.load(bias + row, mask=key[None, :] < N, other=float('-inf')).to(tl.float32)
            logits += tl.dot(q, tl.trans(k), input_precision='ieee') * scale
            if mask_index is not None:
                apart = ((query_y >= bottom)[:, None] != (key_y >= bottom)[None, :]) | (
                    (query_x >= right)[:, None] != (key_x >= right)[None, :])
                logits += tl.where(apart, -100., 0.)

            # Every tile contains a real key, so `higher` is finite.
            higher = tl.maximum(highest, tl.max(logits, 1))
            kept = tl.exp(highest - higher)
            highest = higher
            weights = tl.exp(logits - higher[:, None])
            total = total * kept + tl.sum(weights, 1)
            acc *= kept[:, None]
            acc += tl.dot(weights.to(v.dtype), v, input_precision='ieee')

        to = out + first * C + query[:, None] * C + head * HEAD_DIM + channel[None, :]
        tl.store(to, (acc / total[:, None]).to(q.dtype), mask=query[:, None] < N)


# With TRITON_INTERPRET=1 in the environment, triton.jit returns another type.
_INTERPRETED = triton is not None and not isinstance(_attend, triton.JITFunction)


@lru_cache(maxsize=None)
def is_available(device: torch.device) -> bool:
    """Whether :func:`window_attention` runs on a device: a CUDA GPU of compute capability 8.0 or
    higher, or the CPU if TRITON_INTERPRET=1 was set when this module was imported."""
    if triton is None or device.type != 'cuda':
        return _INTERPRETED and device.type == 'cpu'
    return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)


def supports(num_tokens: int, head_dim: int, dtype: torch.dtype) -> bool:
    """Whether :func:`window_attention` supports this number of tokens per window, number of
    channels per head, and dtype of qkv."""
    return (1 <= num_tokens <= MAX_TOKENS and 16 <= head_dim <= MAX_HEAD_DIM.get(dtype, 0)
            and head_dim & (head_dim - 1) == 0)


def window_attention(qkv: Tensor, bias_table: Tensor, window_size: int, shift: int,
                     mask_index: Optional[Tensor], scale: float) -> Tensor:
    """Compute the same as :meth:`~sparsevit_mm.models.swin.attention.WindowMSA.attend`, without
    dropout.

    It does not synchronise with the device. It can be captured in a CUDA graph after one such call
    outside, which compiles the kernel.

    Args:
        qkv: (B, K, N, 3C), contiguous: query, key and value of the N = window_size**2 tokens of
            K windows of B images; the last dimension is (3, heads, head_dim).
        bias_table: ((2 * window_size - 1)**2, heads) relative position bias of any float dtype.
        window_size: Side of a window, in tokens.
        shift: Cyclic shift of the partition, in tokens; 0 if `mask_index` is None.
        mask_index: (B, K), (B * K,) or (K,) int64, the kind of each window: 0 interior, 1 last
            column, 2 last row, 3 corner; None if no window has a mask.
        scale: Factor of the product of query and key.

    Returns:
        (B, K, N, C), of the dtype of `qkv`.

    Raises:
        ValueError: If shapes do not match, `qkv` is not contiguous, or :func:`supports` is false.
        RuntimeError: If a gradient is required, which the kernel does not compute.
    """
    B, K, N, C3 = qkv.shape
    rows, heads = bias_table.shape
    head_dim = C3 // (3 * heads)
    if N != window_size**2 or rows != (2 * window_size - 1)**2 or C3 != 3 * heads * head_dim:
        raise ValueError(f'qkv {(*qkv.shape,)} and bias table {(*bias_table.shape,)} do not fit '
                         f'windows of side {window_size}')
    if not supports(N, head_dim, qkv.dtype) or not qkv.is_contiguous():
        raise ValueError(f'unsupported qkv: {N} tokens, {head_dim} channels per head, {qkv.dtype},'
                         f' contiguous: {qkv.is_contiguous()}')
    num_indices = K if mask_index is None else mask_index.numel()
    if num_indices not in (K, B * K):
        raise ValueError(f'{num_indices} mask indices for {B} x {K} windows')
    if torch.is_grad_enabled() and (qkv.requires_grad or bias_table.requires_grad):
        raise RuntimeError('window_attention has no gradient: call it under torch.no_grad()')

    if _INTERPRETED and qkv.dtype == torch.bfloat16:
        # The interpreter multiplies the bits of bfloat16 values as integers.
        return window_attention(
            qkv.float(), bias_table, window_size, shift, mask_index, scale).to(qkv.dtype)
    out = qkv.new_empty(B, K, N, C3 // 3)
    if out.numel() == 0:
        return out
    bias = bias_table.detach().t().contiguous()  # neighbouring keys read neighbouring entries
    indices = None if mask_index is None else mask_index.contiguous()
    tile = min(max(triton.next_power_of_2(N), 16), MAX_TILE)
    grid = (B * K * heads * triton.cdiv(N, tile),)
    with torch.cuda.device_of(qkv):
        _attend[grid](
            qkv, bias, indices, out, num_indices, float(scale), HEADS=heads, HEAD_DIM=head_dim,
            WINDOW=window_size, SHIFT=shift, TILE=tile, num_warps=tile // 16, num_stages=1)
    return out
