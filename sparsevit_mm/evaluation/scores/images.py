"""Random subset of the images of a split, in the order of their indices."""
from copy import deepcopy
from typing import Iterator, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.runner import Runner
from torch.utils.data import Dataset, Sampler

from ..subset import choose

HELD_OUT = 5  # every fifth image


class Images:
    """Random subset of the images of a split, loaded as in the config except for sampling.

    Args:
        cfg: The config.
        split: 'train' or 'val'.
        number: Number of images to draw; all if there are fewer.
        seed: Seed of the draw and of the loader's workers.

    Attributes:
        loader: The data loader.
        chosen: Indices of the images, ascending.
    """

    def __init__(self, cfg: Config, split: str, number: int, seed: int):
        settings = deepcopy(cfg[f'{split}_dataloader'])
        settings.pop('num_batch_per_epoch', None)
        settings['sampler'], settings['persistent_workers'] = dict(type=_Sampler), False
        for part in (settings, settings.get('batch_sampler') or {}):
            if 'drop_last' in part:
                part['drop_last'] = False
        self.loader = Runner.build_dataloader(settings, seed=seed)
        self.chosen = choose(len(self.loader.dataset), number, seed)

    def all(self) -> '_Part':
        """Return batches of all chosen images."""
        return _Part(self.loader, self.chosen)

    def parts(self) -> Tuple['_Part', '_Part']:
        """Return batches for fitting, and batches of the held-out images, which are every fifth."""
        held_out = self.chosen[HELD_OUT - 1::HELD_OUT]
        rest = sorted(set(self.chosen) - set(held_out))
        return _Part(self.loader, rest), _Part(self.loader, held_out)


class _Sampler(Sampler):
    """Sampler of the indices that were last assigned to it."""

    def __init__(self, dataset: Dataset, seed: Optional[int] = None):
        self.dataset = dataset
        self.indices: Sequence[int] = ()

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class _Part:
    """Iterable over batches of some images. Parts share the loader, so only one may be iterated at
    a time."""

    def __init__(self, loader, indices: Sequence[int]):
        self.loader, self.indices = loader, indices

    def __len__(self) -> int:
        self._tell()
        return len(self.loader)

    def __iter__(self) -> Iterator:
        self._tell()
        return iter(self.loader)

    def _tell(self) -> None:
        sampler = self.loader.batch_sampler.sampler
        sampler.indices = self.indices
