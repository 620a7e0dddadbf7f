"""Latency, training speed, profile and latency table of the backbones on one device."""
from time import monotonic
from typing import Dict, Iterator, List

import numpy as np
import torch
from gpu_checks import cases
from measure import latencies, training
from subjects import MODELS, Subject, at_sparsity, make_image, peers
from torch.profiler import ProfilerActivity, profile

from sparsevit_mm import EvoVisionTransformer, SparseSwinTransformer
from sparsevit_mm.compat import timer
from sparsevit_mm.cost.latency import LatencySetting
from sparsevit_mm.cost.macs import backbone_macs
from sparsevit_mm.cost.table import LatencyTable
from sparsevit_mm.models.swin.kernels.triton_attention import is_available
from sparsevit_mm.weights import WeightMasks, maskable_weights
from sparsevit_mm.weights.masking import draw_masks

# Model, batch size, (H, W), dtype, and whether to include compiled execution, which takes a minute.
SETTINGS = [('swin-t', 4, (672, 672), 'fp16', True), ('swin-t', 1, (672, 672), 'fp16', False),
            ('swin-t', 6, (256, 704), 'fp16', False), ('swin-t', 1, (1024, 2048), 'fp16', False),
            ('swin-l', 1, (1024, 2048), 'fp16', False), ('swin-t', 4, (672, 672), 'fp32', False)]
QUICK = [('swin-t', 1, (96, 96), 'fp32', False)]
SPARSITIES = {'dense': 0., '30%': .3, '60%': .6}
DEIT = dict(embed_dims=384, num_heads=6, num_layers=12, patch_bias=True,
            norm_cfg=dict(type='LN', eps=1e-6))
HALF = [0] * 4 + [.5] * 8
DENSITY = .5


def swin_latency(device: str, quick: bool, rounds: int) -> Iterator[Dict]:
    """Measure our Swin in every execution and the peers, in turn; see :func:`_rows`."""
    for model, batch, shape, dtype, compiled in QUICK if quick else SETTINGS:
        image = make_image(batch, shape, dtype, device)
        with torch.no_grad():
            subjects, state, missing = peers(model, image)
        kinds = ['eager'] + ['captured'] * (device != 'cpu') + ['compiled'] * compiled
        for kind in kinds:
            for triton in (False, True)[:1 + is_available(image.device)]:
                subjects += _ours(model, image, kind, triton, state)
        title = f'{model}, {batch} x {shape[0]}x{shape[1]}, {dtype}'
        times = latencies(subjects, image, rounds, title)
        yield dict(what=title, missing=missing, rows=_rows(subjects, times))
        del subjects, image
        _free(device)


def _ours(model: str, image: torch.Tensor, execution: str, triton: bool, state) -> List[Subject]:
    backbone = SparseSwinTransformer(**MODELS[model], execution=execution, triton=triton)
    backbone.load_state_dict(state)
    backbone.to(image.device, image.dtype).eval()
    return [Subject(f'ours {name}', execution + ' + triton' * triton,
                    at_sparsity(backbone, sparsity),
                    backbone_macs(backbone, image.shape[2:], 1, sparsity))
            for name, sparsity in SPARSITIES.items()]


def vit_latency(device: str, quick: bool, rounds: int) -> Iterator[Dict]:
    """Measure DeiT-S dense and with half of the tokens in eight of twelve layers."""
    settings = [(2, 64, 'fp32')] if quick else [(16, 224, 'fp16'), (1, 512, 'fp16')]
    for batch, side, dtype in settings:
        image = make_image(batch, (side, side), dtype, device)
        subjects = []
        for kind in ['eager'] + ['captured'] * (device != 'cpu'):
            for fast in ('representative', 'copy'):
                backbone = EvoVisionTransformer(img_size=side, fast=fast, execution=kind, **DEIT)
                backbone.to(image.device, image.dtype).eval()
                for name, sparsity in (('dense', 0.), (f'keep .5 in 8 layers, {fast}', HALF)):
                    if name != 'dense' or fast == 'representative':
                        subjects.append(Subject(f'ours {name}', kind,
                                                at_sparsity(backbone, sparsity), backbone_macs(
                                                    backbone, (side, side), 1, sparsity)))
        title = f'DeiT-S, {batch} x {side}x{side}, {dtype}'
        yield dict(what=title, missing=[],
                   rows=_rows(subjects, latencies(subjects, image, rounds, title)))
        _free(device)


def _rows(subjects: List[Subject], times: List[List[float]]) -> List[Dict]:
    """Return medians and quartiles in ms, medians over rounds of the ratios to the first subject
    and to ours dense in the same execution, and the ratio of MACs to ours dense."""
    first = np.array(times[0])
    dense = {s.execution: np.array(t) for s, t in zip(subjects, times) if s.name == 'ours dense'}
    macs = {s.execution: s.macs for s in subjects if s.name == 'ours dense'}
    rows = []
    for subject, row in zip(subjects, map(np.array, times)):
        low, median, high = np.percentile(row, (25, 50, 75))
        entry = dict(name=subject.name, execution=subject.execution, median=median, low=low,
                     high=high, of_first=float(np.median(row / first)))
        if subject.macs is not None:
            entry.update(of_dense=float(np.median(row / dense[subject.execution])),
                         macs=subject.macs / macs[subject.execution])
        rows.append(entry)
    return rows


