"""Checks of the backbones on a device against the CPU in fp32, in every precision and execution.

Each check is a row: its name, the difference, and whether that is within the bound.
"""
from contextlib import nullcontext
from copy import deepcopy
from typing import Callable, Dict, Iterator, List, NamedTuple, Tuple

import torch
from torch import Tensor, nn

from sparsevit_mm import EvoLeViT, EvoVisionTransformer, SparseSwinTransformer
from sparsevit_mm.cost.latency import DTYPES
from sparsevit_mm.models.swin.attention import WindowMSA
from sparsevit_mm.models.swin.kernels import triton_attention
from sparsevit_mm.models.windows import partition

# Bounds of the difference, relative to the largest value of a feature map or to the L2 norm of the
# gradient. fp16 and bf16 have about 3 and 2 digits, and rounding accumulates over twelve blocks.
BOUNDS = dict(fp32=2e-3, fp16=2e-2, bf16=.15)
SAME_CHOICE = .9  # lowest share of windows or tokens selected in both; near-ties may differ


class Case(NamedTuple):
    """Attributes:
        name: Name of the backbone.
        make: Function that builds it with random weights.
        shape: (H, W) of its images.
        pruned: Sparsity at which it is checked, besides dense.
    """
    name: str
    make: Callable[[], nn.Module]
    shape: Tuple[int, int]
    pruned: object


def cases(quick: bool) -> List[Case]:
    """Return cases for Swin-T, DeiT-S and LeViT-128S, or narrow versions if `quick`."""
    if quick:
        levit = dict(embed_dims=(16, 24, 32), num_heads=(1, 2, 2), depths=(2, 2, 2), key_dims=8)
        return [
            Case('Swin', lambda: SparseSwinTransformer(
                embed_dims=16, depths=(2, 2), num_heads=(2, 4), strides=(4, 2), window_size=4,
                out_indices=(0, 1), drop_path_rate=0.), (64, 96), .5),
            Case('ViT', lambda: EvoVisionTransformer(
                img_size=32, patch_size=8, embed_dims=16, num_heads=2, num_layers=6,
                drop_path_rate=0.), (32, 32), [0, 0, 0, 0, .5, .5]),
            Case('LeViT', lambda: EvoLeViT(levit, img_size=64, drop_path_rate=0), (64, 64), .5)]
    return [
        Case('Swin-T', lambda: SparseSwinTransformer(drop_path_rate=0.), (224, 288), .5),
        Case('DeiT-S', lambda: EvoVisionTransformer(
            img_size=224, embed_dims=384, num_heads=6, num_layers=12, drop_path_rate=0.),
            (224, 224), [0] * 4 + [.5] * 8),
        Case('LeViT-128S', lambda: EvoLeViT('128s', drop_path_rate=0), (224, 224), .5)]


def equality(device: str, quick: bool) -> Iterator[Dict]:
    """Compare features, dense and pruned, and dense gradients on the device with the CPU in fp32.

    If different windows or tokens ran, their overlap is checked in place of the features.
    """
    for case in cases(quick):
        torch.manual_seed(0)
        model, image = case.make().eval(), torch.randn(2, 3, *case.shape)
        for dtype, autocast in _precisions(quick):
            here = deepcopy(model).to(device)
            if not autocast:
                here.to(DTYPES[dtype])
            name = f'{case.name}, {dtype}' + ' autocast' * autocast
            run = _runner(here, image.to(device, None if autocast else DTYPES[dtype]),
                          device, DTYPES[dtype] if autocast else None)
            for label, sparsity in (('dense', 0.), ('pruned', case.pruned)):
                model.sparsity = here.sparsity = sparsity
                expected, places = _recorded(model, lambda: model(image))
                got, own = _recorded(here, run)
                yield from _compare_features(f'{name}, {label}', expected, got, places, own, dtype)
            if dtype == 'fp32' or autocast:
                model.sparsity = here.sparsity = 0.
                expected, got = (_gradient(model, lambda: model(image)), _gradient(here, run))
                # Compare as one vector: the gradient of key biases is nothing but rounding.
                apart = float((got - expected).norm() / expected.norm())
                yield dict(what=f'{name}, gradients, L2', difference=apart, bound=BOUNDS[dtype],
                           ok=apart <= BOUNDS[dtype])
            del here


