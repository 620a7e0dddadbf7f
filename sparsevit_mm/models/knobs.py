"""Set values of the test config of a built model wherever its modules read them."""
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Sequence, Set, Tuple

from mmengine.config import ConfigDict
from torch import nn

from ..operating_point import IMAGE_SCALE, PREFIX, Value
from ..sparsity import SparsityConfig
from ..widths import is_width
from .checkpoints import unwrapped
from .interface import SparseBackbone


class WidthSetter:
    """Sets the widths of a sparse backbone to those of a point.

    Widths that a point does not name are reset to their values when the setter was created.
    """

    def __init__(self, backbone: SparseBackbone):
        self.backbone, self.own = backbone, backbone.widths

    def __call__(self, point: SparsityConfig) -> None:
        widths = self.own.at(point)
        if widths != self.backbone.widths:
            self.backbone.widths = widths


class KnobSetter:
    """Sets knobs of one model.

    The toolkits copy parts of ``model.test_cfg`` to the heads that read them. A value is therefore
    set in every dict of the model's test configs that equals the named part when the setter is
    created.

    Args:
        model: A model with a ``test_cfg``, wrapped or not.
        names: Names of the knobs, see :class:`~sparsevit_mm.operating_point.Knob`. The image scale
            is ignored, since it belongs to the data pipeline. Widths, which need not be named, are
            set on the sparse backbone.

    Raises:
        ValueError: If the model has no such value. The message lists the existing ones.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]):
        self.model = model = unwrapped(model)
        self._places: Dict[str, Tuple[List[Dict], str]] = {}
        self._own: Dict[str, Value] = {}
        self._set_widths = [WidthSetter(module) for module in model.modules()
                            if isinstance(module, SparseBackbone)]
        for name in names:
            if name == IMAGE_SCALE or is_width(name):
                continue
            part, key = self._find(name)
            self._places[name] = _alike(model, part), key
            self._own[name] = part[key]

    @property
    def names(self) -> List[str]:
        return list(self._places)

    def __call__(self, point: SparsityConfig) -> None:
        """Set the knobs of a point. Knobs that it does not name are reset to the model's values."""
        for name, value in {**self._own, **dict(point.knobs)}.items():
            if name == IMAGE_SCALE or is_width(name):
                continue
            if name not in self._places:
                raise ValueError(f'{name} is not one of the requested knobs')
            parts, key = self._places[name]
            for part in parts:
                part[key] = value
        for set_widths in self._set_widths:
            set_widths(point)

    def _find(self, name: str) -> Tuple[Dict, str]:
        part = getattr(self.model, 'test_cfg', None)
        *path, key = name[len(PREFIX):].split('.')
        for i, step in enumerate([*path, key]):
            if not isinstance(part, dict) or step not in part:
                there = sorted(part) if isinstance(part, dict) else 'none'
                where = PREFIX[:-1] + ''.join(f'.{s}' for s in path[:i])
                raise ValueError(f'knob {name}: {where} of {type(self.model).__name__} has no '
                                 f'{step!r}; available: {there}')
            part, holder = part[step], part
        return holder, key

    @contextmanager
    def watching(self) -> Iterator[Set[str]]:
        """Context manager that collects the names of the knobs that the model reads."""
        read: Set[str] = set()
        watched = {name: (dict(parts[0]), key) for name, (parts, key) in self._places.items()}

        class Watched(ConfigDict):
            """Config that records which keys are read, also from the copies that heads make."""

            def __getitem__(self, key):
                self._note(key)
                return super().__getitem__(key)

            def get(self, key, default=None):
                self._note(key)
                return super().get(key, default)

            def _note(self, key):
                for name, (part, own) in watched.items():
                    if key == own and set(part) == set(self):
                        read.add(name)

        holders = list(_holders(self.model))
        try:
            for module, own in holders:
                module.test_cfg = Watched(own)
            yield read
        finally:
            for module, own in holders:
                module.test_cfg = own


def _holders(model: nn.Module) -> Iterator[Tuple[nn.Module, Dict]]:
    """Yield the modules with a test config, and the config."""
    for module in model.modules():
        own = getattr(module, 'test_cfg', None)
        if isinstance(own, dict):
            yield module, own


def _alike(model: nn.Module, part: Dict) -> List[Dict]:
    """Return the dicts in the model's test configs that equal `part`."""
    found: Dict[int, Dict] = {id(part): part}
    for _, own in _holders(model):
        for one in _dicts(own):
            if one == part:
                found[id(one)] = one
    return list(found.values())


def _dicts(value: Any) -> Iterator[Dict]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _dicts(inner)
