"""Identity of a study: everything its results depend on. A study continues only if it matches."""
import difflib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, List

from mmengine.config import Config

PARTS = 'model', 'val_dataloader', 'val_evaluator'
REST = 'val_cfg', 'custom_hooks', 'default_scope', 'randomness'
# Initial weights, training settings, data location and loading speed do not affect the metrics.
_IRRELEVANT = {'init_cfg', 'pretrained', 'train_cfg', 'num_workers', 'persistent_workers',
               'pin_memory', 'prefetch_factor', 'data_root', 'backend_args', 'outfile_prefix'}
_FILES = {'ann_file', 'seg_map_path'}


def config_identity(cfg: Config) -> Dict[str, str]:
    """Return the parts of a config that affect the metrics, each as JSON text.

    These are the model, the val data, the val evaluator and the other settings. The location of
    the data does not matter: annotation files count by file name and content.
    """
    cfg = cfg.to_dict()
    parts: Dict[str, Any] = {name: cfg.get(name) for name in PARTS}
    parts['other settings'] = {name: cfg.get(name) for name in REST}
    dataset = (cfg.get('val_dataloader') or {}).get('dataset') or {}
    root = _root(dataset)
    return {f'config, {name}': json.dumps(_decisive(part, root), indent=1, sort_keys=True,
                                          default=_name)
            for name, part in parts.items()}


def file_identity(path: str) -> str:
    """Return a digest of a file's content, or a URL unchanged.

    It keeps a study from continuing with other weights or another latency table.
    """
    if '://' in path:
        return path
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()[:16]


def differences(stored: Dict, now: Dict) -> List[str]:
    """Return lines that describe how two identities differ, for multi-line values as a diff."""
    lines: List[str] = []
    for key in {**stored, **now}:
        one, other = stored.get(key), now.get(key)
        if one == other:
            continue
        if isinstance(one, str) and isinstance(other, str) and '\n' in one + other:
            changed = [line for line in difflib.ndiff(one.splitlines(), other.splitlines())
                       if line[0] in '+-']
            lines.append(f'{key} (- in the study, + now):')
            lines += [f'  {line[0]} {line[1:].strip()}' for line in changed]
        else:
            lines.append(f'{key}: {one} in the study, {other} now')
    return lines


def _root(dataset: Dict) -> str:
    """Return the ``data_root`` of a data set inside its wrappers, or ''."""
    while not dataset.get('data_root') and isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    return dataset.get('data_root') or ''


def _decisive(value: Any, root: str, key: str = '') -> Any:
    if isinstance(value, dict):
        return {k: _decisive(v, root, k) for k, v in value.items() if k not in _IRRELEVANT}
    if isinstance(value, (list, tuple)):
        return [_decisive(v, root, key) for v in value]
    if not isinstance(value, str):
        return value
    if root and value.startswith(root):
        value = value[len(root):].lstrip('/')
    if key in _FILES:
        file = Path(value) if os.path.isabs(value) else Path(root) / value
        if file.is_file():
            return f'{file.name}, {file_identity(str(file))}'
    return os.path.basename(value) if os.path.isabs(value) else value


def _name(value: Any) -> str:
    """Return the name of a class or function, without its memory address."""
    return getattr(value, '__qualname__', None) or str(value)
