"""Measure the latency of a backbone; :mod:`.whole_model` does so for the whole model.

Configurations run in turn, so that a machine that slows down or speeds up does so for all of them.
"""
import platform
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Dict, List, Sequence

import numpy as np
import torch

from ..compat import timer, torch_threads
from ..models import SparseBackbone
from ..models.execution import EXECUTIONS
from ..models.knobs import WidthSetter
from ..models.selection.ranking import Selection
from ..operating_point import point_of
from ..sparsity import Sparsity, SparsityConfig

OF = 'backbone', 'model'
DTYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}


@dataclass(frozen=True)
class Latency:
    """Latency of one configuration over repeated rounds.

    Attributes:
        median: Median in milliseconds.
        low, high: First and third quartile in milliseconds.
        ratio: Median over rounds of the ratio to the latency of the first configuration.
    """
    median: float
    low: float
    high: float
    ratio: float

    def __str__(self) -> str:
        return f'{self.median:.1f} ms ({self.low:.1f} to {self.high:.1f})'


@dataclass(frozen=True)
class LatencySetting:
    """Conditions of a latency measurement, apart from the configuration.

    Attributes:
        shape: (H, W) of the input, in pixels.
        batch_size: Images per batch.
        dtype: 'fp32', 'fp16' or 'bf16'.
        device: Name of a torch device.
        num_threads: CPU threads; 0 stands for torch's current number.
        execution: 'eager', 'compiled' or 'captured', see :mod:`sparsevit_mm.models.execution`.
        of: What is measured, the 'backbone' or the whole 'model'. The latter runs on images of the
            val split, and `shape` only states their size.

    Raises:
        ValueError: If a value is invalid, or not supported on the device.
    """
    shape: Sequence[int]
    batch_size: int = 1
    dtype: str = 'fp32'
    device: str = 'cpu'
    num_threads: int = 0
    execution: str = 'eager'
    of: str = 'backbone'

    def __post_init__(self):
        if len(self.shape) != 2 or min(self.shape) < 1:
            raise ValueError(f'shape {tuple(self.shape)} is not two positive numbers of pixels')
        if self.batch_size < 1:
            raise ValueError(f'batch size {self.batch_size} is not positive')
        if self.dtype not in DTYPES:
            raise ValueError(f'dtype {self.dtype!r} is not one of {", ".join(DTYPES)}')
        if self.num_threads < 0:
            raise ValueError(f"{self.num_threads} threads: give at least 1, or 0 for torch's own "
                             f'number')
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise ValueError(f'device {self.device!r} is unknown to torch') from None
        if device.type == 'cuda' and not torch.cuda.is_available():
            raise ValueError(f'device {self.device}: torch {torch.__version__} finds no CUDA')
        if self.of not in OF:
            raise ValueError(f'cannot measure the latency of {self.of!r}, only of {", ".join(OF)}')
        if self.execution not in EXECUTIONS:
            raise ValueError(f'execution {self.execution!r} is not one of {", ".join(EXECUTIONS)}')
        if self.execution == 'captured' and device.type != 'cuda':
            raise ValueError(f'captured execution needs CUDA, but the device is {self.device}')
        object.__setattr__(self, 'shape', tuple(self.shape))
        object.__setattr__(self, 'num_threads', self.num_threads or torch.get_num_threads())

    def identity(self) -> Dict:
        """Return all that two measurements must share to be comparable, as JSON types. The device
        is the name of the processor or GPU; `num_threads` is None except on the CPU."""
        return {**asdict(self), 'shape': list(self.shape), 'device': device_name(self.device),
                'num_threads': self.num_threads if self._on_cpu else None,
                'torch': torch.__version__}

    @property
    def _on_cpu(self) -> bool:
        return torch.device(self.device).type == 'cpu'

    def __str__(self) -> str:
        height, width = self.shape
        return (f'{self.of}, batch {self.batch_size} of {height}x{width}, {self.dtype}, '
                f'{device_name(self.device)}, '
                + f'{self.num_threads} threads, ' * self._on_cpu +
                f'{self.execution}, torch {torch.__version__}')


