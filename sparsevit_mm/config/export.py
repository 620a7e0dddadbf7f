"""Write the winner of a search as a child of the config that was searched."""
import logging
from pathlib import Path
from typing import Dict, Optional, Sequence

from mmengine.config import Config
from mmengine.logging import print_log

from ..compat import is_lazy_config
from ..files import absolute
from ..operating_point import IMAGE_SCALE, image_scale
from ..sparsity import SparsityConfig
from ..widths import StageWidths, is_width
from .child import body_of, child_text, merge, write_config
from .reading import find_backbone, nested, node_at, without_adaptation
from .resolution import at_scale
from .schedules import finetune_schedule


def check_exportable(config: str, out: Path, overwrite: bool) -> None:
    """Check early whether :func:`export_config` can write its file.

    Raises:
        FileExistsError: If `out` exists and `overwrite` is false.
        ValueError: If the config is a new-style Python config, which cannot be the base of an
            old-style child.
    """
    if out.exists() and not overwrite:
        raise FileExistsError(f'{out} exists already: use --overwrite or another --out')
    if '::' not in config and is_lazy_config(config):
        raise ValueError(f'{config} is a new-style config (read_base): the winner cannot '
                         f'be written as a child of it')


def export_config(cfg: Config, config: str, options: Optional[Dict], sparsity: SparsityConfig,
                  checkpoint: str, out: Path, comments: Sequence[str],
                  scope: Optional[str] = None, importance: Optional[str] = None) -> None:
    """Write a child config with the sparsity, the checkpoint, a schedule for fine-tuning, and the
    custom hooks without the adaptation hook.

    ``tools/train.py`` and ``tools/test.py`` take it as it is.

    Args:
        cfg: Config that was searched, resolved.
        config: Path of that config, or ``toolkit::path``.
        options: The ``--cfg-options`` of the search, which are written too.
        sparsity: Winner of the search. Its knobs and widths are written too, the image scale into
            the pipelines of val and test.
        checkpoint: Checkpoint that was searched, from which fine-tuning starts.
        out: Path of the config to write.
        comments: Lines of provenance for the head of the file.
        scope, importance: Arguments of the backbone's selection; None leaves those of the config.
    """
    body = body_of(cfg, (dotted.split('.') for dotted in options or {}))
    merge(body, settings_of(cfg, sparsity, scope, importance))
    body['load_from'] = checkpoint if '://' in checkpoint else absolute(checkpoint)
    if cfg.get('custom_hooks'):
        body['custom_hooks'] = without_adaptation(cfg.custom_hooks)
    schedule = finetune_schedule(cfg)
    merge(body, schedule)
    if not schedule:
        comments = [*comments, 'no schedule: the config has no training part']
        print_log(f'{out} gets no fine-tuning schedule: {config} has no training part',
                  'current', logging.WARNING)
    header = ''.join(f'# {line}\n' for line in comments)
    keys = find_backbone(cfg)

    def check(child: Config) -> None:
        written = node_at(child, keys)['sparsity']
        if written != sparsity.to_list():
            raise ValueError(f'{out} can\'t be a child of {config}: its sparsity is read back as '
                             f'{written}')

    write_config(header + child_text(config, body, out), out, check)


def settings_of(cfg: Config, point: SparsityConfig, scope: Optional[str] = None,
                importance: Optional[str] = None) -> Dict:
    """Return the config settings that make the model run at a point, as nested dicts.

    See :func:`export_config` for the arguments.
    """
    body: Dict = {}
    for key, value in dict(sparsity=point.to_list(), scope=scope, importance=importance).items():
        if value is not None:
            merge(body, nested((*find_backbone(cfg), key), value))
    if any(is_width(name) for name, _ in point.knobs):
        keys = find_backbone(cfg)
        own = StageWidths.of(node_at(cfg, keys).get('widths'), len(point.depths))
        merge(body, nested((*keys, 'widths'), own.at(point).to_dict()))
    for name, value in point.knobs:
        if name != IMAGE_SCALE and not is_width(name):
            merge(body, nested(name.split('.'), value))
    if image_scale(point) != 1:
        splits = [split for split in ('val', 'test') if cfg.get(f'{split}_dataloader')]
        scaled, _ = at_scale(cfg, image_scale(point), splits)
        merge(body, body_of(scaled, ((f'{split}_dataloader', 'dataset', 'pipeline')
                                     for split in splits)))
    return body
