"""The learned score: one linear head per stage, fitted to what running a window is worth or
trained with the task."""
import re
from typing import Dict, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..chunks import Part
from .importance import EPS, ValidArea, distance

STATISTICS = ('variation', 'distinct', 'magnitude')  # names of scores, in the order of the weights
# Weights are stored divided by this, so that they learn ten times as fast as those of the model.
GAIN = 10.
# Bound of the log importance: the sum of its exponentials over a window must be finite in fp32.
LIMIT = 60.


class TrainedHead(nn.Module):
    """Base class of modules with the trained `weight` of a score."""

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys,
                              unexpected_keys, error_msgs):
        if f'{prefix}weight' in state_dict:  # dense checkpoints lack it, but load strictly
            super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys,
                                          unexpected_keys, error_msgs)


class ImportanceHead(TrainedHead):
    """Computes the log importance of a token as a linear function of the normalised token, which
    is what its block sees, and of the logs of three statistics.

    The squared importance of a window is the sum of ``exp(log importance)`` over its tokens. An
    untrained head ranks as ``variation`` does.

    Args:
        channels: Number of channels C of the stage.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels + len(STATISTICS)))
        with torch.no_grad():
            self.weight[channels + STATISTICS.index('variation')] = 2 / GAIN

    def forward(self, rows: Tensor, valid: ValidArea, part: Part, mean: Tensor) -> Tensor:
        """Compute the scores of a strip of the map.

        Args:
            rows: (B, h, W, C) of any dtype.
            valid: Valid area of the map.
            part: The images and rows that the strip covers.
            mean: (B, 1, 1, C), see :meth:`~.importance.ValidArea.mean`.

        Returns:
            (B, h, W) fp32, positive.
        """
        channels = rows.shape[-1]
        normed, statistics = describe(rows, valid, part, mean)
        weight = self.weight.float() * GAIN
        # Under autocast a matrix product would run in low precision; a sum does not.
        log_score = (normed * weight[:channels]).sum(-1)
        log_score = log_score + (statistics * weight[channels:]).sum(-1)
        return (log_score.clamp(-LIMIT, LIMIT) / 2).exp()

    @torch.no_grad()
    def set(self, weights: Tensor) -> None:
        """Set the (C + 3,) weights of the log importance."""
        self.weight.copy_(weights / GAIN)


def describe(rows: Tensor, valid: ValidArea, part: Part, mean: Tensor):
    """Compute the inputs of a head for rows (B, h, W, C): normalised tokens (B, h, W, C) and the
    logs of :data:`STATISTICS`, (B, h, W, 3), in fp32."""
    normed = valid.normalise(rows, part)
    statistics = torch.stack([
        distance(normed, valid.neighbour_mean(normed, part)),
        distance(normed, mean),
        rows.float().abs().mean(-1)
    ], -1)
    return normed, statistics.clamp(min=EPS).log()


def learned_sizes(channels: Sequence[int]) -> Dict[str, int]:
    """Return the sizes of the learned score's weights in a Swin, by key."""
    return {f'stages.{i}.importance.weight': c + len(STATISTICS) for i, c in enumerate(channels)}


def check_heads(state_dict: Mapping[str, Tensor], prefix: str, score: str,
                sizes: Mapping[str, int]) -> bool:
    """Whether a backbone's state dict holds the heads of a score.

    Args:
        state_dict: State dict that contains the backbone.
        prefix: Prefix of the backbone's keys.
        score: Name of the score.
        sizes: Sizes of the weights, by their keys in the backbone.

    Raises:
        ValueError: If there are heads of other stages or sizes. The message names the keys.
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
    """Gate on an update that counts as 1 in the forward pass and only receives a gradient."""

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
    """Compute ``before + gate * (after - before)`` with a gate that counts as 1 in the forward
    pass.

    The result is `after`. The gradient of the gate is the first-order effect of the update on the
    loss.

    Args:
        before: (G, T, C), the same tokens as if they had been skipped. No gradient flows into
            them.
        after: (G, T, C), the tokens after the block.
        gate: (G, T), see :func:`~.ranking.window_shares`.
    """
    return _Gate.apply(before.detach(), after, gate)
