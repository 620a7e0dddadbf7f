"""Token selector of SViTE+ (SViTE, NeurIPS 2021, section 3.3): a linear score that the task trains
through Gumbel top-k."""
import torch
from torch import Tensor, nn

from ..chunks import map_rows
from .head import LIMIT, TrainedHead

FIRST_TAU, LAST_TAU = 10., .1  # published values for the first and the last iteration
INIT_STD = .02


class TokenSelector(TrainedHead):
    """Computes the log importance of a token as a linear function of the token. It has no bias,
    which would not affect the ranking.

    The squared importance of a window is the sum of ``exp(log importance)`` over its tokens.

    Args:
        channels: Number of channels C of the tokens.

    Attributes:
        tau: Temperature of the shares that train it.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(channels), std=INIT_STD))
        self.tau = LAST_TAU

    def forward(self, x: Tensor) -> Tensor:
        """Compute positive scores (B, L), fp32, of tokens (B, L, C) of any dtype."""
        weight = self.weight.float()
        # Under autocast a matrix product would run in low precision; a sum does not.
        log_score = map_rows(lambda rows: (rows.float() * weight).sum(-1), x, x.shape[-1])
        return (log_score.clamp(-LIMIT, LIMIT) / 2).exp()


def add_gumbel_noise(energy: Tensor) -> Tensor:
    """Add Gumbel noise to the logs of energies (B, n), fp32. Ranking by the result is sampling
    without replacement in proportion to energy."""
    # exp(Gumbel) = 1 / Exponential(1)
    noise = torch.empty_like(energy).exponential_().clamp(min=torch.finfo(energy.dtype).eps)
    return energy / noise


def gumbel_shares(energy: Tensor, tau: float, group: int = 1) -> Tensor:
    """Compute soft shares that replace the hard selection in the backward pass (straight-through).

    Args:
        energy: (B, n) fp32 with Gumbel noise, of the tokens or windows of each image.
        tau: Temperature.
        group: Number of images that share a budget.

    Returns:
        (B / group, group * n) fp32 that sum to 1: ``softmax(log(energy) / tau)``.
    """
    energy = energy.reshape(-1, group * energy.shape[1])
    return (energy.clamp(min=torch.finfo(energy.dtype).tiny).log() / tau).softmax(1)
