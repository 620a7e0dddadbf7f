"""Child configs: small files with changes to a base config, written atomically."""
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
    """Merge nested dicts in place. Values that are not dicts on both sides are replaced."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def writable(cfg: Dict, keys: Sequence[str]) -> Keys:
    """Return the part of a key path that a child config can set.

    A child config cannot change an item of a list, so the path ends at the first list.
    """
    for i, key in enumerate(keys):
        if isinstance(cfg, (list, tuple)):
            return tuple(keys[:i])
        cfg = cfg[key]
    return tuple(keys)


def body_of(cfg: Dict, paths: Iterable[Sequence[str]]) -> Dict:
    """Return the values at some key paths as the body of a child config.

    The body consists of nested dicts, with lists in full.
    """
    body: Dict = {}
    for path in paths:
        keys, value = writable(cfg, path), cfg
        for key in keys:
            value = value[key]
        value = value.to_dict() if hasattr(value, 'to_dict') else value
        merge(body, nested(keys, value))
    return body


def child_text(config: str, body: Dict, out: Path) -> str:
    """Return the text of a child config.

    Args:
        config: Path of the base config, or ``toolkit::path``, which is used as it is.
        body: Changes of the child, as nested dicts.
        out: Path of the child. The base path is relative to its folder, see :func:`~.files.way_to`.
    """
    base = config if '::' in config else way_to(config, out.parent)
    return f'_base_ = [{base!r}]\n' + Config(body).pretty_text


def module_of(base: Path, out: Path) -> str:
    """Return the module name by which a new-style config at `out` imports its base.

    This is ``.name`` in the same folder, ``..folder.name``, or ``package.configs.name`` in an
    installed package.

    Raises:
        ValueError: If a folder or file name is not valid in an import statement.
    """
    # A link to the file itself is not resolved: its bases are looked up beside the link.
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
                     f'its name consists of letters, digits and _')


def _importable(parts) -> bool:
    return bool(parts) and all(p.isidentifier() and not keyword.iskeyword(p) for p in parts)


def write_config(text: str, out: Path,
                 check: Callable[[Config], None] = lambda config: None) -> None:
    """Write a config file atomically, and read it back.

    `check` receives the config that was read, and may raise. On any error, an existing file at
    `out` is kept.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        partial.write_text(text, encoding='utf-8')
        check(load_config(str(partial)))
