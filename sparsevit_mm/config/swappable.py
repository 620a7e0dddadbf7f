"""The dense backbones of a config that have a sparse counterpart, and the arguments of that."""
from typing import Callable, Dict, Iterable, List, NamedTuple, Tuple

from ..models import EvoLeViT, EvoVisionTransformer, SparseSwinTransformer, backbone_names
from ..sparsity import Sparsity, SparsitySpace
from .arguments import check_levit, check_swin, check_vit, from_mmpretrain
from .child import Keys
from .classifiers import distilled_of_mmpretrain, levit_of_mmpretrain, vit_of_mmpretrain
from .reading import find_type, list_backbones, node_at

# Scopes whose backbones take other arguments than those of mmdet, mmseg and mmpose.
CLASSIFIERS = ('mmpretrain', 'mmcls')


class Kind(NamedTuple):
    """What takes the place of a dense backbone.

    Attributes:
        name: Of its class.
        check: Arguments -> its SparsitySpace; raises on those that do not fit.
        to_adapt: Arguments where it is to be adapted.
        of_mmpretrain: Arguments of mmpretrain's class of that name -> ours.
        elsewhere: Whether other toolkits have a class of that name, with our arguments.
    """
    name: str
    check: Callable[[Dict], SparsitySpace]
    to_adapt: Dict
    of_mmpretrain: Callable[[Dict], Dict]
    elsewhere: bool = True


KINDS = {
    'SwinTransformer': Kind(SparseSwinTransformer.__name__, check_swin, dict(skipped='linear'),
                            from_mmpretrain),
    'VisionTransformer': Kind(EvoVisionTransformer.__name__, check_vit, {}, vit_of_mmpretrain),
    'DistilledVisionTransformer': Kind(EvoVisionTransformer.__name__, check_vit, {},
                                       distilled_of_mmpretrain, elsewhere=False),
    'LeViT': Kind(EvoLeViT.__name__, check_levit, {}, levit_of_mmpretrain, elsewhere=False),
}


class Swap(NamedTuple):
    """One backbone that changes.

    Attributes:
        keys: From the config's top to it.
        old_type: What it was, as the config has it.
        kind: What takes its place.
        arguments: What is written: all of its arguments if `whole`, else those that change.
        whole: Whether its other arguments go.
    """
    keys: Keys
    old_type: str
    kind: Kind
    arguments: Dict
    whole: bool

    @property
    def dotted(self) -> str:
        return '.'.join(self.keys)


def find_swaps(base: Dict, config: str, sparsity: Sparsity) -> List[Swap]:
    """What changes in a config, given as plain dicts, where each such backbone is to be sparse.

    Raises:
        ValueError: There is none, or a sparse one already; arguments that have no counterpart, or
            fit neither each other nor `sparsity`. Names `config` and the place.
    """
    sparse = find_backbones(base, backbone_names())
    if sparse:
        name, keys = sparse[0]
        raise ValueError(f'{config} holds {name} already, at {".".join(keys)}: set its sparsity in '
                         f'the config, or by --sparsity of test.py')
    found = find_backbones(base, KINDS)
    if not found:
        raise ValueError(f'{config} holds no {" or ".join(KINDS)}; its backbones: '
                         f'{list_backbones(base)}')
    return [_swap(base, keys, sparsity, KINDS[name]) for name, keys in found]


def find_backbones(base: Dict, names: Iterable[str]) -> List[Tuple[str, Keys]]:
    """Classes among `names` that the model of a config is built of, with their places."""
    return [(name, keys) for name in names for keys in find_type(base, name)]


def _swap(base: Dict, keys: Keys, sparsity: Sparsity, kind: Kind) -> Swap:
    node, scope = base, base.get('default_scope')
    for key in keys:
        node = node_at(node, [key])
        if isinstance(node, dict):
            scope = node.get('_scope_') or scope
    old_type = str(node['type'])
    if '.' in old_type:
        scope = old_type.split('.')[0]
    whole = scope in CLASSIFIERS or not kind.elsewhere
    arguments = {k: v for k, v in node.items() if k not in ('type', '_scope_')}
    try:
        if whole:
            arguments = kind.of_mmpretrain(arguments)
        new = {}
        if sparsity is not None:
            new['sparsity'] = sparsity
        if kind.name == EvoVisionTransformer.__name__ and not node.get('with_cls_token', True):
            new['importance'] = 'received'  # there is no class attention
        space = kind.check({**arguments, **new})
        if sparsity is not None:
            ratios = space.config(sparsity).to_list()
            flat = {ratio for stage in ratios for ratio in stage}
            new['sparsity'] = flat.pop() if len(flat) == 1 else ratios
    except (TypeError, ValueError) as error:
        raise ValueError(f'{".".join(keys)}: {error}') from None
    return Swap(keys, old_type, kind, {**arguments, **new} if whole else new, whole)
