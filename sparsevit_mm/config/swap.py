"""Any mm config with a Swin or ViT backbone as one that is sparse: a small child over it."""
from copy import deepcopy
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Tuple

from mmengine.config import Config
from mmengine.config.utils import ConfigParsingError

from ..compat import base_files, is_lazy_config
from ..models import EvoVisionTransformer, SparseSwinTransformer, backbone_names
from ..sparsity import Sparsity, SparsitySpace
from .arguments import check_swin, check_vit, from_mmpretrain
from .child import Keys, body_of, child_text, module_of, writable, write_config
from .reading import ADAPTATION_HOOK, find_type, is_type, list_backbones, load_config
from .schedules import adaptation_schedule

PACKAGE = 'sparsevit_mm'
# Scopes whose backbones take other arguments than those of mmdet, mmseg and mmpose.
CLASSIFIERS = ('mmpretrain', 'mmcls')


class Kind(NamedTuple):
    """What takes the place of a dense backbone.

    Attributes:
        name: Of its class.
        check: Arguments -> its SparsitySpace; raises on those that do not fit.
        to_adapt: Arguments where it is to be adapted.
    """
    name: str
    check: Callable[[Dict], SparsitySpace]
    to_adapt: Dict


KINDS = {
    'SwinTransformer': Kind(SparseSwinTransformer.__name__, check_swin, dict(skipped='linear')),
    'VisionTransformer': Kind(EvoVisionTransformer.__name__, check_vit, {}),
}
HOOK = dict(distillation=1.)
CHECKED = ('model', 'custom_hooks', 'custom_imports')


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


def swap_backbone(config: str, out: Path, sparsity: Sparsity = None, adapt: bool = False,
                  overwrite: bool = False) -> List[Swap]:
    """Writes a child of a config in which each ``SwinTransformer`` of the model, at any depth, is
    a :class:`.SparseSwinTransformer` of the same arguments, and each ``VisionTransformer`` of mmseg
    an :class:`.EvoVisionTransformer`. All else stays.

    The child of a new-style config (``read_base``) is one too.

    Args:
        config: A file, or ``toolkit::path``.
        out: The file to write.
        sparsity: Of the backbones, anything that SparsityConfig takes; None leaves them dense.
        adapt: Whether to append the SparsityAdaptationHook to the custom hooks, with a dense
            teacher, give skipped windows an update that it trains, and train on for a third of the
            config's schedule at a tenth of its rate, see
            :func:`~.schedules.adaptation_schedule`. It starts from ``load_from``, the dense model's
            checkpoint, not from ImageNet weights.
        overwrite: Whether `out` may be there already.

    Raises:
        FileNotFoundError: There is no such config.
        FileExistsError: `out` is there.
        ValueError: There is no Swin or ViT, or there is a sparse one already; arguments without a
            counterpart, or that don't fit each other or `sparsity`; several backbones and `adapt`;
            a new-style config that no import statement in `out` can name; `out` is the config or
            one of its bases. Nothing is written then.
    """
    if out.suffix != '.py':
        raise ValueError(f'{out}: the name of the new config must end in .py')
    if '::' not in config and out.resolve() == Path(config).resolve():
        raise ValueError(f'{out} is the config itself: give another name for the new one')
    if out.exists() and not overwrite:
        raise FileExistsError(f'{out} is there already: --overwrite, or another -o')
    cfg = _load(config)
    new_style = is_lazy_config(cfg.filename)
    if out.exists() and not new_style and out.resolve() in map(Path.resolve, _files(cfg.filename)):
        raise ValueError(f'{out} is a base of {config}: give another name for the new config')

    base = cfg.to_dict()  # not the config itself, which would import what a lazy type names
    swaps = _find_swaps(base, config, sparsity)
    if adapt and len(swaps) > 1:
        raise ValueError(f'{ADAPTATION_HOOK} adapts exactly one backbone; {config} holds '
                         f'{len(swaps)}: {", ".join(swap.dotted for swap in swaps)}')
    hooks = base.get('custom_hooks') or []
    adapt = adapt and not any(is_type(hook, ADAPTATION_HOOK) for hook in hooks)
    if adapt:
        swaps = [swap._replace(arguments={**swap.arguments, **swap.kind.to_adapt,
                                          **_no_pretraining(base, swap.keys)})
                 for swap in swaps]
    if adapt and ({'semi_train_cfg', 'semi_test_cfg'} & set(base.get('model') or {})):
        raise ValueError(f'{ADAPTATION_HOOK} adapts exactly one backbone; the semi-supervised '
                         f'model of {config} holds two, of student and teacher: adapt its detector')
    expected = _swapped(base, swaps, adapt, new_style)
    if new_style:
        text = _new_style_text(module_of(Path(cfg.filename), out), base, swaps, adapt)
    else:
        text = child_text(config, _body(base, expected, swaps, adapt), out)

    def check(child: Config) -> None:
        child = child.to_dict()
        for key in CHECKED:
            if _without_scopes(child.get(key)) != _without_scopes(expected.get(key)):
                raise ValueError(f'{config} can\'t be changed by a child config: its {key} came '
                                 f'out otherwise')

    try:
        write_config(text, out, check)
    except NameError as error:  # of a whole list: float('inf') is written as inf
        raise ValueError(f'{config} holds what a child config can\'t state: {error}') from None
    return swaps


