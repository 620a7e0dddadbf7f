"""Subjects of the comparison: other implementations of Swin, and ours at several sparsities."""
import sys
import types
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from sparsevit_mm import SparseSwinTransformer
from sparsevit_mm.cost.latency import DTYPES
from sparsevit_mm.cost.macs import backbone_macs

MODELS = {
    'swin-t': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=7),
    'swin-l': dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48),
                   window_size=12),
}
UNIFORM = (0., .3, .6, .8)
PUBLISHED = {  # for Swin-T
    'cfg1': [[.3, .3], [0, 0], [.1, .1, .2, .2, .2, .2], [0, 0]],
    'cfg2': [[.6, .6], [0, 0], [.2, .2, .4, .4, .5, .5], [0, 0]],
    'cfg3': [[.7, .7], [0, 0], [.2, .2, .4, .4, .5, .5], [0, 0]],
}


@dataclass
class Subject:
    """One line of the table.

    Attributes:
        name: Name of the backbone and its sparsity.
        execution: 'eager', 'compiled' or 'captured', for ours possibly with ' + triton'; for other
            backbones 'eager', or 'autocast' if they fail in the requested dtype.
        run: Maps an image (B, 3, H, W) to features.
        macs: Multiply-accumulates per image as this package runs it; None for other backbones.
        uniform: The sparsity if it is the same for all blocks, else None.
    """
    name: str
    execution: str
    run: Callable[[Tensor], Sequence[Tensor]]
    macs: Optional[int] = None
    uniform: Optional[float] = None


def ours(model: str, image: Tensor, executions: Sequence[str], triton: bool,
         state: Dict[str, Tensor]) -> List[Subject]:
    """Return our backbone with the given state dict, at every sparsity in every execution."""
    sparsities = {('dense' if r == 0 else f'{r:.0%}'): r for r in UNIFORM}
    if model == 'swin-t':
        sparsities.update(PUBLISHED)
    subjects = []
    for execution in executions:
        for use_triton in (False, True) if triton else (False, ):
            backbone = SparseSwinTransformer(
                **MODELS[model], execution=execution, triton=use_triton)
            backbone.load_state_dict(state)
            backbone.to(image.device, image.dtype).eval()
            suffix = ' + triton' if use_triton else ''
            for name, sparsity in sparsities.items():
                subjects.append(Subject(
                    f'ours {name}', execution + suffix, at_sparsity(backbone, sparsity),
                    backbone_macs(backbone, image.shape[2:], 1, sparsity),
                    sparsity if isinstance(sparsity, float) else None))
    return subjects


def at_sparsity(backbone: nn.Module, sparsity) -> Callable:
    """Return a function that sets the sparsity of the backbone and runs it."""

    def run(image):
        backbone.sparsity = sparsity
        return backbone(image)

    return run


def peers(model: str, image: Tensor) -> Tuple[List[Subject], Dict[str, Tensor], List[str]]:
    """Return the other backbones, the state dict of the first, and why any of them are missing."""
    missing = []
    name, swin = toolkit_swin()
    backbone = swin(**MODELS[model])
    backbone.init_weights()
    state = {k: v.clone() for k, v in backbone.state_dict().items()}
    subjects = [_peer(name, backbone, image)]
    for name, make in (('timm', _timm_swin), ('torchvision', _torchvision_swin)):
        try:
            subjects.append(_peer(name, make(model, image), image))
        except Exception as error:  # report any failure of an optional package
            missing.append(f'{name}: {type(error).__name__}: {str(error).splitlines()[0]}')
    return subjects, state, missing


def _peer(name: str, backbone: nn.Module, image: Tensor) -> Subject:
    backbone.train(False)
    backbone.to(image.device)
    dtype = image.dtype
    if dtype == torch.float32:
        return Subject(f'{name} dense', 'eager', backbone)
    try:
        backbone.to(dtype)
        backbone(image)
        return Subject(f'{name} dense', 'eager', backbone)
    except RuntimeError:  # the toolkits' masks are float32
        backbone.float()

    def run(image):
        with torch.autocast(image.device.type, dtype):
            return backbone(image)

    return Subject(f'{name} dense', 'autocast', run)


def toolkit_swin():
    """Return the name and the SwinTransformer of mmdet, or of mmseg if mmdet can not be imported;
    mmcv's compiled operators may be missing, because Swin uses none."""
    try:
        from mmdet.models import SwinTransformer
        return 'mmdet', SwinTransformer
    except ImportError:
        for name in [n for n in sys.modules if n.split('.')[0] in ('mmdet', 'mmseg')]:
            del sys.modules[name]
    try:
        import mmcv._ext  # noqa: F401
    except ImportError:
        sys.modules['mmcv._ext'] = _Operators('mmcv._ext')
    from mmseg.models.backbones.swin import SwinTransformer
    return 'mmseg', SwinTransformer


class _Operators(types.ModuleType):
    """Placeholder for mmcv's compiled operators: has every name, but raises when called."""

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise RuntimeError(f'mmcv was built without operators: {name}')

        return missing


def _timm_swin(model: str, image: Tensor) -> nn.Module:
    import timm
    settings = MODELS[model]
    return timm.models.swin_transformer.SwinTransformer(
        img_size=tuple(image.shape[2:]), embed_dim=settings['embed_dims'],
        depths=settings['depths'], num_heads=settings['num_heads'],
        window_size=settings['window_size'], num_classes=0, global_pool='')


def _torchvision_swin(model: str, image: Tensor) -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer
    settings = MODELS[model]
    window = settings['window_size']
    swin = SwinTransformer([4, 4], settings['embed_dims'], list(settings['depths']),
                           list(settings['num_heads']), [window, window])
    return nn.Sequential(swin.features, swin.norm)


def make_image(batch_size: int, shape: Sequence[int], dtype: str, device: str) -> Tensor:
    """Return a standard normal image batch (batch_size, 3, H, W), always the same."""
    image = torch.randn(batch_size, 3, *shape, generator=torch.Generator().manual_seed(0))
    return image.to(device, DTYPES[dtype])
