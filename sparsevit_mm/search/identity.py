"""What the figures of a search depend on: a study goes on only under the same."""
import hashlib
from typing import Dict

from mmengine.config import Config

# Of the config's top, what evaluation depends on stands by itself in the list of differences.
_NAMED = ('model', 'val_dataloader', 'val_evaluator')
_IRRELEVANT = ('work_dir', 'launcher', 'load_from', 'resume', 'filename', 'train_dataloader',
               'train_cfg', 'optim_wrapper', 'param_scheduler', 'test_dataloader',
               'test_evaluator', 'test_cfg')


def config_identity(cfg: Config) -> Dict[str, str]:
    """Digests of a config's model, val data, val evaluator, and of all else that a search heeds."""
    cfg = cfg.to_dict()
    parts = {name: {name: cfg.pop(name, None)} for name in _NAMED}
    parts['other settings'] = {key: value for key, value in cfg.items() if key not in _IRRELEVANT}
    return {f'config, {name}': _digest(Config(part).pretty_text)
            for name, part in parts.items()}


def file_identity(path: str) -> str:
    """A digest of a file's content, a URL as it is: a search must not go on with other weights."""
    if '://' in path:
        return path
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()[:16]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
