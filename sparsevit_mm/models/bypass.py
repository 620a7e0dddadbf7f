"""What becomes of the windows that a block skips: copied through, or a linear update."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SKIPPED = 'copy', 'linear'


class Bypass(nn.Module):
    """A linear layer on the normalised token, in place of a block that skips it, at a twelfth of
    its cost. It starts at zero, as a copy, so that dense checkpoints, which have none, load
    strictly.

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., C) -> (..., C), what is added to the tokens."""
        normed = F.layer_norm(tokens, tokens.shape[-1:])
        return F.linear(normed, self.weight, self.bias)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys,
                              unexpected_keys, error_msgs):
        if f'{prefix}weight' in state_dict:
            super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys,
                                          unexpected_keys, error_msgs)
        else:
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.bias)
