"""Compare token evolution and sparse training on small images, with narrow DeiTs.

Made for CIFAR-10 as files: DATA/{train,test}/CLASS/*.jpg of 32x32. Training uses the first 2,000
images of each class by file name; the test uses all test images. All variants are the same DeiT
(patch 4, width 64, depth 9, 4 heads) with the same schedule, and differ in the tokens or weights
that they use. Finished jobs are not run again.
"""
import argparse
import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from jobs import Job, run_jobs
from schedules import cosine
from small_images import SIZE, augmented, normalised, read_images
from sparse_weights import UNIT_DENSITY, SparseUnits, SparseWeights
from sparsevit_mm import EvoVisionTransformer, TokenSelectorHook
from sparsevit_mm.cli import clear_errors
from sparsevit_mm.compat import timer
from sparsevit_mm.cost.macs import backbone_macs
from sparsevit_mm.files import replacing
from sparsevit_mm.weights import maskable_weights
from sparsevit_mm.widths import unit_count

CLASSES, PER_CLASS = 10, 2000
WIDTH, DEPTH, HEADS, DENSE_LAYERS = 64, 9, 4, 3
EPOCHS, BATCH, LR, DECAY, WARM_UP = 8, 128, 1e-3, .05, 60  # iterations
RESAMPLES = 2000


class Variant(NamedTuple):
    """Attributes:
        keep: Keep ratio of the tokens in all layers except the dense ones.
        settings: Settings of the backbone.
        drop: Whether the head ignores tokens that do not run.
        weights: Kind of sparse training: None, 'svite', 'static', 'magnitude' or 's2vite'.
        compacted: Settings of the compacted backbone.
    """
    keep: float = 1.
    settings: Dict = {}
    drop: bool = False
    weights: Optional[str] = None
    compacted: Dict = {}


def token_variants(keep: float) -> Dict[str, Variant]:
    name = f' {keep:g}'
    once = dict(fast='copy', reselect='stage', stages=(DENSE_LAYERS, ))
    return {
        'representative' + name: Variant(keep),
        'copy' + name: Variant(keep, dict(fast='copy')),
        'random' + name: Variant(keep, dict(fast='copy', importance='random')),
        'dropped' + name: Variant(keep, once, drop=True)}


SELECTED = dict(importance='selector', fast='copy', reselect='stage', stages=(), dense_layers=0)
UNITS = dict(block_heads=[unit_count(HEADS, UNIT_DENSITY)] * DEPTH,
             ffn_widths=[unit_count(4 * WIDTH, UNIT_DENSITY)] * DEPTH)
VARIANTS = {
    'dense': Variant(), **token_variants(.5), 'svite': Variant(weights='svite'),
    'magnitude': Variant(weights='magnitude'), 'static': Variant(weights='static'),
    **token_variants(.7), 'svite+': Variant(.7, SELECTED, drop=True, weights='svite'),
    's2vite': Variant(weights='s2vite', compacted=UNITS)}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path, metavar='DATA')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/classification'))
    parser.add_argument('--variants', nargs='+', choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--epochs', type=int, default=EPOCHS)
    parser.add_argument('--workers', type=int, default=1,
                        help='number of parallel trainings, one thread each')
    parser.add_argument('--throughput', action='store_true', help='measure images per second')
    return parser.parse_args()


class Classifier(nn.Module):
    """Backbone with one linear layer on the normalised mean of its patches and, for training, on
    its class token (Evo-ViT, section 4.1).

    Args:
        variant: The variant.
        compacted: Whether to build the backbone without the heads and neurons that training prunes.
    """

    def __init__(self, variant: Variant, compacted: bool = False):
        super().__init__()
        settings = dict(dense_layers=DENSE_LAYERS) | variant.settings
        self.backbone = EvoVisionTransformer(
            img_size=SIZE, patch_size=4, embed_dims=WIDTH, num_layers=DEPTH, num_heads=HEADS,
            patch_bias=True, output_cls_token=True, norm_cfg=dict(type='LN', eps=1e-6), **settings,
            **(variant.compacted if compacted else {}))
        self.backbone.sparsity = 1 - variant.keep  # in all but the dense layers
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)
        self.drop = variant.drop

    def forward(self, images: Tensor) -> Tuple[Tensor, Tensor]:
        """Map images (B, 3, H, W) to logits (B, 10) of the mean patch and of the class token."""
        recording = self.backbone.recording() if self.drop else nullcontext([[None]])
        with recording as maps:
            patches, token = self.backbone(images)[-1]
        patches = patches.flatten(2).transpose(1, 2)
        if self.drop:
            ran = maps[-1][-1].flatten(1).unsqueeze(-1).to(patches)
            mean = (patches * ran).sum(1) / ran.sum(1)
        else:
            mean = patches.mean(1)
        return self.head(self.norm(mean)), self.head(self.norm(token))


