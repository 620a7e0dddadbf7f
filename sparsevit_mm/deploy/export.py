"""Export the backbone as an ONNX file or a torch.export program.

Height and width are fixed, since the tables of windows are constants of the graph. The batch size
may be dynamic. The graph itself selects the windows to run, for each image.
"""
import importlib
import logging
import os
import warnings
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Iterator, List, Sequence, Union

import torch
from mmengine.utils import digit_version
from torch import Tensor

from ..files import replacing
from ..models import SparseBackbone
from ..models.selection.ranking import BATCH

PathLike = Union[str, os.PathLike]
INPUT = 'image'
MIN_TORCH = '2.6'
MIN_OPSET = 18  # minimum of torch's exporter
MAX_BYTES = 2**31 - 2**20  # protobuf's file size limit, less some room for the graph


def export_onnx(backbone: SparseBackbone, path: PathLike, shape: Sequence[int],
                batch_size: int = 1, dynamic_batch: bool = False,
                opset: int = MIN_OPSET) -> None:
    """Export the backbone, at its current sparsity, in fp32 and eval mode, to one ONNX file.

    The file has one input `image` of shape (B, in_channels, H, W), and an output ``stage{i}`` for
    each i in `out_indices`. On failure, an existing file at `path` is kept.

    Args:
        backbone: Backbone to export; not modified.
        path: Path FILE.onnx in an existing folder.
        shape: (H, W), in pixels.
        batch_size: Batch size B. Has no effect if `dynamic_batch`.
        dynamic_batch: Whether the file takes any batch size; where images share a budget, any
            multiple of their group size.
        opset: Version of the ONNX operator set, at least 18.

    Raises:
        ValueError: If an argument is invalid, windows are selected at random, a package is
            missing, torch is older than 2.6, or the weights exceed the limit of one file.
        FileNotFoundError: If the folder does not exist.
    """
    onnx, _ = need('onnx', 'onnxscript')
    if not MIN_OPSET <= opset <= onnx.defs.onnx_opset_version():
        raise ValueError(f'opset {opset} is not in the range {MIN_OPSET} to '
                         f'{onnx.defs.onnx_opset_version()}')
    size = sum(t.numel() * 4 for t in backbone.state_dict().values())
    if size > MAX_BYTES:
        raise ValueError(f'{size / 2**30:.2f} GiB of weights exceed the 2 GiB of an ONNX file')
    with _replacing(path, '.onnx') as temporary, _quiet():
        program = torch.onnx.export(
            _fix_layouts(_trace(backbone, shape, batch_size, dynamic_batch)),
            dynamo=True,
            opset_version=opset,
            # Only names the axis; a multiple of a group gets another name.
            dynamic_shapes=({0: 'batch'}, ) if dynamic_batch and batch_group(
                frozen(backbone)) == 1 else None,
            input_names=[INPUT],
            output_names=output_names(backbone),
            custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
            verbose=False)
        for node in program.model.graph:
            node.metadata_props.clear()  # stack traces contain local paths
        program.model.metadata_props['sparsity'] = str(backbone.sparsity)
        program.save(temporary, external_data=False)


def export_program(backbone: SparseBackbone, path: PathLike, shape: Sequence[int],
                   batch_size: int = 1, dynamic_batch: bool = False) -> None:
    """Export the backbone to FILE.pt2, for ``torch.export.load``.

    Arguments and errors are those of :func:`export_onnx`, but only torch is required. If images
    share a budget, a program with a dynamic batch takes two or more groups, as torch.export makes
    a constant of one.
    """
    with _replacing(path, '.pt2') as temporary, _quiet():
        torch.export.save(_trace(backbone, shape, batch_size, dynamic_batch), temporary)


def output_names(backbone: SparseBackbone) -> List[str]:
    return [f'stage{i}' for i in backbone.out_indices]


def random_image(backbone: SparseBackbone, shape: Sequence[int], batch_size: int,
                 seed: int = 0) -> Tensor:
    """Return random images (B, in_channels, H, W) in fp32.

    These are normal noise whose magnitude varies between images and, by a factor of some tens,
    within each image, so that the scores of windows differ.
    """
    generator = torch.Generator().manual_seed(seed)
    magnitude = torch.randn(batch_size, 1, 8, 8, generator=generator)
    magnitude = magnitude + torch.randn(batch_size, 1, 1, 1, generator=generator)
    magnitude = torch.nn.functional.interpolate(magnitude, tuple(shape)).exp()
    return magnitude * torch.randn(
        batch_size, backbone.in_channels, *shape, generator=generator)


