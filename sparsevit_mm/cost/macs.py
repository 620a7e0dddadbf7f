"""Multiply-accumulates of a backbone."""
from typing import Optional, Sequence

from ..models import SparseBackbone
from ..operating_point import point_of
from ..sparsity import Sparsity


def backbone_macs(backbone: SparseBackbone,
                  shape: Sequence[int],
                  batch_size: int = 1,
                  sparsity: Optional[Sparsity] = None,
                  count_padding: bool = False) -> int:
    """Multiply-accumulates of one forward pass, an int: linear layers, convolutions and both
    products of attention; no norms, no softmax, no scores (the convention of SparseViT, table 1).

    Args:
        backbone: Its class holds the closed form.
        shape: (H, W) of the input, in pixels.
        batch_size: Images.
        sparsity: The configuration; the backbone's own by default. An OperatingPoint may have
            widths; where it names none, the backbone's own count.
        count_padding: Count padded tokens as if every layer ran on them, as the published figures
            do. By default what this package runs is counted.
    """
    config = backbone.sparsity if sparsity is None else point_of(backbone.space, sparsity)
    return batch_size * backbone.macs(shape, config, count_padding)
