"""Interleaved latency measurement, share of matrix products, and cost of training."""
from typing import Dict, List, Optional, Sequence

import torch
from rich.progress import track
from subjects import MODELS, Subject
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from sparsevit_mm import SparseSwinTransformer
from sparsevit_mm.compat import timer
from sparsevit_mm.models.windows import WindowPartition

PRODUCTS = ('aten::addmm', 'aten::mm', 'aten::bmm', 'aten::baddbmm', 'aten::addmm_',
            'aten::mkldnn_convolution', 'aten::cudnn_convolution')
ATTENTION = 'aten::_scaled_dot_product'


def latencies(subjects: Sequence[Subject], image: Tensor, rounds: int,
              title: str) -> List[List[float]]:
    """Measure the milliseconds of each subject in each round.

    Subjects run in turn, after one round that compiles, captures and warms up (three on a GPU).
    """
    warm_up = 3 if image.device.type == 'cuda' else 1
    times: List[List[float]] = [[] for _ in subjects]
    with torch.inference_mode():
        for i in track(range(rounds + warm_up), title):
            for subject, of_subject in zip(subjects, times):
                start = timer()  # synchronises the device
                subject.run(image)
                elapsed = timer() - start
                if i >= warm_up:
                    of_subject.append(elapsed * 1e3)
    return times


def product_shares(subject: Subject, image: Tensor, repeats: int = 3) -> Dict[str, float]:
    """Return the shares of time that an eager subject spends in linear layers and convolutions, in
    attention (both products and the softmax between them), and in everything else."""
    cuda = image.device.type == 'cuda'
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with torch.inference_mode():
        subject.run(image)
        with profile(activities=activities) as profiler:
            for _ in range(repeats):
                subject.run(image)
    shares = dict(products=0., attention=0., other=0.)
    for event in profiler.key_averages():
        if cuda:
            time = getattr(event, 'self_device_time_total', None)
            time = event.self_cuda_time_total if time is None else time
        else:
            time = event.self_cpu_time_total
        kind = ('products' if event.key in PRODUCTS else
                'attention' if event.key.startswith(ATTENTION) else 'other')
        if not cuda or event.key.startswith('aten::'):  # kernels are also listed separately
            shares[kind] += time
    total = sum(shares.values())
    return {kind: time / total for kind, time in shares.items()}


def overlap(model: str, state: Dict[str, Tensor], image: Tensor, sparsity: float) -> List[float]:
    """Return, for each stage, the share of windows kept in fp32 that the image's dtype keeps too.

    The comparison is end to end: a stage ranks the outputs of earlier stages in that dtype. Random
    weights and a noise image are the worst case, with the most near-ties.
    """
    kept = []
    for dtype in (torch.float32, image.dtype):
        backbone = SparseSwinTransformer(**MODELS[model], sparsity=sparsity)
        backbone.load_state_dict(state)
        backbone.to(image.device, dtype).eval()
        kept.append([[] for _ in backbone.stages])
        for stage, of_stage in zip(backbone.stages, kept[-1]):
            for block in stage.blocks:
                block.register_forward_pre_hook(
                    lambda _, args, into=of_stage: into.append(_as_mask(*args)))
        with torch.inference_mode():
            backbone(image.to(dtype))
    shares = []
    for exact, low in zip(*kept):
        both = [(a & b).sum() / a.sum() for a, b in zip(exact, low)]
        shares.append(float(torch.stack(both).mean()))
    return shares


def _as_mask(x: Tensor, windows: WindowPartition, selected: Optional[Tensor] = None,
             group: int = 1, *_) -> Tensor:
    """Convert the arguments of a block, whose images share no budget, to the mask of windows that
    it runs, (B, nW) bool."""
    every = torch.ones(len(x), windows.num_windows, dtype=torch.bool, device=x.device)
    return every if selected is None else torch.zeros_like(every).scatter_(1, selected, True)


def training(peer: nn.Module, peer_name: str, image: Tensor, model: str, rounds: int,
             ratios: Sequence[float] = (0., .3, .6)) -> List[dict]:
    """Measure forward and backward passes of the peer and of ours, in turn, and their memory."""
    backbone = SparseSwinTransformer(**MODELS[model]).to(image.device)
    rows = [dict(name=f'{peer_name} dense', model=peer, ratio=None)]
    rows += [dict(name='ours dense' if r == 0 else f'ours {r:.0%}', model=backbone, ratio=r)
             for r in ratios]
    for row in rows:
        row['model'].train()
        row['times'] = []
    for i in track(range(rounds + 1), 'training'):
        for row in rows:
            if row['ratio'] is not None:
                backbone.sparsity = row['ratio']
            start = timer()
            sum(f.mean() for f in row['model'](image)).backward()
            elapsed = timer() - start
            row['model'].zero_grad()
            if i:
                row['times'].append(elapsed * 1e3)
    for row in rows:
        if row['ratio'] is not None:
            backbone.sparsity = row['ratio']
        row['memory'] = _training_memory(row['model'], image)
        del row['model']
    return rows


def _training_memory(model: nn.Module, image: Tensor) -> int:
    """Return the memory of a training step in bytes: on CUDA the peak above the memory allocated
    before; on the CPU the tensors kept for the backward pass, without weights."""
    if image.device.type == 'cuda':
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        sum(f.mean() for f in model(image)).backward()
        torch.cuda.synchronize()
        model.zero_grad()
        return torch.cuda.max_memory_allocated() - before
    kept = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = model(image)
    del features
    return sum(kept.values())
