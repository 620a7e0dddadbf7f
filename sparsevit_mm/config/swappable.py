"""Find the dense backbones of a config that have a sparse counterpart, and its arguments."""
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
    """Sparse counterpart of a dense backbone.

    Attributes:
        name: Name of its class.
        check: Function that returns the SparsitySpace of arguments; raises if they do not fit.
        to_adapt: Additional arguments for adaptation.
        of_mmpretrain: Function that converts arguments of mmpretrain's class to ours.
        elsewhere: Whether other toolkits have a class of the same name with our arguments.
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
    """Replacement of one backbone.

    Attributes:
        keys: Key path of the backbone from the top of the config.
        old_type: Its type in the config.
        kind: Counterpart that replaces it.
        arguments: Arguments to write: all if `whole`, else those that change.
        whole: Whether its other arguments are removed.
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
    """Find what changes in a config, given as plain dicts, to make its backbones sparse.

    Raises:
        ValueError: If no backbone has a sparse counterpart, or one is sparse already; if
            arguments have no counterpart, or do not fit each other or `sparsity`. The message
            names `config` or the key path of the backbone.
    """
    sparse = find_backbones(base, backbone_names())
    if sparse:
        name, keys = sparse[0]
        raise ValueError(f'{config} has {name} already, at {".".join(keys)}: set its sparsity in '
                         f'the config, or with --sparsity of test.py')
    found = find_backbones(base, KINDS)
    if not found:
        raise ValueError(f'{config} has no {" or ".join(KINDS)}; its backbones: '
                         f'{list_backbones(base)}')
    return [_swap(base, keys, sparsity, KINDS[name]) for name, keys in found]


def find_backbones(base: Dict, names: Iterable[str]) -> List[Tuple[str, Keys]]:
    """Return class name and key path of each dict in a config's model that builds one of `names`.
    """
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
            new['importance'] = 'received'  # there is no class token to rank by
        space = kind.check({**arguments, **new})
        if sparsity is not None:
            ratios = space.config(sparsity).to_list()
            flat = {ratio for stage in ratios for ratio in stage}
            new['sparsity'] = flat.pop() if len(flat) == 1 else ratios
    except (TypeError, ValueError) as error:
        raise ValueError(f'{".".join(keys)}: {error}') from None
    return Swap(keys, old_type, kind, {**arguments, **new} if whole else new, whole)