def ensure_sparse(config: str, folder: Path) -> str:
    """A config with a sparse backbone for any with a dense one: itself, or NAME_sparse.py in
    `folder`.

    Raises:
        As :func:`swap_backbone`.
    """
    if _find(_load(config).to_dict(), backbone_names()):
        return config
    out = folder / f'{Path(config.replace("::", "/")).stem}_sparse.py'
    swap_backbone(config, out, overwrite=True)
    return str(out)


def _load(config: str) -> Config:
    try:
        return load_config(config)
    except (ImportError, SyntaxError, ConfigParsingError) as error:
        raise ValueError(f'{config} can\'t be read: {error.__cause__ or error}') from error


def _files(path: str) -> Iterator[Path]:
    """A config file and all that it is based on."""
    yield Path(path)
    for base in base_files(path):
        yield from _files(base)


def _find_swaps(base: Dict, config: str, sparsity: Sparsity) -> List[Swap]:
    sparse = _find(base, backbone_names())
    if sparse:
        name, keys = sparse[0]
        raise ValueError(f'{config} holds {name} already, at {".".join(keys)}: set its sparsity in '
                         f'the config, or by --sparsity of test.py')
    found = _find(base, KINDS)
    if not found:
        raise ValueError(f'{config} holds no {" or ".join(KINDS)}; its backbones: '
                         f'{list_backbones(base)}')
    return [_swap(base, keys, sparsity, KINDS[name]) for name, keys in found]


def _find(base: Dict, names: Iterable[str]) -> List[Tuple[str, Keys]]:
    return [(name, keys) for name in names for keys in find_type(base, name)]


def _swap(base: Dict, keys: Keys, sparsity: Sparsity, kind: Kind) -> Swap:
    node, scope = base, base.get('default_scope')
    for key in keys:
        node = _child(node, key)
        if isinstance(node, dict):
            scope = node.get('_scope_') or scope
    old_type = str(node['type'])
    if '.' in old_type:
        scope = old_type.split('.')[0]
    whole = scope in CLASSIFIERS
    arguments = {k: v for k, v in node.items() if k not in ('type', '_scope_')}
    try:
        if whole and kind is not KINDS['SwinTransformer']:
            raise ValueError(f'the VisionTransformer of {scope} has no counterpart here: its '
                             f'weights load into mmseg\'s, by init_cfg')
        if whole:
            arguments = from_mmpretrain(arguments)
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


def _child(node, key: str):
    return node[int(key)] if isinstance(node, (list, tuple)) else node[key]


def _no_pretraining(base: Dict, keys: Keys) -> Dict:
    """Arguments that keep a backbone from loading weights of a pretraining, where it does so."""
    node = base
    for key in keys:
        node = _child(node, key)
    return {name: None for name in ('init_cfg', 'pretrained') if node.get(name) is not None}


def _pretrained_above(base: Dict, swaps: List[Swap]) -> List[Keys]:
    """Where a model around a backbone names weights for it, as mmseg's ``model.pretrained``."""
    found: Dict[Keys, None] = {}
    for swap in swaps:
        node = base
        for i, key in enumerate(swap.keys):
            if isinstance(node, dict) and node.get('pretrained') is not None:
                found[(*swap.keys[:i], 'pretrained')] = None
            node = _child(node, key)
    return list(found)


