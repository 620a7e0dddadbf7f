"""Weights of LeViT under the names of the released Evo-ViT, of LeViT itself and of mmpretrain."""
import re
from typing import Dict, List, Optional, Tuple

from mmengine.logging import print_log
from torch import Tensor, nn

from ..checkpoints import read_pretrained
from .pretrained import HEADS, load_strictly

# Within attention and FFN: LeViT's and mmpretrain's names -> ours.
_INNER = ((r'^block\.', ''), (r'^m\.', ''), (r'^linear1\.', '0.'), (r'^linear2\.', '2.'),
          (r'\.linear\.', '.c.'), (r'^attention_biases$', 'biases.attention_biases'))
_OF_EVOLUTION = re.compile(r'learn_tradeoff$|^cls_token$')


def load_levit(backbone: nn.Module, source: str, prefix: Optional[str] = None) -> None:
    """Loads a checkpoint into an EvoLeViT. Classifier heads are left out, with one line of log; a
    dense LeViT lacks the class token and the trade-offs, which stay as they are.

    Args:
        backbone: An EvoLeViT; a dense LeViT fits one with `attention_bias`.
        source: File or URL.
        prefix: Of the names that are taken.

    Raises:
        FileNotFoundError: `source` can't be read.
        ValueError: It does not fit: lists missing, unexpected and misshapen keys.
    """
    state = read_pretrained(source, prefix)
    left_out = [key for key in state if HEADS.match(key)]
    state = {key: value for key, value in state.items() if key not in left_out}
    if not any('.m1.' in key for key in state):
        state, lacking = from_dense(state, backbone)
        print_log(f'{source} is of a dense LeViT: {lacking} parameters of token evolution '
                  f'stay as they are', 'current')
    load_strictly(backbone, state, left_out, source)


def from_dense(state: Dict[str, Tensor], backbone: nn.Module) -> Tuple[Dict[str, Tensor], int]:
    """The weights of a dense LeViT under the names of an EvoLeViT, with what that has beside them
    as it is; and the number of the latter."""
    new, current = _renamed(state, backbone), backbone.state_dict()
    lacking = {key: value for key, value in current.items()
               if _OF_EVOLUTION.search(key) and key not in new}
    return {**new, **lacking}, len(lacking)


def _renamed(state: Dict[str, Tensor], backbone: nn.Module) -> Dict[str, Tensor]:
    targets, new = _places(backbone), {}
    first = [0]  # of each of mmpretrain's stages, in the flat list
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
            if index < len(targets):  # else it is listed as unexpected
                key = f'{targets[index]}.{inner}'
        new[key] = value
    return new


def _places(backbone: nn.Module) -> List[str]:
    """Where each residual and subsample of a dense LeViT lies in an EvoLeViT, in order."""
    names: List[str] = []
    for stage, (place, depth) in enumerate(zip(backbone.places, backbone.depths)):
        if stage:
            names += [f'blocks.{place - 2}', f'blocks.{place - 1}.m']
        for layer in range(place, place + depth):
            names += [f'blocks.{layer}.m1.m', f'blocks.{layer}.m2.m']
    return names
