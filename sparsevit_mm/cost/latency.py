"""Latency, measured: candidates in turn with the dense model, so that a machine that slows down or
speeds up meanwhile does so for both. Of the backbone here; :mod:`.whole_model` has the rest."""
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
        median: Milliseconds.
        low, high: First and third quartile, in milliseconds.
        ratio: Median over rounds of this latency over the first configuration's.
    """
    median: float
    low: float
    high: float
    ratio: float

    def __str__(self) -> str:
        return f'{self.median:.1f} ms ({self.low:.1f} to {self.high:.1f})'


@dataclass(frozen=True)
class LatencySetting:
    """What latency depends on beside the configuration. Raises ValueError on a bad value.

    Attributes:
        shape: (H, W) of the input, in pixels.
        batch_size: Images.
        dtype: 'fp32', 'fp16' or 'bf16'.
        device: Name of a torch device.
        num_threads: CPU threads; torch's own number if 0.
        execution: 'eager', 'compiled' or 'captured', see :mod:`sparsevit_mm.models.execution`.
        of: What is measured: the 'backbone', or the whole 'model' on images of val, whose size
            `shape` then only states.
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
            raise ValueError(f'dtype {self.dtype!r} is none of {", ".join(DTYPES)}')
        if self.num_threads < 0:
            raise ValueError(f'{self.num_threads} threads: at least one is needed')
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise ValueError(f'device {self.device!r} is none that torch knows') from None
        if device.type == 'cuda' and not torch.cuda.is_available():
            raise ValueError(f'device {self.device}: torch {torch.__version__} sees no CUDA')
        if self.of not in OF:
            raise ValueError(f'latency of {self.of!r} is none of {", ".join(OF)}')
        if self.execution not in EXECUTIONS:
            raise ValueError(f'execution {self.execution!r} is none of {", ".join(EXECUTIONS)}')
        if self.execution == 'captured' and device.type != 'cuda':
            raise ValueError(f'captured execution needs CUDA, the device is {self.device}')
        object.__setattr__(self, 'shape', tuple(self.shape))
        object.__setattr__(self, 'num_threads', self.num_threads or torch.get_num_threads())

    def identity(self) -> Dict:
        """All that two measurements must share to be comparable, as JSON holds it; the device by
        the name of the processor or GPU. CPU threads do not matter on a GPU."""
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
    """Milliseconds, (rounds, configurations), as one Latency for each configuration."""
    low, median, high = np.percentile(times, (25, 50, 75), axis=0)
    ratio = np.median(times / times[:, :1], axis=0)
    return [Latency(*map(float, row)) for row in zip(median, low, high, ratio)]


def device_name(device: str) -> str:
    """The processor or GPU behind a torch device."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.get_device_name(device)
    try:
        with open('/proc/cpuinfo') as file:
            return next(line.split(':', 1)[1].strip() for line in file
                        if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


class Meter:
    """Measures configurations in one setting.

    Args:
        setting: See :class:`LatencySetting`.
        rounds: How often each configuration is run.

    Attributes:
        backbone: The sparse backbone that runs; a copy.

    Raises:
        ValueError: No rounds.
    """
    backbone: SparseBackbone

    def __init__(self, setting: LatencySetting, rounds: int = 15):
        if rounds < 1:
            raise ValueError(f'{rounds} rounds: at least one is needed')
        self.setting, self.rounds = setting, rounds

    def measure(self, configs: Sequence[Sparsity]) -> List[Latency]:
        """Runs the configurations in turn, `rounds` times, after one round of warm-up.

        Returns:
            One Latency for each configuration; ratios are to the first.
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
        """Whether a configuration's first run does more than the others: it is compiled or
        captured then, or a GPU's memory and kernels are prepared for its shapes."""
        return self.setting.execution != 'eager' or torch.device(self.setting.device).type != 'cpu'

    def once(self, config: SparsityConfig) -> float:
        """Milliseconds of one forward pass, without warm-up."""
        with torch_threads(self.setting.num_threads):
            return self._run(config)

    def select(self, selection: Selection) -> None:
        """Sets which windows run."""
        raise NotImplementedError

    def next_round(self) -> None:
        """Called after each round."""

    def _run(self, config: SparsityConfig) -> float:
        """Milliseconds of one forward pass."""
        raise NotImplementedError


class LatencyMeter(Meter):
    """Measures configurations of one backbone in one setting, on noise.

    The backbone is copied, so that the model it belongs to keeps its device, dtype and sparsity.

    Args:
        backbone: The backbone.
        setting: See :class:`LatencySetting`.
        rounds: How often each configuration is run.

    Raises:
        ValueError: No rounds, or a batch that is no multiple of the group size.
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
        """Raises ValueError where the batch is no multiple of the group size."""
        self.backbone.selection = selection.alone()  # noise has no metadata
        self.backbone.selection.group_of(self.setting.batch_size)  # raises

    @torch.inference_mode()
    def _run(self, config: SparsityConfig) -> float:
        self.backbone.sparsity = config
        self._set_widths(config)
        start = timer()  # waits for the device
        self.backbone(self.image)
        return (timer() - start) * 1e3
