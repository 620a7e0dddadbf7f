"""Count the multiply-accumulates (MACs) of a backbone."""
from typing import Optional, Sequence

from ..models import SparseBackbone
from ..operating_point import point_of
from ..sparsity import Sparsity


def backbone_macs(backbone: SparseBackbone,
                  shape: Sequence[int],
                  batch_size: int = 1,
                  sparsity: Optional[Sparsity] = None,
                  count_padding: bool = False) -> int:
    """Count the multiply-accumulates of one forward pass in closed form: linear layers,
    convolutions and both matrix products of attention, without norms, softmax and scores (the
    convention of SparseViT, table 1).

    Args:
        backbone: Sparse backbone.
        shape: (H, W) of the input, in pixels.
        batch_size: Images per batch.
        sparsity: Configuration; the backbone's own by default. Widths that it does not set are the
            backbone's own.
        count_padding: Count padded tokens as if every layer ran on them, like the published
            figures. By default only what this package runs is counted.
    """
    config = backbone.sparsity if sparsity is None else point_of(backbone.space, sparsity)
    return batch_size * backbone.macs(shape, config, count_padding)
