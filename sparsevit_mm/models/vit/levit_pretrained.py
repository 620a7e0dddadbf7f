"""Loading of LeViT checkpoints in the naming of the released Evo-ViT, of LeViT and of
mmpretrain."""
import re
from typing import Dict, List, Optional, Tuple

from mmengine.logging import print_log
from torch import Tensor, nn

from ..checkpoints import read_pretrained
from .pretrained import HEADS, load_strictly

# Maps LeViT's and mmpretrain's names within attention and FFN to ours.
_INNER = ((r'^block\.', ''), (r'^m\.', ''), (r'^linear1\.', '0.'), (r'^linear2\.', '2.'),
          (r'\.linear\.', '.c.'), (r'^attention_biases$', 'biases.attention_biases'))
_OF_EVOLUTION = re.compile(r'learn_tradeoff$|^cls_token$')


def load_levit(backbone: nn.Module, source: str, prefix: Optional[str] = None) -> None:
    """Load a checkpoint into an EvoLeViT. Classifier heads are skipped and logged. A dense LeViT
    has neither class token nor trade-off parameters; those of the backbone stay as they are.

    Args:
        backbone: An EvoLeViT. The checkpoint of a dense LeViT requires `attention_bias`.
        source: File or URL.
        prefix: Prefix of the keys to load.

    Raises:
        FileNotFoundError: If `source` cannot be read.
        ValueError: If the checkpoint is invalid or does not fit the backbone. Lists missing and
            unexpected keys and keys with wrong shapes.
    """
    state = read_pretrained(source, prefix)
    left_out = [key for key in state if HEADS.match(key)]
    state = {key: value for key, value in state.items() if key not in left_out}
    if not any('.m1.' in key for key in state):
        state, lacking = from_dense(state, backbone)
        print_log(f'{source} is a checkpoint of a dense LeViT: {lacking} token evolution '
                  f'parameters are not loaded', 'current')
    load_strictly(backbone, state, left_out, source)


def from_dense(state: Dict[str, Tensor], backbone: nn.Module) -> Tuple[Dict[str, Tensor], int]:
    """Rename the weights of a dense LeViT to the keys of an EvoLeViT, and add the backbone's own
    token evolution parameters. Return the state dict and the number of added parameters."""
    new, current = _renamed(state, backbone), backbone.state_dict()
    lacking = {key: value for key, value in current.items()
               if _OF_EVOLUTION.search(key) and key not in new}
    return {**new, **lacking}, len(lacking)


def _renamed(state: Dict[str, Tensor], backbone: nn.Module) -> Dict[str, Tensor]:
    targets, new = _places(backbone), {}
    first = [0]  # flat index of the first module of each mmpretrain stage
    for stage, depth in enumerate(backbone.depths):
        first.append(first[-1] + 2 * depth + 2 * (stage > 0))
    for key, value in state.items():
        if key.endswith('attention_bias_idxs'):
            continue  # computed
        key = re.sub(r'^patch_embed\.patch_embed\.(\d+)\.conv\.', r'patch_embed.\1.c.', key)
        key = re.sub(r'^patch_embed\.patch_embed\.', 'patch_embed.', key)
        match = re.match(r'(?:blocks\.(\d+)|stages\.(\d+)\.(\d+))\.(.*)$', key)
        if match:
            flat, stage, place, inner = match.groups()
            index = int(flat) if flat else first[int(stage)] + int(place)
            for pattern, replacement in _INNER:
                inner = re.sub(pattern, replacement, inner)
            if index < len(targets):  # otherwise reported as unexpected
                key = f'{targets[index]}.{inner}'
        new[key] = value
    return new


def _places(backbone: nn.Module) -> List[str]:
    """Return the EvoLeViT names of a dense LeViT's residuals and subsampling layers, in order."""
    names: List[str] = []
    for stage, (place, depth) in enumerate(zip(backbone.places, backbone.depths)):
        if stage:
            names += [f'blocks.{place - 2}', f'blocks.{place - 1}.m']
        for layer in range(place, place + depth):
            names += [f'blocks.{layer}.m1.m', f'blocks.{layer}.m2.m']
    return names
