"""Find the maskable weights of a model: those of linear layers and convolutions."""
import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Union

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

# Weight attributes of each layer type; biases, norms and embeddings are never masked.
WEIGHTS = {
    nn.Linear: ('weight', ),
    _ConvNd: ('weight', ),
    nn.MultiheadAttention: ('in_proj_weight', 'q_proj_weight', 'k_proj_weight', 'v_proj_weight'),
}


class LayerWeight(NamedTuple):
    """Weight of a layer, and the dimension of its input channels."""
    parameter: nn.Parameter
    input_dim: int


def maskable_weights(model: nn.Module, layers: Optional[Union[str, Sequence[str]]] = None
                     ) -> Dict[str, LayerWeight]:
    """Return the weights of linear layers, convolutions and torch's attention, by state dict key.

    A layer that is registered under several names is listed once, under the first. Deformable
    convolutions are left out, as they do not derive from torch's.

    Args:
        model: Model without a wrapper.
        layers: Regular expressions that select layers by a match anywhere in their names. All
            layers by default.

    Raises:
        ValueError: If an expression matches no such layer, the model has none, or a layer cannot be
            masked because its weight is computed from other parameters, shared with another layer,
            not initialized yet (lazy) or sharded over ranks.
    """
    patterns = [layers] if isinstance(layers, str) else layers
    weights, used = {}, set()
    for name, module in model.named_modules():
        attributes = next((a for kind, a in WEIGHTS.items() if isinstance(module, kind)), ())
        matching = {p for p in patterns or () if re.search(p, name)}
        if not attributes or (patterns is not None and not matching):
            continue
        used |= matching
        for attribute in attributes:
            # MultiheadAttention has in_proj_weight or q, k and v weights; the others are None.
            if attribute == 'weight' or getattr(module, attribute) is not None:
                parameter = _weight(name, module, attribute)
                dim = 0 if getattr(module, 'transposed', False) else 1
                weights[f'{name}.{attribute}'.lstrip('.')] = LayerWeight(parameter, dim)
    _check_found(model, weights, patterns, used)
    _check_not_shared(model, weights)
    return weights


def _weight(name: str, module: nn.Module, attribute: str) -> nn.Parameter:
    kind = type(module).__name__
    # The older weight_norm and spectral_norm replace the parameter by a plain tensor.
    if is_parametrized(module, attribute) or attribute not in dict(
            module.named_parameters(recurse=False)):
        raise ValueError(f'{name} ({kind}): its {attribute} is computed from other parameters, so '
                         f'it cannot be masked; exclude the layer with `layers`')
    parameter = getattr(module, attribute)
    if is_lazy(parameter):
        raise ValueError(f'{name} ({kind}): its {attribute} has no size before the first forward')
    if parameter.dim() < 2:
        raise ValueError(f'{name} ({kind}): its {attribute} has shape {tuple(parameter.shape)}; '
                         f'weights that are sharded over ranks cannot be masked')
    return parameter


def _check_found(model: nn.Module, weights: Dict[str, LayerWeight],
                 patterns: Optional[Sequence[str]], used: Set[str]) -> None:
    for pattern in patterns or ():
        if pattern not in used:
            others = [f'{name} ({type(module).__name__})'
                      for name, module in model.named_modules() if re.search(pattern, name)]
            but = f'; it matches {", ".join(others[:3])}' if others else ''
            raise ValueError(f'layers: {pattern!r} matches no linear layer or convolution of '
                             f'{type(model).__name__}{but}')
    if not weights:
        raise ValueError(f'{type(model).__name__} has no linear layer or convolution to mask')


def _check_not_shared(model: nn.Module, weights: Dict[str, LayerWeight]) -> None:
    holders: Dict[int, List[str]] = {}
    for name, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            holders.setdefault(id(parameter), []).append(f'{name}.{attribute}')
    for name, weight in weights.items():
        names = holders[id(weight.parameter)]
        if len(names) > 1:
            raise ValueError(f'{name} of shape {tuple(weight.parameter.shape)} is the same '
                             f'parameter as {", ".join(n for n in names if n != name)}: shared '
                             f'weights cannot be masked; exclude the layers with `layers`')
