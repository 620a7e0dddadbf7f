"""Compare exported files with PyTorch, and measure their latency beside it."""
import os
from functools import partial
from typing import Callable, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from ..compat import timer, torch_threads
from ..cost.latency import Latency, LatencySetting, summarise
from ..models import SparseBackbone
from .export import (INPUT, PathLike, batch_group, frozen, need, need_torch, output_names,
                     random_image)

TOLERANCE = 1e-4
# Smaller relative gaps between scores are ties up to rounding in fp32.
ROUNDING = 1e-5


def check_onnx(path: PathLike, backbone: SparseBackbone,
               batch_sizes: Optional[Sequence[int]] = None, seeds: Sequence[int] = range(3),
               tolerance: float = TOLERANCE) -> float:
    """Compare a file of :func:`export_onnx`, run by onnxruntime, with the backbone in PyTorch.

    Args:
        path: Path of the file.
        backbone: Backbone at the sparsity of the file.
        batch_sizes: Batch sizes to compare at. Defaults to the file's own, or to 1, 2 and 3 groups
            if that is dynamic. A group is one image unless images share a budget.
        seeds: Seeds of the random inputs, one input per seed and batch size.
        tolerance: Largest absolute difference allowed.

    Returns:
        float: Largest absolute difference over all inputs and outputs.

    Raises:
        ValueError: If the outputs have other shapes, or a difference exceeds `tolerance`. The
            message then names the output and the input, and says how close the choice of windows
            was.
    """
    session = open_session(path)
    batch, _, *shape = session.get_inputs()[0].shape

    def run(image: Tensor) -> List[Tensor]:
        return [torch.from_numpy(out) for out in session.run(None, {INPUT: image.numpy()})]

    return _worst_difference(run, backbone, shape, _batches(batch, batch_sizes, backbone), seeds,
                             tolerance)


def check_program(path: PathLike, backbone: SparseBackbone,
                  batch_sizes: Optional[Sequence[int]] = None, seeds: Sequence[int] = range(3),
                  tolerance: float = TOLERANCE) -> float:
    """Same as :func:`check_onnx`, for a file of :func:`export_program`.

    If images share a budget, a program with a dynamic batch takes two or more groups.
    """
    need_torch()
    program = torch.export.load(path)
    name, = program.graph_signature.user_inputs
    node = next(n for n in program.graph.nodes if n.name == name)
    batch, _, *shape = node.meta['val'].shape
    group = batch_group(frozen(backbone)) if not isinstance(batch, int) else 1
    if group > 1 and batch_sizes is None:
        batch_sizes = [2 * group, 3 * group]
    return _worst_difference(program.module(), backbone, shape,
                             _batches(batch, batch_sizes, backbone), seeds, tolerance)


def measure_onnx(paths: Sequence[PathLike], backbones: Sequence[SparseBackbone],
                 setting: LatencySetting,
                 rounds: int = 15) -> Tuple[List[Latency], List[Latency]]:
    """Time files in onnxruntime and backbones in PyTorch alternately, after a warm-up round.

    Args:
        paths: Paths of files that take the shape and batch size of `setting`.
        backbones: Backbones to run in PyTorch.
        setting: Latency setting, in fp32 on the CPU.
        rounds: Number of timed runs of each.

    Returns:
        tuple: Latencies of the files and of the backbones, each with ratios to the first of its
        kind.

    Raises:
        ValueError: If `rounds` is less than 1.
    """
    if rounds < 1:
        raise ValueError(f'{rounds} rounds: at least one is needed')
    image = random_image(backbones[0], setting.shape, setting.batch_size)
    sessions = [open_session(path, setting.num_threads) for path in paths]
    runs = [partial(session.run, None, {INPUT: image.numpy()}) for session in sessions]
    runs += [partial(frozen(backbone), image) for backbone in backbones]
    times = np.empty((rounds + 1, len(runs)))
    with torch_threads(setting.num_threads), torch.inference_mode():
        for i, j in np.ndindex(*times.shape):
            start = timer()
            runs[j]()
            times[i, j] = (timer() - start) * 1e3
    return summarise(times[1:, :len(paths)]), summarise(times[1:, len(paths):])


def open_session(path: PathLike, num_threads: int = 1):
    """Create an onnxruntime session on the CPU."""
    onnxruntime, = need('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    # Its threads would keep spinning after a run, while PyTorch is timed.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    return onnxruntime.InferenceSession(os.fspath(path), options, ['CPUExecutionProvider'])


def _worst_difference(run: Callable[[Tensor], Sequence[Tensor]], backbone: SparseBackbone,
                      shape: Sequence[int], batch_sizes: Sequence[int], seeds: Sequence[int],
                      tolerance: float) -> float:
    model, worst = frozen(backbone), 0.
    for batch_size, seed in [(b, s) for b in batch_sizes for s in seeds]:
        image = random_image(model, shape, batch_size, seed)
        with torch.no_grad():
            wanted, found = model(image), run(image)
        if [w.shape for w in wanted] != [f.shape for f in found]:
            raise ValueError(f'the file gives outputs {[tuple(f.shape) for f in found]}, the '
                             f'backbone {[tuple(w.shape) for w in wanted]}')
        for name, w, f in zip(output_names(model), wanted, found):
            difference = (w - f).abs()
            largest = difference.max().item()
            if not largest <= tolerance:  # also rejects NaN
                gap = model.smallest_margin(image)
                raise ValueError(
                    f'output {name} differs from PyTorch by {largest:.3g} (allowed: '
                    f'{tolerance:.3g}) in {(difference > tolerance).float().mean():.2%} of its '
                    f'values, for seed {seed} and batch {batch_size}.{_explain(gap)}')
            worst = max(worst, largest)
    return worst


def _explain(margin: Optional[float]) -> str:
    if margin is None:
        return ''
    return (f' The closest call between what was kept and what was left out is {margin:.1e} of the '
            'score' + (': within rounding, so that the other may have been kept'
                       if margin < ROUNDING else ', so that rounding does not explain it'))


def _batches(own, wanted: Optional[Sequence[int]],
             backbone: SparseBackbone) -> Sequence[int]:
    if isinstance(own, int):
        if wanted is not None and set(wanted) != {own}:
            raise ValueError(f'the file takes batches of {own} only, not {list(wanted)}')
        return [own]
    group = batch_group(frozen(backbone))
    return [group, 2 * group, 3 * group] if wanted is None else wanted