def train(variant: Variant, seed: int, epochs: int, images: Tensor, labels: Tensor) -> Classifier:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Classifier(variant).train()
    per_epoch = len(images) // BATCH
    iters, i = epochs * per_epoch, 0
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=DECAY)
    schedule = cosine(optimizer, iters, WARM_UP)
    sparse = (SparseUnits(model, iters) if variant.weights == 's2vite'
              else SparseWeights(model, variant.weights, iters, seed))
    selector, schedule_of_tau = model.backbone.selector, TokenSelectorHook()
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for batch in order[:per_epoch * BATCH].split(BATCH):
            if selector is not None:
                selector.tau = schedule_of_tau.tau(i, iters)
            sparse.begin(i + 1)
            inputs = normalised(augmented(images[batch], generator))
            loss = sum(F.cross_entropy(logits, labels[batch]) for logits in model(inputs)) / 2
            optimizer.zero_grad()
            loss.backward()
            i += 1
            sparse.step(i, optimizer)
            schedule.step()
        print(f'epoch {epoch + 1}: loss {loss.item():.3f}', flush=True)
    return model


@torch.no_grad()
def correct(model: Classifier, images: Tensor, labels: Tensor) -> np.ndarray:
    """Return which images are classified correctly, (N, ) bool, by the logits of the mean patch."""
    model.eval()
    return np.concatenate([
        (model(normalised(batch))[0].argmax(1) == truth).numpy()
        for batch, truth in zip(images.split(250), labels.split(250))])


def run(args: argparse.Namespace, name: str, seed: int, result: Path) -> None:
    torch.set_num_threads(1)
    train_set, test_set = (read_images(args.data / part, args.out / f'{part}.npz', number)
                           for part, number in (('train', PER_CLASS), ('test', None)))
    model = train(VARIANTS[name], seed, args.epochs, *train_set)
    hits = correct(model, *test_set)
    small = Classifier(VARIANTS[name], compacted=True)
    with replacing(result) as partial_file:
        partial_file.write_text(json.dumps(dict(
            accuracy=100 * float(hits.mean()), density=density(model, small),
            epochs=args.epochs, macs=backbone_macs(small.backbone, (SIZE, SIZE)),
            correct=np.packbits(hits).tobytes().hex(), images=len(hits))))


def density(model: Classifier, small: Classifier) -> float:
    """Return the share of weights that remain: in `small`, the compacted model, if it is smaller
    than the trained `model`; otherwise the nonzero ones of `model`."""
    total, compacted = (sum(w.parameter.numel() for w in maskable_weights(m).values())
                        for m in (model, small))
    if compacted < total:
        return compacted / total
    return sum(int((w.parameter != 0).sum()) for w in maskable_weights(model).values()) / total


def check_epochs(results: Sequence[Path], epochs: int) -> None:
    """Raise a ValueError if a result was trained for another number of epochs."""
    for path in results:
        made = json.loads(path.read_text()).get('epochs', EPOCHS) if path.exists() else epochs
        if made != epochs:
            raise ValueError(f'{path} was trained for {made} epochs, not {epochs}: '
                             'choose another --out')


