"""Read mm configs, and find their sparse backbone."""
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config

from ..files import absolute
from ..models import backbone_names

ADAPTATION_HOOK = 'SparsityAdaptationHook'


def load_config(path: str, options: Optional[Dict] = None) -> Config:
    """Load a config file, or one that a toolkit ships (``mmdet::mask_rcnn/...``).

    The dotted `options` of ``--cfg-options`` are merged into it.

    Raises:
        FileNotFoundError: If the file does not exist.
    """
    if '::' in path:
        cfg = get_config(path)
    elif Path(path).is_file():
        cfg = Config.fromfile(absolute(path))
    else:
        raise FileNotFoundError(f'config {path} does not exist')
    if options:
        cfg.merge_from_dict(options)
    return cfg


def open_config(path: str, options: Optional[Dict] = None, work_dir: Optional[str] = None,
                launcher: Optional[str] = None) -> Config:
    """Load a config with :func:`load_config`, and set its work directory and job launcher.

    The default work directory is the config's own, else work_dirs/NAME_OF_CONFIG.
    """
    cfg = load_config(path, options)
    if launcher is not None:
        cfg.launcher = launcher
    name = Path(path.replace('::', '/')).stem
    cfg.work_dir = str(work_dir or cfg.get('work_dir') or f'work_dirs/{name}')
    return cfg


def is_type(cfg: Dict, name: str) -> bool:
    """Whether a config dict builds the class `name`, whatever its scope prefix."""
    kind = cfg.get('type')
    kind = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    return kind.rsplit('.', 1)[-1] == name


def find_type(cfg: Dict, name: str) -> List[Tuple[str, ...]]:
    """Return the key path, from the config's top, of each dict in its model of class `name`."""
    return [keys for keys, value in walk(cfg.get('model', {}), ('model', ))
            if is_type(value, name)]


def find_backbone(cfg: Config) -> Tuple[str, ...]:
    """Return the key path of the sparse backbone, such as ``('model', 'backbone')``.

    Raises:
        ValueError: If there is not exactly one. The message lists the config's backbones.
    """
    found = [keys for name in backbone_names() for keys in find_type(cfg, name)]
    if len(found) != 1:
        raise ValueError(f'the config has {len(found)} sparse backbones '
                         f'({", ".join(backbone_names())}), not one; its backbones: '
                         f'{list_backbones(cfg)}')
    return found[0]


def list_backbones(cfg: Dict) -> str:
    """Return the backbones as text for messages: ``model.backbone (ResNet)``."""
    backbones = [f'{".".join(keys)} ({value.get("type")})'
                 for keys, value in walk(cfg.get('model', {}), ('model', ))
                 if keys[-1].endswith('backbone')]
    return ', '.join(backbones) or 'none'


def node_at(cfg, keys: Sequence[str]):
    """Return the value at a key path in nested dicts and lists. Indices of lists may be text."""
    for key in keys:
        cfg = cfg[int(key)] if isinstance(cfg, (list, tuple)) else cfg[key]
    return cfg


def pretrained_above(cfg: Dict, keys: Sequence[str]) -> List[Tuple[str, ...]]:
    """Return the key paths of weights that the models around a backbone load, such as mmseg's
    ``model.pretrained``.
    """
    places = (tuple(keys[:end]) for end in range(len(keys)))
    return [(*place, 'pretrained') for place in places
            if isinstance(node_at(cfg, place), dict)
            and node_at(cfg, place).get('pretrained') is not None]


def nested(keys: Sequence[str], value) -> Dict:
    """Return nested dicts: ``nested(('a', 'b'), 1)`` is ``{'a': {'b': 1}}``."""
    for key in reversed(keys):
        value = {key: value}
    return value


def set_sparsity(cfg: Config, sparsity) -> None:
    """Set the sparsity of the backbone in the config.

    Raises:
        ValueError: See :func:`find_backbone`.
    """
    cfg.merge_from_dict({'.'.join(find_backbone(cfg)): dict(sparsity=sparsity)})


def without_adaptation(custom_hooks: Optional[List[Dict]]) -> List[Dict]:
    """Return the custom hooks of a config without the adaptation hook."""
    return [hook for hook in custom_hooks or [] if not is_type(hook, ADAPTATION_HOOK)]


def walk(value, keys: Tuple[str, ...]) -> Iterator[Tuple[Tuple[str, ...], ConfigDict]]:
    """Yield every dict in nested dicts and lists, with its key path."""
    if isinstance(value, dict):
        if keys:
            yield keys, value
        for key, child in value.items():
            yield from walk(child, (*keys, str(key)))
    elif isinstance(value, (list, tuple)):
        for i, child in enumerate(value):
            yield from walk(child, (*keys, str(i)))
