"""The learned score: one linear head per stage, fitted to what running a window is worth or trained
with the task."""
import re
from typing import Dict, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..chunks import Part
from .importance import EPS, ValidArea, distance

STATISTICS = ('variation', 'distinct', 'magnitude')  # by name, in the order of the weights
# Weights are stored divided by this, so that they learn ten times as fast as the model's.
GAIN = 10.
# Log scores stay within: the sum of their exponentials over a window must be finite in fp32.
LIMIT = 60.


class TrainedHead(nn.Module):
    """A part of a backbone that a score learns its `weight` in."""

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys,
                              unexpected_keys, error_msgs):
        if f'{prefix}weight' in state_dict:  # dense checkpoints have none, and load strictly
            super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys,
                                          unexpected_keys, error_msgs)


class ImportanceHead(TrainedHead):
    """Log importance of a token as a linear function of what its block sees: the normalised token
    and the logs of three statistics.

    The importance of a window, squared, is the sum of ``exp(log importance)`` over its tokens. A
    head as built ranks as ``variation`` does.

    Args:
        channels: C of the stage.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels + len(STATISTICS)))
        with torch.no_grad():
            self.weight[channels + STATISTICS.index('variation')] = 2 / GAIN

    def forward(self, rows: Tensor, valid: ValidArea, part: Part, mean: Tensor) -> Tensor:
        """Scores of a strip of the map.

        Args:
            rows: (B, h, W, C) of any dtype.
            valid: Of the map.
            part: Which images and rows these are.
            mean: (B, 1, 1, C), see :meth:`~.importance.ValidArea.mean`.

        Returns:
            (B, h, W) fp32, above 0.
        """
        channels = rows.shape[-1]
        normed, statistics = describe(rows, valid, part, mean)
        weight = self.weight.float() * GAIN
        # A product under autocast would be in low precision; sums are not.
        log_score = (normed * weight[:channels]).sum(-1)
        log_score = log_score + (statistics * weight[channels:]).sum(-1)
        return (log_score.clamp(-LIMIT, LIMIT) / 2).exp()

    @torch.no_grad()
    def set(self, weights: Tensor) -> None:
        """Takes (C + 3,) weights of the log importance."""
        self.weight.copy_(weights / GAIN)


def describe(rows: Tensor, valid: ValidArea, part: Part, mean: Tensor):
    """What a head sees of (B, h, W, C) rows: (B, h, W, C) normalised tokens and (B, h, W, 3) logs
    of :data:`STATISTICS`, in fp32."""
    normed = valid.normalise(rows, part)
    statistics = torch.stack([
        distance(normed, valid.neighbour_mean(normed, part)),
        distance(normed, mean),
        rows.float().abs().mean(-1)
    ], -1)
    return normed, statistics.clamp(min=EPS).log()


def learned_sizes(channels: Sequence[int]) -> Dict[str, int]:
    """Of the weights of the learned score in a Swin's stages, by name."""
    return {f'stages.{i}.importance.weight': c + len(STATISTICS) for i, c in enumerate(channels)}


def check_heads(state_dict: Mapping[str, Tensor], prefix: str, score: str,
                sizes: Mapping[str, int]) -> bool:
    """Whether a backbone's state dict holds the heads of a score.

    Args:
        state_dict: With names that begin with `prefix`.
        prefix: Of the backbone.
        score: Its name.
        sizes: Of the weights, by their names in the backbone.

    Raises:
        ValueError: Heads of other stages or widths. Names the keys.
    """
    pattern = re.compile(re.escape(prefix) + re.sub(r'\d+', r'\\d+', next(iter(sizes))))
    held = {key: tuple(value.shape) for key, value in state_dict.items() if pattern.fullmatch(key)}
    wanted = {prefix + name: (size, ) for name, size in sizes.items()}
    if held and held != wanted:
        differ = sorted(key for key in held.keys() | wanted.keys()
                        if held.get(key) != wanted.get(key))
        raise ValueError(f'the heads of the {score} score do not fit the backbone: ' + ', '.join(
            f'{key} is {held.get(key, "missing")} in the checkpoint, '
            f'{wanted.get(key, "not a stage")} here' for key in differ))
    return bool(held)


class _Gate(torch.autograd.Function):
    """Tokens times a gate of value 1, around which only its gradient is computed."""

    @staticmethod
    def forward(ctx, before, after, gate):
        ctx.save_for_backward(before, after)
        ctx.dtype = gate.dtype
        return after.view_as(after)

    @staticmethod
    def backward(ctx, grad):
        before, after = ctx.saved_tensors
        gain = grad.float() * (after.float() - before.float())  # fp16 sums could overflow
        return None, grad, gain.sum(-1).to(ctx.dtype)


def gate_update(before: Tensor, after: Tensor, gate: Tensor) -> Tensor:
    """``before + gate * (after - before)`` for a gate whose value is 1: its result is `after`, and
    the gate's gradient is what the task gains by the update.

    Args:
        before: (G, T, C), the tokens that ran as they would be had they been skipped. No gradient
            flows into them.
        after: (G, T, C), the tokens after the block.
        gate: (G, T), see :func:`~.ranking.window_shares`.
    """
    return _Gate.apply(before.detach(), after, gate)
