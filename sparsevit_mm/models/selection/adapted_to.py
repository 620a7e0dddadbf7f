"""Name of the score that the weights of a checkpoint were adapted with, in the state dict."""
import warnings
from contextlib import contextmanager
from typing import Iterator, Optional, Set

import torch
from torch import nn

LENGTH = 16  # bytes of a name


class AdaptedTo(nn.Module):
    """Name of the score with which a backbone was last trained while pruning.

    A model depends on the score it was adapted with. With another one it can be worse than with
    random selection. The state dict contains the name, as bytes, only if there is one. Thus dense
    checkpoints load strictly, and a model that never pruned saves the same as in the toolkits.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer('importance', torch.zeros(LENGTH, dtype=torch.uint8),
                             persistent=False)
        self.name: Optional[str] = None
        self._warned: Set[str] = set()
        self._silent = False

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Context manager that disables the warnings, for comparing scores."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False

    def check(self, importance: str, training: bool) -> None:
        """Warn, once per score, if the weights were adapted with another one. In training, store
        this score as that of the weights."""
        if importance == self.name:
            return
        if self.name is not None and importance not in self._warned and not self._silent:
            self._warned.add(importance)
            doing = 'trained' if training else 'run'
            warnings.warn(f'the checkpoint was adapted under importance={self.name!r} and is '
                          f'{doing} under {importance!r}: a model depends on the score it was '
                          f'adapted with, and can be worse than with random pruning')
        if training:
            self._set(importance)

    def _set(self, name: Optional[str]) -> None:
        self.name = name
        data = list((name or '').encode()[:LENGTH].ljust(LENGTH, b'\0'))
        self.importance.copy_(torch.tensor(data, dtype=torch.uint8))

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        if self.importance.any():
            destination[f'{prefix}importance'] = self.importance.detach().clone()

    def _load_from_state_dict(self, state_dict, prefix, *_):
        held = state_dict.get(f'{prefix}importance')
        self._set(None if held is None else bytes(held.tolist()).rstrip(b'\0').decode())
        self._warned.clear()
