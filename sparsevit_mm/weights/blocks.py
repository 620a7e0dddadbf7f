"""Find the heads and FFN neurons of a model and the parameters that belong to each of them."""
import re
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from mmcv.cnn.bricks.transformer import FFN
from torch import Tensor, nn

from ..models import SparseBackbone, get_sparse_backbone


class Part(NamedTuple):
    """Parameter that stores units one after another along a dimension.

    Attributes:
        name: Its key in the state dict.
        parameter: The parameter.
        dim: Dimension along which the units lie.
        copies: How often the sequence of units repeats: 3 for a fused query, key and value.
    """
    name: str
    parameter: nn.Parameter
    dim: int
    copies: int = 1

    def index(self, units: Tensor) -> Tensor:
        """Return the int64 indices along `dim` of the units that a bool mask selects."""
        width = self.parameter.shape[self.dim] // (self.copies * len(units))
        places = units.repeat_interleave(width).repeat(self.copies)
        return places.nonzero().flatten().to(self.parameter.device)


class UnitGroup(NamedTuple):
    """The heads, or the FFN neurons, of one block.

    Attributes:
        kind: 'heads' or 'neurons'.
        number: Number of units.
        output: Weight of the layer that consumes the units, which lie along its inputs.
        layer: That layer.
        inputs: Parameters that compute the units: weights, biases and bias tables.
        activation: Activation layer of the neurons; None for heads, and if the FFN has none as a
            module.
    """
    kind: str
    number: int
    output: Part
    layer: nn.Linear
    inputs: Tuple[Part, ...]
    activation: Optional[nn.Module] = None

    @property
    def weights(self) -> Tuple[Part, ...]:
        """The weights among the parts: no biases, no relative position bias tables."""
        return (self.output, *(part for part in self.inputs if part.name.endswith('weight')))


def unit_groups(model: nn.Module, blocks: Optional[Union[str, Sequence[str]]] = None
                ) -> Dict[str, UnitGroup]:
    """Return the heads and neurons of a model's blocks, keyed by block name and kind, such as
    ``backbone.blocks.0.heads``.

    Args:
        model: Model without a wrapper.
        blocks: Regular expressions that match full block names. By default the blocks of the
            model's sparse backbone.

    Raises:
        ValueError: If `blocks` is None and the model has no sparse backbone, or one without such
            blocks; if an expression matches no module, or a module that does not hold exactly one
            supported attention and one supported FFN. The message names it.
    """
    known = [block for backbone in model.modules() if isinstance(backbone, SparseBackbone)
             for block in backbone.attention_blocks()]
    groups = {}
    for name, block in _find(model, blocks):
        groups[f'{name}.heads'.lstrip('.')] = _heads(name, block, block in known)
        groups[f'{name}.neurons'.lstrip('.')] = _neurons(name, block)
    return groups


def _find(model: nn.Module, blocks: Optional[Union[str, Sequence[str]]]
          ) -> Iterator[Tuple[str, nn.Module]]:
    if blocks is None:
        try:
            backbone = get_sparse_backbone(model)
        except ValueError as error:
            raise ValueError(f'{error}. Use a sparse backbone, or name the blocks of heads and '
                             f'neurons with `blocks`') from None
        found = backbone.attention_blocks()
        if not found:
            raise ValueError(f'{type(backbone).__name__} has no blocks whose heads and neurons can '
                             f'be removed')
        names = {module: name for name, module in model.named_modules()}
        yield from ((names[block], block) for block in found)
        return
    patterns = [blocks] if isinstance(blocks, str) else blocks
    modules = dict(model.named_modules())
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in modules):
            raise ValueError(f'blocks: {pattern!r} matches the full name of no module of '
                             f'{type(model).__name__}')
    for name, module in modules.items():
        if any(re.fullmatch(pattern, name) for pattern in patterns):
            yield name, module


def _only(block: nn.Module, name: str, found: List[Tuple[str, nn.Module]], what: str
          ) -> Tuple[str, nn.Module]:
    if len(found) != 1:
        raise ValueError(f'{name} ({type(block).__name__}) holds {len(found)} {what} instead of '
                         f'one')
    inner, module = found[0]
    return f'{name}.{inner}'.strip('.'), module


def _heads(name: str, block: nn.Module, known: bool) -> UnitGroup:
    path, attention = _only(block, name, [
        (inner, m) for inner, m in block.named_modules() if isinstance(m, nn.MultiheadAttention)
        or (hasattr(m, 'num_heads') and isinstance(getattr(m, 'qkv', None), nn.Linear)
            and isinstance(getattr(m, 'proj', None), nn.Linear))],
        'attentions with qkv and proj, or of torch')
    if isinstance(attention, nn.MultiheadAttention):
        if not known:
            raise ValueError(f'{path}: torch\'s MultiheadAttention does not call its output '
                             f'projection as a layer, so the importance of heads cannot be '
                             f'computed; use EvoVisionTransformer')
        layer, output = attention.out_proj, 'out_proj'
        inputs = [(key, getattr(attention, key)) for key in ('in_proj_weight', 'in_proj_bias')]
    else:
        layer, output = attention.proj, 'proj'
        inputs = [(f'qkv.{key}', getattr(attention.qkv, key)) for key in ('weight', 'bias')]
    number = attention.num_heads
    parts = [Part(f'{path}.{key}', parameter, 0, 3) for key, parameter in inputs
             if parameter is not None]
    if not parts or len(parts[0].parameter) != 3 * layer.in_features or layer.in_features % number:
        raise ValueError(f'{path} ({type(attention).__name__}): query, key and value of its '
                         f'{number} heads do not share one fused weight')
    table = getattr(attention, 'relative_position_bias_table', None)
    if table is not None:
        parts.append(Part(f'{path}.relative_position_bias_table', table, 1))
    return UnitGroup('heads', number, Part(f'{path}.{output}.weight', layer.weight, 1), layer,
                     tuple(parts))


def _neurons(name: str, block: nn.Module) -> UnitGroup:
    path, ffn = _only(block, name, [
        (inner, m) for inner, m in block.named_modules() if isinstance(m, FFN)
        or all(isinstance(getattr(m, key, None), nn.Linear) for key in ('fc1', 'fc2'))],
        "FFNs of mmcv, or with fc1 and fc2")
    if isinstance(ffn, FFN):
        if ffn.num_fcs != 2:
            raise ValueError(f'{path}: neurons of an FFN with {ffn.num_fcs} layers cannot be '
                             f'removed, only those of an FFN with two')
        first, second, activation = 'layers.0.0', 'layers.1', ffn.layers[0][1]
    else:
        first, second, activation = 'fc1', 'fc2', getattr(ffn, 'act', None)
    widen, narrow = ffn.get_submodule(first), ffn.get_submodule(second)
    parts = tuple(Part(f'{path}.{first}.{key}', parameter, 0)
                  for key, parameter in (('weight', widen.weight), ('bias', widen.bias))
                  if parameter is not None)
    output = Part(f'{path}.{second}.weight', narrow.weight, 1)
    return UnitGroup('neurons', narrow.in_features, output, narrow, parts, activation)