def _swapped(base: Dict, swaps: List[Swap], adapt: bool, new_style: bool) -> Dict:
    """The whole config as it is to be."""
    prefix = f'{PACKAGE}.' if new_style else ''  # a class there, which to_dict names so
    new = deepcopy(base)
    for swap in swaps:
        node = new
        for key in swap.keys:
            node = _child(node, key)
        if swap.whole:
            node.clear()
        node.update(swap.arguments, type=prefix + swap.kind.name)
    if adapt:
        for *place, name in _pretrained_above(base, swaps):
            node = new
            for key in place:
                node = _child(node, key)
            node[name] = None
        new['custom_hooks'] = [*(new.get('custom_hooks') or []),
                               dict(type=prefix + ADAPTATION_HOOK, **HOOK)]
        new.update(adaptation_schedule(base))
        new.setdefault('load_from', None)
    if not new_style:
        own = new.get('custom_imports') or {}
        modules = own.get('imports') or []
        modules = [modules] if isinstance(modules, str) else modules
        if PACKAGE not in modules:
            new['custom_imports'] = dict(own, imports=[*modules, PACKAGE])
    return new


def _body(base: Dict, expected: Dict, swaps: List[Swap], adapt: bool) -> Dict:
    """The difference of two configs, as mm merges a child into its base."""
    new, paths = deepcopy(expected), [('custom_imports', 'imports')]
    if 'custom_imports' in base and base['custom_imports'] is None:
        new['custom_imports']['_delete_'] = True
        paths = [('custom_imports', )]
    for swap in swaps:
        if not swap.whole:
            paths += [(*swap.keys, name) for name in ('type', *swap.arguments)]
            continue
        if writable(new, swap.keys) == swap.keys:  # within a list, all is replaced anyway
            node = new
            for key in swap.keys:
                node = node[key]
            node['_delete_'] = True
        paths.append(swap.keys)
    if adapt:
        paths += [('custom_hooks', ), *_pretrained_above(base, swaps)]
    body = body_of(new, paths)
    if adapt:
        body.update(_schedule_body(base))
    return body


def _schedule_body(base: Dict) -> Dict:
    """What a child states to get :func:`~.schedules.adaptation_schedule`."""
    body = _changed(base, adaptation_schedule(base))
    if base.get('load_from') is None:
        body['load_from'] = None
    return body


def _changed(old: Dict, new: Dict) -> Dict:
    """The part of nested dicts that differs."""
    return {key: _changed(old[key], value) if isinstance(value, dict) and isinstance(
                old.get(key), dict) else value
            for key, value in new.items() if old.get(key) != value}


def _without_scopes(value):
    """mm adds `_scope_` to what comes from ``toolkit::path``; bare names are found in each."""
    if isinstance(value, dict):
        return {k: _without_scopes(v) for k, v in value.items() if k != '_scope_'}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_without_scopes, value))
    return value


def _new_style_text(module: str, base: Dict, swaps: List[Swap], adapt: bool) -> str:
    """The classes are imported, so that no `custom_imports` is needed (mm heeds none there)."""
    names = [*dict.fromkeys(swap.kind.name for swap in swaps), *([ADAPTATION_HOOK] * adapt)]
    lines = ['from mmengine.config import read_base', '', 'with read_base():',
             f'    from {module} import *', '', f'from {PACKAGE} import {", ".join(names)}', '']
    for swap in swaps:
        target = _target(base, swap.keys)
        arguments = ''.join(f', {k}={v!r}' for k, v in swap.arguments.items())
        lines += [f'{target}.clear()'] if swap.whole else []
        lines += [f'{target}.update(dict(type={swap.kind.name}{arguments}))']
    if adapt:
        kept = '*custom_hooks, ' if base.get('custom_hooks') else ''
        lines += [f'{_target(base, keys)} = None' for keys in _pretrained_above(base, swaps)]
        settings = ''.join(f', {k}={v!r}' for k, v in HOOK.items())
        lines += [f'custom_hooks = [{kept}dict(type={ADAPTATION_HOOK}{settings})]']
        for key, value in _schedule_body(base).items():
            lines += _assignments(key, value)
    return '\n'.join(lines) + '\n'


def _target(base: Dict, keys: Keys) -> str:
    """How Python names a place within nested dicts and lists."""
    target, node = keys[0], base[keys[0]]
    for key in keys[1:]:
        target += f'[{key}]' if isinstance(node, (list, tuple)) else f'[{key!r}]'
        node = _child(node, key)
    return target


def _assignments(target: str, value) -> Iterator[str]:
    """Lines that set values within nested dicts."""
    if not isinstance(value, dict):
        yield f'{target} = {value!r}'
        return
    for key, inner in value.items():
        yield from _assignments(f'{target}[{key!r}]', inner)