def _trace(backbone: SparseBackbone, shape: Sequence[int], batch_size: int,
           dynamic_batch: bool) -> 'torch.export.ExportedProgram':
    need_torch()
    if len(shape) != 2 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise ValueError(f'shape {tuple(shape)} is not two positive integers (pixels)')
    if batch_size < 1:
        raise ValueError(f'batch size {batch_size} is not positive')
    model = frozen(backbone)
    if not model.sparsity.is_dense and model.selection.importance == 'random':
        raise ValueError("importance 'random' cannot be exported: random selection is an ablation; "
                         'build the backbone with another importance')
    batch = None
    if dynamic_batch:
        group = batch_group(model)
        # With one group in the example, the batch size would become a constant of the graph.
        batch_size = max(batch_size, 2 * group)
        batch = torch.export.Dim('batch') if group == 1 else group * torch.export.Dim('groups')
    image = random_image(model, shape, batch_size)
    with torch.no_grad():
        model(image)  # fills the cache of windows, which become constants of the graph
        return torch.export.export(model, (image, ), dynamic_shapes=batch and ({0: batch}, ),
                                   strict=False)


def batch_group(model: SparseBackbone) -> int:
    """Return the number of images that a dynamic batch size must be a multiple of.

    Raises:
        ValueError: If all images of the batch share a budget.
    """
    selection = model.selection
    if selection.scope != 'group':  # each image has its own budget
        return 1
    if selection.group_size == BATCH:
        raise ValueError("scope 'group' over the whole batch needs a batch of fixed size: set "
                         'group_size to a number of images, or disable the dynamic batch')
    return selection.group_size


def _fix_layouts(program: 'torch.export.ExportedProgram') -> 'torch.export.ExportedProgram':
    """Make the result of attention contiguous, in place.

    Fused kernels choose a layout that the following reshape can view; their replacement in ONNX
    does not, so that the reshape would fail.
    """
    graph, aten = program.graph_module.graph, torch.ops.aten
    for node in list(graph.nodes):
        if node.target is aten.scaled_dot_product_attention.default:
            with graph.inserting_after(node):
                copy = graph.call_function(
                    aten.clone.default, (node, ), dict(memory_format=torch.contiguous_format))
            copy.meta = dict(node.meta)
            node.replace_all_uses_with(copy, delete_user_cb=lambda user: user is not copy)
    program.graph_module.recompile()
    return program


def _stable_sort(x, stable=False, dim: int = -1, descending: bool = False):
    """Translate aten::sort.stable, which torch's exporter lacks. TopK puts the lower index first in
    ties.
    """
    op = importlib.import_module('onnxscript').opset18
    size = op.Gather(op.Shape(x), op.Constant(value_ints=[dim]), axis=0)
    return op.TopK(x, size, axis=dim, largest=int(descending), sorted=1)


def frozen(backbone: SparseBackbone) -> SparseBackbone:
    """Return a copy on the CPU, in fp32 and eval mode, that runs eagerly."""
    model = deepcopy(backbone).cpu().float().eval()
    model.execution = 'eager'
    model.selection = backbone.selection.alone()
    return model


@contextmanager
def _replacing(path: PathLike, suffix: str) -> Iterator[Path]:
    """Check `path`, and yield a temporary path that replaces it on success."""
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f'{path} does not end in {suffix}')
    if not path.parent.is_dir():
        raise FileNotFoundError(f'folder {path.parent} of {path.name} does not exist')
    with replacing(path) as temporary:
        yield temporary


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings, as of the exporter about torchvision and its own deprecations."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)


def need(*names: str) -> list:
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise ValueError(f'{error}: pip install onnx onnxruntime onnxscript') from None


def need_torch() -> None:
    if digit_version(torch.__version__) < digit_version(MIN_TORCH):
        raise ValueError(f'export needs torch >= {MIN_TORCH}; {torch.__version__} is installed')