def summarise(times: np.ndarray) -> List[Latency]:
    """Summarize (rounds, configurations) milliseconds as one Latency per configuration."""
    low, median, high = np.percentile(times, (25, 50, 75), axis=0)
    ratio = np.median(times / times[:, :1], axis=0)
    return [Latency(*map(float, row)) for row in zip(median, low, high, ratio)]


def device_name(device: str) -> str:
    """Return the name of the processor or GPU of a torch device."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.get_device_name(device)
    try:
        with open('/proc/cpuinfo') as file:
            return next(line.split(':', 1)[1].strip() for line in file
                        if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


class Meter:
    """Base class that measures the latency of configurations in one setting.

    Args:
        setting: See :class:`LatencySetting`.
        rounds: Number of timed runs of each configuration.

    Attributes:
        backbone: Copy of the sparse backbone, which is run.

    Raises:
        ValueError: If `rounds` is below 1.
    """
    backbone: SparseBackbone

    def __init__(self, setting: LatencySetting, rounds: int = 15):
        if rounds < 1:
            raise ValueError(f'{rounds} rounds: at least one is needed')
        self.setting, self.rounds = setting, rounds

    def measure(self, configs: Sequence[Sparsity]) -> List[Latency]:
        """Run the configurations in turn, `rounds` times, after one warm-up round.

        Returns:
            One Latency per configuration; ratios are relative to the first.
        """
        configs = [point_of(self.backbone.space, c) for c in configs]
        times = []
        with torch_threads(self.setting.num_threads):
            for _ in range(self.rounds + 1):
                times.append([self._run(c) for c in configs])
                self.next_round()
        return summarise(np.array(times[1:]))

    @property
    def first_is_slow(self) -> bool:
        """Whether the first run of a configuration is slower: it compiles or captures, or prepares
        the GPU's memory and kernels for its shapes."""
        return self.setting.execution != 'eager' or torch.device(self.setting.device).type != 'cpu'

    def once(self, config: SparsityConfig) -> float:
        """Return the milliseconds of one forward pass, without warm-up."""
        with torch_threads(self.setting.num_threads):
            return self._run(config)

    def select(self, selection: Selection) -> None:
        """Set how the backbone selects windows."""
        raise NotImplementedError

    def next_round(self) -> None:
        """Called after each round; does nothing by default."""

    def _run(self, config: SparsityConfig) -> float:
        """Return the milliseconds of one forward pass."""
        raise NotImplementedError


class LatencyMeter(Meter):
    """Measures the latency of configurations of a backbone in one setting, on a noise image.

    The backbone is copied, so that its model keeps its device, dtype and sparsity.

    Args:
        backbone: Sparse backbone.
        setting: See :class:`LatencySetting`.
        rounds: Number of timed runs of each configuration.

    Raises:
        ValueError: If `rounds` is below 1, or the batch size is not a multiple of the group size.
    """

    def __init__(self, backbone: SparseBackbone, setting: LatencySetting, rounds: int = 15):
        super().__init__(setting, rounds)
        dtype = DTYPES[setting.dtype]
        self.backbone = deepcopy(backbone).to(setting.device, dtype).eval()
        self.backbone.execution = setting.execution
        self._set_widths = WidthSetter(self.backbone)
        self.select(backbone.selection)
        self.image = torch.randn(
            setting.batch_size,
            backbone.in_channels,
            *setting.shape,
            generator=torch.Generator().manual_seed(0)).to(setting.device, dtype)

    def select(self, selection: Selection) -> None:
        """Set how the backbone selects windows.

        Raises:
            ValueError: If the batch size is not a multiple of the group size.
        """
        self.backbone.selection = selection.alone()  # noise has no metadata
        self.backbone.selection.group_of(self.setting.batch_size)  # raises

    @torch.inference_mode()
    def _run(self, config: SparsityConfig) -> float:
        self.backbone.sparsity = config
        self._set_widths(config)
        start = timer()  # waits for the device
        self.backbone(self.image)
        return (timer() - start) * 1e3
