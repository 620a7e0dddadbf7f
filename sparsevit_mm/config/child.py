"""Child configs: a small file over another config, written whole or not at all."""
import keyword
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Callable, Dict, Iterable, Sequence, Tuple

from mmengine.config import Config

from ..files import replacing, way_to
from .reading import load_config, nested

Keys = Tuple[str, ...]


def merge(into: Dict, other: Dict) -> None:
    """Merges nested dicts in place; what is no dict on both sides is replaced."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def writable(cfg: Dict, keys: Sequence[str]) -> Keys:
    """The keys as far as a child config can follow them. It can't change an item of a list: they
    end at the first one."""
    for i, key in enumerate(keys):
        if isinstance(cfg, (list, tuple)):
            return tuple(keys[:i])
        cfg = cfg[key]
    return tuple(keys)


def body_of(cfg: Dict, paths: Iterable[Sequence[str]]) -> Dict:
    """The values of a config at some paths, as a child config states them: nested dicts, lists
    whole."""
    body: Dict = {}
    for path in paths:
        keys, value = writable(cfg, path), cfg
        for key in keys:
            value = value[key]
        value = value.to_dict() if hasattr(value, 'to_dict') else value
        merge(body, nested(keys, value))
    return body


def child_text(config: str, body: Dict, out: Path) -> str:
    """The text of a child config.

    Args:
        config: Path of the base, or ``toolkit::path``, which stays as it is.
        body: What the child changes, as nested dicts.
        out: Where the child will be: paths of bases are relative to its folder.
    """
    base = config if '::' in config else way_to(config, out.parent)
    return f'_base_ = [{base!r}]\n' + Config(body).pretty_text


def module_of(base: Path, out: Path) -> str:
    """How a new-style config at `out` imports its base: ``.name`` beside it, ``..folder.name``, or
    ``package.configs.name`` of an installed package.

    Raises:
        ValueError: Folders or file have names that no import statement takes.
    """
    # The file itself may be a link: what it is based on is looked for beside the link.
    base, folder = base.parent.resolve() / base.name, out.parent.resolve()
    parts = Path(os.path.relpath(base.with_suffix(''), folder)).parts
    ups = parts.count('..')
    if _importable(parts[ups:]):
        return '.' * (ups + 1) + '.'.join(parts[ups:])
    for parent in base.parents:
        parts = (parent.name, *base.with_suffix('').relative_to(parent).parts)
        if _importable(parts):
            spec = find_spec(parent.name)
            if spec and spec.origin and Path(spec.origin).resolve().parent == parent:
                return '.'.join(parts)
    raise ValueError(f'{base} is a new-style config (read_base), and no import statement in {out} '
                     f'can name it: put the new config beside it (-o), or rename it so that '
                     f'letters, digits and _ make up its name')


def _importable(parts) -> bool:
    return bool(parts) and all(p.isidentifier() and not keyword.iskeyword(p) for p in parts)


def write_config(text: str, out: Path,
                 check: Callable[[Config], None] = lambda config: None) -> None:
    """Writes a config file, and reads it back. `check` gets what was read, and may raise: then, as
    with any error, what was at `out` stays."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        partial.write_text(text, encoding='utf-8')
        check(load_config(str(partial)))