def hits_of(result: Path) -> np.ndarray:
    record = json.loads(result.read_text())
    bits = np.frombuffer(bytes.fromhex(record['correct']), np.uint8)
    return np.unpackbits(bits, count=record['images'])


def interval(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> Tuple[float, ...]:
    """Return the difference in accuracy of two variants in percentage points, and the ends of its
    95% interval; both images and seeds are resampled."""
    rng = np.random.default_rng(0)
    gain = 100 * (np.stack(one).astype(float) - np.stack(other))
    draws = [gain[rng.integers(len(gain), size=len(gain))].mean(0)[
        rng.integers(gain.shape[1], size=gain.shape[1])].mean() for _ in range(RESAMPLES)]
    return (gain.mean(), *np.percentile(draws, (2.5, 97.5)))


def throughput(names: Sequence[str], rounds: int = 9) -> Dict[str, List[float]]:
    """Measure the seconds per batch of each variant, in turn, with one thread after one warm-up
    round."""
    torch.set_num_threads(1)
    models = {name: Classifier(VARIANTS[name], compacted=True).eval() for name in names}
    images = torch.randn(BATCH, 3, SIZE, SIZE)
    times: Dict[str, List[float]] = {name: [] for name in names}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, model in models.items():
                start = timer()
                model(images)
                times[name].append(timer() - start)
    return {name: row[1:] for name, row in times.items()}


def print_results(out: Path, names: Sequence[str], seeds: Sequence[int]) -> None:
    table = Table(title='CIFAR-10, 10,000 test images')
    for column in ('variant', 'accuracy of each seed', 'mean', 'less dense (95%)', 'MACs',
                   'weights'):
        table.add_column(column)
    done = {name: [p for p in (result_of(out, name, s) for s in seeds) if p.exists()]
            for name in names}
    for name in names:
        records = [json.loads(p.read_text()) for p in done[name]]
        if not records:
            continue
        paired = [p for p in done[name] if result_of(out, 'dense', seed_of(p)).exists()]
        gain = interval([hits_of(p) for p in paired],
                        [hits_of(result_of(out, 'dense', seed_of(p))) for p in paired]
                        ) if paired and name != 'dense' else None
        table.add_row(name, ' '.join(f'{r["accuracy"]:.2f}' for r in records),
                      f'{np.mean([r["accuracy"] for r in records]):.2f}',
                      gain and '{:+.2f} ({:+.2f} to {:+.2f})'.format(*gain),
                      f'{records[0]["macs"] / 1e6:.1f} M', f'{records[0]["density"]:.2f}')
    Console(width=110).print(table)


def result_of(out: Path, name: str, seed: int) -> Path:
    return out / f'{name.replace(" ", "_")}_seed{seed}.json'


def seed_of(result: Path) -> int:
    return int(result.stem.rpartition('seed')[2])


def main() -> None:
    args = parse_args()
    if args.throughput:
        times = throughput(args.variants)
        dense = np.array(times[args.variants[0]])
        for name, row in times.items():
            low, median, high = np.percentile(dense / np.array(row), (25, 50, 75))
            print(f'{name}: {BATCH / np.median(row):.0f} images/s, {median:.2f} x '
                  f'{args.variants[0]} (quartiles {low:.2f} to {high:.2f})')
        return
    jobs = [Job(result_of(args.out, name, seed),
                partial(run, args, name, seed, result_of(args.out, name, seed)))
            for seed in args.seeds for name in args.variants]
    with clear_errors():
        check_epochs([job.done for job in jobs], args.epochs)
    failed = run_jobs(jobs, args.workers)
    print_results(args.out, args.variants, args.seeds)
    if failed:
        raise SystemExit(f'{len(failed)} of {len(jobs)} jobs failed')


if __name__ == '__main__':
    main()