def training_step(device: str, quick: bool, rounds: int) -> Iterator[Dict]:
    """Measure time and memory of forward and backward of Swin-T, dense and pruned, and of the
    toolkit's class; and of a training step of DeiT-S with and without masks of sparse training."""
    shape, batch = ((96, 96), 1) if quick else ((672, 672), 4)
    image = make_image(batch, shape, 'fp32', device)
    from subjects import toolkit_swin
    name, swin = toolkit_swin()
    rows = training(swin(**MODELS['swin-t']).to(device), name, image, 'swin-t', rounds)
    first, dense = np.array(rows[0]['times']), np.array(rows[1]['times'])
    yield dict(what=f'swin-t, forward and backward, {batch} x {shape[0]}x{shape[1]}, fp32', rows=[
        dict(name=row['name'], execution='', median=float(np.median(row['times'])),
             of_first=float(np.median(np.array(row['times']) / first)),
             of_dense=float(np.median(np.array(row['times']) / dense)),
             megabytes=row['memory'] / 2**20) for row in rows])
    _free(device)
    yield _masked_step(device, quick, rounds)


def _masked_step(device: str, quick: bool, rounds: int) -> Dict:
    side, batch = (64, 2) if quick else (224, 64)
    model = EvoVisionTransformer(img_size=side, **DEIT).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    image = make_image(batch, (side, side), 'fp32', device)
    weights = maskable_weights(model)
    masks = WeightMasks(weights, draw_masks(weights, DENSITY))
    masks.apply_to_weights()

    def step(masked: bool) -> None:
        model(image)[-1].square().mean().backward()
        if masked:
            with masks.stepping():
                optimizer.step()
        else:
            optimizer.step()
        optimizer.zero_grad()

    times, memory = {False: [], True: []}, {}
    for i in range(rounds + 2):
        for masked, own in times.items():
            start = timer()
            step(masked)
            if i > 1:
                own.append(1e3 * (timer() - start))
    if device != 'cpu':
        for masked in times:
            torch.cuda.reset_peak_memory_stats()
            step(masked)
            memory[masked] = torch.cuda.max_memory_allocated() / 2**20
    plain, sparse = (np.array(times[masked]) for masked in (False, True))
    return dict(what=f'DeiT-S, training step with AdamW, {batch} x {side}x{side}, fp32', rows=[
        dict(name=name, execution='', median=float(np.median(own)),
             of_first=float(np.median(own / plain)), of_dense=None, megabytes=memory.get(masked))
        for name, own, masked in (('dense', plain, False),
                                  (f'masks of density {DENSITY}', sparse, True))])


def profiled(device: str, quick: bool) -> Iterator[Dict]:
    """Profile Swin-T: time by kernel, number of launches, and share of time the device is idle."""
    batch, shape, dtype = (1, (96, 96), 'fp32') if quick else (4, (672, 672), 'fp16')
    image = make_image(batch, shape, dtype, device)
    cuda = device != 'cpu'
    for execution in ['eager'] + ['captured'] * cuda:
        backbone = SparseSwinTransformer(**MODELS['swin-t'], execution=execution)
        backbone.to(image.device, image.dtype).eval()
        for name, sparsity in (('dense', 0.), ('60%', .6)):
            run = at_sparsity(backbone, sparsity)
            with torch.inference_mode():
                for _ in range(3):
                    run(image)
                start = timer()
                run(image)
                elapsed = 1e3 * (timer() - start)
                with profile(activities=[ProfilerActivity.CPU]
                             + [ProfilerActivity.CUDA] * cuda) as profiler:
                    run(image)
                    if cuda:
                        torch.cuda.synchronize()
            events = [e for e in profiler.key_averages() if not cuda or _is_kernel(e)]
            times = sorted(((_self_time(e, cuda) / 1e3, e.count, e.key[:70]) for e in events),
                           reverse=True)
            busy = sum(t for t, _, _ in times)
            yield dict(what=f'swin-t {name}, {execution}, {batch} x {shape[0]}x{shape[1]}, {dtype}',
                       milliseconds=elapsed, busy=busy, launches=sum(n for _, n, _ in times),
                       waiting=max(0., 1 - busy / elapsed) if cuda else None,
                       top=[dict(name=key, ms=t, count=n) for t, n, key in times[:12]])
        del backbone
        _free(device)


def _is_kernel(event) -> bool:
    return 'CUDA' in str(getattr(event, 'device_type', ''))


def _self_time(event, cuda: bool) -> float:
    """Return the time of an event itself, without its children, in microseconds."""
    if not cuda:
        return event.self_cpu_time_total
    time = getattr(event, 'self_device_time_total', None)
    return event.self_cuda_time_total if time is None else time


def latency_table(device: str, quick: bool) -> Iterator[Dict]:
    """Measure latency tables and check their predictions of configurations left out of the fit."""
    for execution in ['eager'] + ['captured'] * (device != 'cpu'):
        shape, budget, dtype = ((64, 96), 60., 'fp32') if quick else ((672, 672), 25., 'fp16')
        setting = LatencySetting(shape, 1 if quick else 4, dtype, device, execution=execution)
        backbone = cases(True)[0].make() if quick else SparseSwinTransformer(**MODELS['swin-t'])
        start = monotonic()
        table = LatencyTable.measure(backbone, setting, budget)
        yield dict(what=str(setting), seconds=monotonic() - start, dense=table.dense,
                   check=str(table.check))
        _free(device)


def _free(device: str) -> None:
    if device != 'cpu':
        torch.cuda.empty_cache()