def executions(device: str, quick: bool) -> Iterator[Dict]:
    """Compare captured and compiled execution with eager on the same device. A second image and one
    of another size reveal stale recordings."""
    kinds = ['compiled'] + ['captured'] * (device != 'cpu')
    if device == 'cpu':
        yield dict(what='captured', skipped='needs CUDA')
    for case in cases(quick)[:1 if quick else None]:
        for kind in kinds:
            torch.manual_seed(0)
            eager = case.make().eval().to(device)
            other = deepcopy(eager)
            other.execution = kind
            height, width = case.shape
            # ViTs and LeViT keep their size, because their position embeddings are made for it.
            second = (height, width) if case.name.startswith(('ViT', 'DeiT', 'LeViT')) else (
                height - 32, width)
            for shape in ((height, width), (height, width), second):
                image = torch.randn(2, 3, *shape).to(device)
                for sparsity in (0., case.pruned):
                    eager.sparsity = other.sparsity = sparsity
                    with torch.inference_mode():
                        yield _row(f'{case.name}, {kind}, {shape[0]}x{shape[1]}, '
                                   f'{"pruned" if sparsity else "dense"}',
                                   _flat(eager(image)), _flat(other(image)), 'fp32')


def triton_kernel(device: str, quick: bool) -> Iterator[Dict]:
    """Compare the Triton attention kernel on the device with the reference on the CPU, for several
    window sizes, head widths and precisions, with and without masks."""
    if not triton_attention.is_available(torch.device(device)):
        yield dict(what='Triton kernel', skipped='needs CUDA and Triton 3')
        return
    torch.manual_seed(0)
    for window, heads, width, shift in ((7, 3, 32, 0), (7, 6, 32, 3), (12, 6, 32, 6), (4, 2, 16, 2),
                                        (5, 1, 64, 0)):
        msa = WindowMSA(heads * width, heads, window)
        nn.init.normal_(msa.relative_position_bias_table, std=1.)
        windows = partition(2 * window, 2 * window, window, shift, torch.device('cpu'))
        kinds = windows.mask_index if shift else None
        for dtype in ('fp32', 'fp16', 'bf16'):
            qkv = torch.randn(2, 4, window**2, 3 * heads * width).to(DTYPES[dtype])
            index = None if kinds is None else kinds.expand(2, -1).reshape(-1)
            with torch.no_grad():
                expected = msa.attend(qkv.float().flatten(0, 1)[None],
                                      msa.bias(windows.masks if shift else None), index)
                got = triton_attention.window_attention(
                    qkv.to(device), msa.relative_position_bias_table.detach().to(device), window,
                    shift, None if kinds is None else kinds.to(device), width**-.5)
            yield _row(f'window {window}, {heads} heads of {width}, shift {shift}, {dtype}',
                       [expected[0].reshape(-1)], [got.reshape(-1)], dtype)


def _precisions(quick: bool) -> List[Tuple[str, bool]]:
    return [('fp32', False), ('bf16', True)] if quick else [
        ('fp32', False), ('fp16', False), ('bf16', False), ('fp16', True), ('bf16', True)]


def _runner(model: nn.Module, image: Tensor, device: str, autocast) -> Callable:
    def run():
        context = nullcontext() if autocast is None else torch.autocast(
            torch.device(device).type, autocast)
        with context:
            return model(image)
    return run


def _recorded(model: nn.Module, run: Callable) -> Tuple[List[Tensor], List[Tensor]]:
    """Return the features, and bool maps of the windows or tokens that ran."""
    with torch.inference_mode():
        features = _flat(run())
        with model.recording() as maps:
            run()
    return features, [m.cpu() for stage in maps for m in stage]


def _flat(features) -> List[Tensor]:
    """Return feature maps and class tokens as a flat list, in fp32 on the CPU."""
    found: List[Tensor] = []
    for feature in features:
        found += _flat(feature) if isinstance(feature, (tuple, list)) else [feature.float().cpu()]
    return found


def _gradient(model: nn.Module, run: Callable) -> Tensor:
    model.train()
    try:
        sum(f.float().square().mean() for f in _tensors(run())).backward()
        return torch.cat([p.grad.float().cpu().flatten() for p in model.parameters()
                          if p.grad is not None])
    finally:
        model.zero_grad(set_to_none=True)
        model.eval()


def _tensors(features) -> Iterator[Tensor]:
    for feature in features:
        if isinstance(feature, (tuple, list)):
            yield from _tensors(feature)
        else:
            yield feature


def _compare_features(name: str, expected, got, places, own, dtype: str) -> Iterator[Dict]:
    shared = min((float((a & b).sum() / a.sum()) for a, b in zip(places, own)), default=1.)
    if shared == 1:
        yield _row(name, expected, got, dtype)
    else:  # features of different windows are not comparable
        yield dict(what=name + ', the same chosen', share=shared, ok=shared >= SAME_CHOICE)


def _row(what: str, expected: List[Tensor], got: List[Tensor], dtype: str) -> Dict:
    """Return a check of the largest difference, relative to the largest value of its tensor."""
    if len(expected) != len(got):
        return dict(what=what, error=f'{len(got)} tensors, {len(expected)} expected', ok=False)
    worst = max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-12))
                for a, b in zip(expected, got))
    return dict(what=what, difference=worst, bound=BOUNDS[dtype], ok=worst <= BOUNDS[dtype])
