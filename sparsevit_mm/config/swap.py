"""Replace the Swin or ViT backbone of any mm config by a sparse one, in a small child config."""
from copy import deepcopy
from pathlib import Path
from typing import Dict, Iterator, List

from mmengine.config import Config
from mmengine.config.utils import ConfigParsingError

from ..compat import base_files, is_lazy_config
from ..models import backbone_names
from ..sparsity import Sparsity
from .child import Keys, body_of, child_text, module_of, writable, write_config
from .reading import ADAPTATION_HOOK, is_type, load_config, node_at, pretrained_above
from .schedules import adaptation_schedule
from .swappable import Swap, find_backbones, find_swaps

PACKAGE = 'sparsevit_mm'
HOOK = dict(distillation=1.)
CHECKED = ('model', 'custom_hooks', 'custom_imports')


def swap_backbone(config: str, out: Path, sparsity: Sparsity = None, adapt: bool = False,
                  overwrite: bool = False) -> List[Swap]:
    """Write a child of a config in which the dense backbones of the model are sparse.

    At any depth of the model, each ``SwinTransformer`` becomes a :class:`.SparseSwinTransformer`
    and each ``VisionTransformer`` of mmseg an :class:`.EvoVisionTransformer` with the same
    arguments. The arguments of mmpretrain's backbones, among them ``LeViT``, are converted, see
    :mod:`.arguments` and :mod:`.classifiers`. All else stays. The child of a new-style config
    (``read_base``) is new-style too.

    Args:
        config: Path of the config, or ``toolkit::path``.
        out: Path of the config to write.
        sparsity: Sparsity of the backbones, in any form that SparsityConfig takes. None leaves
            them dense.
        adapt: Whether to set up adaptation: append the SparsityAdaptationHook with a dense teacher
            to the custom hooks, give skipped windows of Swin an update that is trained, and train
            for a third of the config's schedule at a tenth of its learning rate, see
            :func:`~.schedules.adaptation_schedule`. It starts from ``load_from``, the checkpoint
            of the dense model, not from ImageNet weights.
        overwrite: Whether `out` may exist already.

    Raises:
        FileNotFoundError: If the config does not exist.
        FileExistsError: If `out` exists and `overwrite` is false.
        ValueError: If the model has no backbone with a sparse counterpart, or a sparse one
            already; if arguments have no counterpart, or do not fit each other or `sparsity`; if
            there are several backbones and `adapt`; if no import statement in `out` can name a
            new-style config; or if `out` is the config or one of its bases. Nothing is written
            then.
    """
    if out.suffix != '.py':
        raise ValueError(f'{out}: the name of the new config must end in .py')
    if '::' not in config and out.resolve() == Path(config).resolve():
        raise ValueError(f'{out} is the config itself: give another name for the new one')
    if out.exists() and not overwrite:
        raise FileExistsError(f'{out} exists already: use --overwrite or another -o')
    cfg = _load(config)
    new_style = is_lazy_config(cfg.filename)
    if out.exists() and not new_style and out.resolve() in map(Path.resolve, _files(cfg.filename)):
        raise ValueError(f'{out} is a base of {config}: give another name for the new config')

    base = cfg.to_dict()  # a Config would import the classes that lazy types name
    swaps = find_swaps(base, config, sparsity)
    if adapt and len(swaps) > 1:
        raise ValueError(f'{ADAPTATION_HOOK} adapts exactly one backbone; {config} has '
                         f'{len(swaps)}: {", ".join(swap.dotted for swap in swaps)}')
    hooks = base.get('custom_hooks') or []
    adapt = adapt and not any(is_type(hook, ADAPTATION_HOOK) for hook in hooks)
    if adapt:
        swaps = [swap._replace(arguments={**swap.arguments, **swap.kind.to_adapt,
                                          **_no_pretraining(base, swap.keys)})
                 for swap in swaps]
    if adapt and ({'semi_train_cfg', 'semi_test_cfg'} & set(base.get('model') or {})):
        raise ValueError(f'{ADAPTATION_HOOK} adapts exactly one backbone; the semi-supervised '
                         f'model of {config} has two, of student and teacher: adapt its detector')
    expected = _swapped(base, swaps, adapt, new_style)
    if new_style:
        text = _new_style_text(module_of(Path(cfg.filename), out), base, swaps, adapt)
    else:
        text = child_text(config, _body(base, expected, swaps, adapt), out)

    def check(child: Config) -> None:
        child = child.to_dict()
        for key in CHECKED:
            if _without_scopes(child.get(key)) != _without_scopes(expected.get(key)):
                raise ValueError(f'{config} cannot be changed by a child config: its {key} is '
                                 f'read back differently')

    try:
        write_config(text, out, check)
    except NameError as error:  # in a list written in full: float('inf') becomes inf
        raise ValueError(f'{config} has values that a child config cannot state: {error}') from None
    return swaps


