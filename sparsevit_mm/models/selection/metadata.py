"""Read the metadata of a batch: the valid area of each image, and the number of views per frame.

Detectors and segmentors of all three toolkits pass only a tensor to their backbone, not the data
samples. They are mmengine models whose forward receives both, so a forward hook on the model reads
the samples for its sparse backbone, without changes to the code of the model.
"""
import warnings
from dataclasses import dataclass
from inspect import signature
from itertools import chain
from typing import Iterator, List, Optional, Sequence, Set, Tuple

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from ...compat import forward_pre_hooks
from .importance import PADDING_AWARE
from .ranking import Batch, Selection

Size = Tuple[int, int]


@dataclass
class ToldBatch:
    """Inputs of a model's forward call, which its backbone reads when it prunes.

    Attributes:
        shape: (B, 3, H, W) for images, or (B, V, 3, H, W) for frames of V views.
        samples: B data samples, with ``img_shape`` in their metainfo.
    """
    shape: Tuple[int, ...]
    samples: Sequence

    @property
    def views(self) -> Optional[int]:
        """Number of views per frame; None for single images."""
        return self.shape[1] if len(self.shape) == 5 else None

    @property
    def num_images(self) -> int:
        return self.shape[0] * (self.views or 1)

    def is_of(self, x: Tensor) -> bool:
        """Whether the backbone's input consists of these images, rather than crops of them (e.g. of
        sliding-window inference) or images of another size."""
        return (x.shape[0], *x.shape[2:]) == (self.num_images, *self.shape[-2:])

    def sizes(self, stale_is_meant: bool = False) -> Optional[List[Size]]:
        """Return height and width in pixels of each image without padding; None if there is no
        padding or the metadata are missing or stale.

        Sizes larger than the tensor are stale, e.g. a crop did not update them. They are ignored
        with a warning.

        Args:
            stale_is_meant: Whether to skip the warning.

        Raises:
            ValueError: If a size is below 1, or the number of sizes of a sample differs from its
                number of views. The message names the image or sample and the values.
        """
        sizes: List[Size] = []
        for index, sample in enumerate(self.samples):
            shape = getattr(sample, 'metainfo', {}).get('img_shape')
            if shape is None:
                return None
            sizes += self._of_sample(index, shape)
        full = tuple(self.shape[-2:])
        for image, (height, width) in enumerate(sizes):
            if min(height, width) < 1:
                raise ValueError(f'img_shape of image {image} is {height}x{width} in the metadata')
            if height > full[0] or width > full[1]:
                if not stale_is_meant:  # without numbers, so that Python shows it once
                    warnings.warn('img_shape in the metadata is larger than the images of the '
                                  'batch: padding cannot be told apart from the image, and is not '
                                  'ranked last. Fix the pipeline, or set padding_last=False in '
                                  'the backbone if this is intended')
                return None
        return None if all(size == full for size in sizes) else sizes

    def _of_sample(self, index: int, shape: Sequence) -> List[Size]:
        """Return one size per view from ``img_shape``, which is (H, W) or (H, W, C) for all views,
        or a list of these with one per view."""
        number = self.views or 1
        shapes = list(shape) if _is_nested(shape) else [shape] * number
        if len(shapes) != number:
            raise ValueError(f'img_shape of sample {index} is of {len(shapes)} images in the '
                             f'metadata, but the batch has {number} per sample')
        return [(int(height), int(width)) for height, width, *_ in shapes]


def _is_nested(shape: Sequence) -> bool:
    return hasattr(shape[0], '__len__')


def read_batch(backbone: nn.Module, x: Tensor) -> Batch:
    """Return group size and valid image sizes of a sparse backbone's input (B, C, H, W), in tokens
    of the first map.

    Raises:
        ValueError: See :meth:`.ranking.Selection.group_of`, and, if the backbone prunes or is
            watched, :meth:`ToldBatch.sizes`.
    """
    selection, side = backbone.selection, backbone.patch_size
    told = backbone.told if backbone.told is not None and backbone.told.is_of(x) else None
    group = selection.group_of(x.shape[0], told and told.views)
    sizes = None
    looked_at = selection.padding_last or selection.importance in PADDING_AWARE
    if told is not None and looked_at and (backbone.watched or not backbone.sparsity.is_dense):
        sizes = told.sizes(stale_is_meant=not selection.padding_last)
    if sizes is not None:
        sizes = (-(-torch.tensor(sizes) // side)).to(x.device, non_blocking=True)
    return Batch(group, sizes)


def listen_to_models() -> None:
    """Make every mmengine model that gets a sparse backbone from now on, at any depth, pass the
    inputs of its forward calls to the backbone."""
    global _listening
    if not _listening:
        register_module_module_registration_hook(_on_registration)
        _listening = True


_listening = False


def _on_registration(module: nn.Module, name: str, child: Optional[nn.Module]) -> None:
    if isinstance(module, BaseModel) and child is not None and any(_backbones(child)):
        for hook in forward_pre_hooks(module):
            if isinstance(getattr(hook, '__self__', None), _Teller):
                teller = hook.__self__
                break
        else:
            teller = _Teller()
            module.register_forward_pre_hook(teller.tell, with_kwargs=True)
            always = {}
            if 'always_call' in signature(module.register_forward_hook).parameters:
                always = dict(always_call=True)  # after errors too; not in torch 2.0
            module.register_forward_hook(teller.take_back, with_kwargs=True, **always)
        teller.children.add(name)


def _backbones(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the sparse backbones in a module, including itself."""
    return (m for m in module.modules() if isinstance(getattr(m, 'selection', None), Selection))


class _Teller:
    """Forward pre-hook and forward hook of a model.

    It stores the names of the children that contain a sparse backbone, because traversing the
    whole model would take longer than launching a kernel.
    """

    def __init__(self):
        self.children: Set[str] = set()

    def tell(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        told = read_call(*args, **kwargs)
        for backbone in self._backbones_of(model):
            backbone.told = told

    def take_back(self, model: nn.Module, args: tuple, kwargs: dict, output) -> None:
        for backbone in self._backbones_of(model):
            backbone.told = None

    def _backbones_of(self, model: nn.Module) -> Iterator[nn.Module]:
        return chain.from_iterable(
            _backbones(child) for child in map(model._modules.get, self.children)
            if child is not None)


def read_call(inputs=None, data_samples=None, *_, **__) -> Optional[ToldBatch]:
    """Return the inputs of ``forward(inputs, data_samples, mode)`` of a toolkit's model; None if
    they are not a batch of images with one data sample each."""
    if isinstance(inputs, dict):  # of mmdet3d
        inputs = inputs.get('imgs')
    if not isinstance(inputs, Tensor) or inputs.dim() not in (4, 5):
        return None
    if not isinstance(data_samples, (list, tuple)) or len(data_samples) != len(inputs):
        return None
    return ToldBatch(tuple(inputs.shape), data_samples)
