"""The token selector of SViTE+ (SViTE, NeurIPS 2021, section 3.3): a linear score, trained by the
task through Gumbel top-k."""
import torch
from torch import Tensor, nn

from ..chunks import map_rows
from .head import LIMIT, TrainedHead

FIRST_TAU, LAST_TAU = 10., .1  # published: from the first iteration to the last
INIT_STD = .02


class TokenSelector(TrainedHead):
    """Log importance of a token as a linear function of it, without a bias, which ranks nothing.

    The importance of a window, squared, is the sum of ``exp(log importance)`` over its tokens.

    Args:
        channels: C of the tokens.

    Attributes:
        tau: Temperature of the shares through which it trains.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(channels), std=INIT_STD))
        self.tau = LAST_TAU

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) of any dtype -> (B, L) fp32 scores, above 0."""
        weight = self.weight.float()
        # A product under autocast would be in low precision; sums are not.
        log_score = map_rows(lambda rows: (rows.float() * weight).sum(-1), x, x.shape[-1])
        return (log_score.clamp(-LIMIT, LIMIT) / 2).exp()


def add_gumbel_noise(energy: Tensor) -> Tensor:
    """Adds Gumbel noise to the logs of (B, n) fp32 energies: ranking by the result draws without
    replacement, each in proportion to its energy."""
    # exp(Gumbel) = 1 / Exponential(1)
    noise = torch.empty_like(energy).exponential_().clamp(min=torch.finfo(energy.dtype).eps)
    return energy / noise


def gumbel_shares(energy: Tensor, tau: float, group: int = 1) -> Tensor:
    """Soft counterpart of the choice, whose gradient it takes (straight-through).

    Args:
        energy: (B, n) fp32 with Gumbel noise, of the tokens or windows of each image.
        tau: Temperature.
        group: Images that share a budget.

    Returns:
        (B / group, group * n) fp32 that sum to 1: ``softmax(log(energy) / tau)``.
    """
    energy = energy.reshape(-1, group * energy.shape[1])
    return (energy.clamp(min=torch.finfo(energy.dtype).tiny).log() / tau).softmax(1)