def ensure_sparse(config: str, folder: Path) -> str:
    """Return a config with a sparse backbone for any config that :func:`swap_backbone` takes.

    This is `config` itself if it has a sparse backbone, else a child of it that is written to
    NAME_sparse.py in `folder`, where it replaces an older one.

    Raises:
        FileNotFoundError, ValueError: See :func:`swap_backbone`.
    """
    if find_backbones(_load(config).to_dict(), backbone_names()):
        return config
    out = folder / f'{Path(config.replace("::", "/")).stem}_sparse.py'
    swap_backbone(config, out, overwrite=True)
    return str(out)


def _load(config: str) -> Config:
    try:
        return load_config(config)
    except (ImportError, SyntaxError, ConfigParsingError) as error:
        raise ValueError(f'{config} cannot be read: {error.__cause__ or error}') from error


def _files(path: str) -> Iterator[Path]:
    """Yield a config file and all its bases."""
    yield Path(path)
    for base in base_files(path):
        yield from _files(base)


def _no_pretraining(base: Dict, keys: Keys) -> Dict:
    """Return arguments that disable the pretrained weights a backbone is set to load."""
    node = node_at(base, keys)
    return {name: None for name in ('init_cfg', 'pretrained') if node.get(name) is not None}


def _swapped(base: Dict, swaps: List[Swap], adapt: bool, new_style: bool) -> Dict:
    """Return the whole config that the child must amount to."""
    prefix = f'{PACKAGE}.' if new_style else ''  # a class there, named in full by to_dict
    new = deepcopy(base)
    for swap in swaps:
        node = node_at(new, swap.keys)
        if swap.whole:
            node.clear()
        node.update(swap.arguments, type=prefix + swap.kind.name)
    if adapt:
        for place in pretrained_above(base, swaps[0].keys):
            node_at(new, place[:-1])['pretrained'] = None
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
    """Return the difference of two configs in the form that mm merges into the base."""
    new, paths = deepcopy(expected), [('custom_imports', 'imports')]
    if 'custom_imports' in base and base['custom_imports'] is None:
        new['custom_imports']['_delete_'] = True
        paths = [('custom_imports', )]
    for swap in swaps:
        if not swap.whole:
            paths += [(*swap.keys, name) for name in ('type', *swap.arguments)]
            continue
        if writable(new, swap.keys) == swap.keys:  # a list is replaced in full anyway
            node_at(new, swap.keys)['_delete_'] = True
        paths.append(swap.keys)
    if adapt:
        paths += [('custom_hooks', ), *pretrained_above(base, swaps[0].keys)]
    body = body_of(new, paths)
    if adapt:
        body.update(_schedule_body(base))
    return body


def _schedule_body(base: Dict) -> Dict:
    """Return what a child states to get :func:`~.schedules.adaptation_schedule`."""
    body = _changed(base, adaptation_schedule(base))
    if base.get('load_from') is None:
        body['load_from'] = None
    return body


def _changed(old: Dict, new: Dict) -> Dict:
    """Return the part of the nested dicts `new` that differs from `old`."""
    return {key: _changed(old[key], value) if isinstance(value, dict) and isinstance(
                old.get(key), dict) else value
            for key, value in new.items() if old.get(key) != value}


def _without_scopes(value):
    """Remove ``_scope_``, which mm adds to configs from ``toolkit::path``.

    Names without a scope are found either way.
    """
    if isinstance(value, dict):
        return {k: _without_scopes(v) for k, v in value.items() if k != '_scope_'}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_without_scopes, value))
    return value


def _new_style_text(module: str, base: Dict, swaps: List[Swap], adapt: bool) -> str:
    """Return the text of a new-style child.

    It imports the classes, so it needs no `custom_imports`, which mm ignores in new-style configs.
    """
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
        lines += [f'{_target(base, keys)} = None'
                  for keys in pretrained_above(base, swaps[0].keys)]
        settings = ''.join(f', {k}={v!r}' for k, v in HOOK.items())
        lines += [f'custom_hooks = [{kept}dict(type={ADAPTATION_HOOK}{settings})]']
        for key, value in _schedule_body(base).items():
            lines += _assignments(key, value)
    return '\n'.join(lines) + '\n'


def _target(base: Dict, keys: Keys) -> str:
    """Return the Python expression for a place within nested dicts and lists."""
    target, node = keys[0], base[keys[0]]
    for key in keys[1:]:
        target += f'[{key}]' if isinstance(node, (list, tuple)) else f'[{key!r}]'
        node = node_at(node, [key])
    return target


def _assignments(target: str, value) -> Iterator[str]:
    """Yield lines that set values within nested dicts."""
    if not isinstance(value, dict):
        yield f'{target} = {value!r}'
        return
    for key, inner in value.items():
        yield from _assignments(f'{target}[{key!r}]', inner)
