"""Pretrain a Swin backbone as a classifier of small images, for comparisons in which the narrow
models of the demos start from pretrained weights.

Made for Tiny ImageNet-200: 100,000 images of 64x64 in 200 classes. The backbone of a config is
trained dense with a linear layer on the mean of its last features: random resized crops and flips,
label smoothing, AdamW, one epoch of warm-up, then cosine decay; bf16 on CUDA, else fp32. All images
are kept on the device and cropped there. The randomness of an epoch depends only on the seed and
its number, so an interrupted run, started again, continues as if it had not been interrupted.

The checkpoint fits SparseSwinTransformer and the SwinTransformer of mmdet and mmseg:
init_cfg=dict(type='Pretrained', checkpoint=FILE).
"""
import argparse
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Tuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit_mm.cli import clear_errors
from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.reading import find_backbone, load_config
from sparsevit_mm.files import replacing
from sparsevit_mm.models.checkpoints import read_checkpoint

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'demo' / 'configs' / 'upernet_sparsevit-narrow_camvid.py'
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB, as in data_preprocessor
PACKS = dict(train=2, val=1)  # number of files
MIN_AREA, MAX_ASPECT = .3, 4 / 3  # of random crops
SMOOTHING, WEIGHT_DECAY, CLIP = .1, .05, 5.


class Split(NamedTuple):
    """Images (N, 3, H, W) uint8 RGB and their classes (N,) int64, on the device."""
    images: Tensor
    labels: Tensor


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('data/tiny-imagenet-200'),
                        help='folder of Tiny ImageNet, or of packs')
    parser.add_argument('--pack', type=Path, metavar='FOLDER',
                        help='only write the images to FOLDER as packs: three small files')
    parser.add_argument('--quality', type=int, default=60,
                        help='quality of the WebP images in packs')
    parser.add_argument('--config', default=str(CONFIG), help='config with a SparseSwinTransformer')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/pretrain/tiny_imagenet.pth'))
    parser.add_argument('--size', type=int, default=64, help='side of the input, in pixels')
    parser.add_argument('--epochs', type=int, default=100)
    parser.add_argument('--batch-size', type=int, default=1024)
    parser.add_argument('--lr', type=float, default=1e-3,
                        help='learning rate for a batch size of 512')
    parser.add_argument('--drop-path', type=float, default=.05)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--compile', action='store_true', help='train with torch.compile')
    return parser.parse_args()


def read_encoded(folder: Path, part: str) -> Tuple[List[np.ndarray], np.ndarray]:
    """Read the images of 'train' or 'val' as encoded JPEG or WebP, and their classes, (N,) int64.

    Raises:
        FileNotFoundError: If `folder` contains neither Tiny ImageNet nor packs.
    """
    images, labels = [], []
    for path in sorted(folder.glob(f'*{part}*.npz')):
        with np.load(path) as pack:
            images += np.split(pack['data'], pack['offsets'][1:-1])
            labels += pack['labels'].tolist()
    if images:
        return images, np.array(labels)
    annotations = folder / 'val' / 'val_annotations.txt'
    if not annotations.is_file():
        raise FileNotFoundError(f'{folder} contains neither packs (*{part}*.npz) nor Tiny ImageNet '
                                f'(train/WNID/images/*.JPEG, val/val_annotations.txt)')
    classes = sorted(path.name for path in (folder / 'train').iterdir())
    if part == 'train':
        files = [(path, name) for name in classes
                 for path in sorted((folder / 'train' / name / 'images').iterdir())]
    else:
        lines = map(str.split, annotations.read_text().splitlines())
        files = [(folder / 'val' / 'images' / name, wnid) for name, wnid, *_ in lines]
    return ([np.fromfile(path, np.uint8) for path, _ in files],
            np.array([classes.index(name) for _, name in files]))


def write_packs(data: Path, folder: Path, quality: int) -> None:
    """Write train_0.npz, train_1.npz and val_0.npz.

    Each has `data`, the concatenated WebP images; `offsets`, (N + 1,) int64, their boundaries; and
    `labels`, (N,) uint8, with classes in the order of their names.
    """
    def to_webp(image):
        pixels = cv2.imdecode(image, cv2.IMREAD_COLOR)
        return cv2.imencode('.webp', pixels, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].ravel()

    folder.mkdir(parents=True, exist_ok=True)
    for part, count in PACKS.items():
        images, labels = read_encoded(data, part)
        with ThreadPoolExecutor() as pool:
            images = list(pool.map(to_webp, images))
        for i in range(count):
            path, chosen = folder / f'{part}_{i}.npz', images[i::count]
            offsets = np.cumsum([0, *map(len, chosen)])
            with replacing(path) as partial:
                np.savez(partial, data=np.concatenate(chosen), offsets=offsets,
                         labels=labels[i::count].astype(np.uint8))
            print(f'{path}: {len(chosen)} images, {path.stat().st_size / 2**20:.1f} MiB')


def load_split(folder: Path, part: str, device: str) -> Split:
    """Decode all images in colour; they must have the same size. Raises as :func:`read_encoded`."""
    def decode(image):
        return cv2.cvtColor(cv2.imdecode(image, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    encoded, labels = read_encoded(folder, part)
    images = np.empty((len(encoded), *decode(encoded[0]).shape), np.uint8)
    with ThreadPoolExecutor() as pool:
        for i, pixels in enumerate(pool.map(decode, encoded)):
            images[i] = pixels
    images = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.from_numpy(labels).to(device))


class Classifier(nn.Module):
    """Dense backbone with a linear layer on the mean of its last features.

    Args:
        config: Config with a SparseSwinTransformer, which defines the architecture.
        num_classes: Number of outputs.
        drop_path: Drop path rate of the backbone.
    """

    def __init__(self, config: str, num_classes: int, drop_path: float):
        super().__init__()
        cfg = load_config(config)
        dense = dict(sparsity=0, scope='image', execution='eager', frozen_stages=-1,
                     drop_path_rate=drop_path)
        cfg.merge_from_dict({'.'.join(find_backbone(cfg)): dense})
        self.backbone = build_backbone(cfg)
        self.backbone.init_weights()
        channels = self.backbone.num_features[self.backbone.out_indices[-1]]
        self.head = nn.Linear(channels, num_classes)
        for name, value in (('mean', MEAN), ('std', STD)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W), RGB in [0, 255], to logits (B, num_classes) in fp32."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
            features = self.backbone((images - self.mean) / self.std)[-1]
            return self.head(features.mean((2, 3))).float()


def augment(images: Tensor, size: int) -> Tensor:
    """Crop and flip each image at random: (B, 3, H, W) to (B, 3, size, size) fp32."""
    def uniform(low, high):
        return torch.empty(len(images), device=images.device).uniform_(low, high)

    area, aspect = uniform(MIN_AREA, 1), MAX_ASPECT**uniform(-1, 1)
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = width * uniform(-1, 1).sign()
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (1 - width) * uniform(-1, 1)
    theta[:, 1, 2] = (1 - height) * uniform(-1, 1)
    grid = F.affine_grid(theta, (len(images), 3, size, size), align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode='border', align_corners=False)


def make_optimizer(model: nn.Module, device: str) -> torch.optim.Optimizer:
    """Build AdamW without weight decay of norms, biases and position tables."""
    decayed, others = [], []
    for name, param in model.named_parameters():
        plain = param.dim() < 2 or 'relative_position' in name or 'absolute_pos' in name
        (others if plain else decayed).append(param)
    return torch.optim.AdamW([dict(params=decayed), dict(params=others, weight_decay=0.)],
                             weight_decay=WEIGHT_DECAY, fused=device.startswith('cuda'))


def learning_rate(peak: float, epoch: float, epochs: int) -> float:
    """Return the learning rate: linear warm-up for one epoch, then cosine decay to 0."""
    fall = max(0., epoch - 1) / max(1, epochs - 1)
    return peak * min(1., epoch) * (1 + math.cos(math.pi * fall)) / 2


def train_epoch(forward: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer,
                train: Split, epoch: int, args: argparse.Namespace) -> float:
    """Train on all full batches in random order and return the mean loss."""
    batch = min(args.batch_size, len(train.labels))
    steps = len(train.labels) // batch
    order = torch.randperm(len(train.labels), device=train.labels.device)[:steps * batch]
    params = [param for group in optimizer.param_groups for param in group['params']]
    total = torch.zeros((), device=order.device)  # read once, to avoid synchronising every step
    for i, chosen in enumerate(order.split(batch)):
        for group in optimizer.param_groups:
            group['lr'] = learning_rate(args.lr * batch / 512, epoch + (i + .5) / steps,
                                        args.epochs)
        logits = forward(augment(train.images[chosen], args.size))
        loss = F.cross_entropy(logits, train.labels[chosen], label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, CLIP)
        optimizer.step()
        total += loss.detach()
    return total.item() / steps


@torch.no_grad()
def accuracy(model: nn.Module, val: Split, args: argparse.Namespace) -> float:
    """Return the top-1 accuracy in percent."""
    model.eval()
    right = torch.zeros((), device=val.labels.device)
    for images, labels in zip(val.images.split(args.batch_size), val.labels.split(args.batch_size)):
        images = F.interpolate(images.float(), (args.size, args.size), mode='bilinear')
        right += (model(images).argmax(1) == labels).sum()
    model.train()
    return 100 * right.item() / len(val.labels)


def restore(path: Path, settings: Dict, model: nn.Module,
            optimizer: torch.optim.Optimizer) -> Dict:
    """Restore the model and the optimizer from an earlier run, if there is one.

    Returns:
        Settings, number of finished epochs, and accuracy.

    Raises:
        ValueError: If the file belongs to a run with other settings.
    """
    if not path.exists():
        return dict(settings=settings, epoch=0, top1=0.)
    held = read_checkpoint(str(path))
    meta = held.get('meta', {})
    if meta.get('settings') != settings:
        raise ValueError(f'{path} was made with other settings, {meta.get("settings")}: choose '
                         f'another --out or remove the file')
    model.load_state_dict(held['state_dict'])
    if 'optimizer' in held:  # the checkpoint of the last epoch has none
        optimizer.load_state_dict(held['optimizer'])
    return meta


def pretrain(args: argparse.Namespace) -> None:
    settings = {name: getattr(args, name) for name in
                ('size', 'epochs', 'batch_size', 'lr', 'drop_path', 'seed')}
    settings['config'] = Path(args.config).name
    torch.set_float32_matmul_precision('high')  # TF32
    train, val = (load_split(args.data, part, args.device) for part in PACKS)
    torch.manual_seed(args.seed)
    model = Classifier(args.config, int(train.labels.max()) + 1, args.drop_path).to(args.device)
    forward = torch.compile(model) if args.compile else model
    optimizer = make_optimizer(model, args.device)
    meta = restore(args.out, settings, model, optimizer)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for epoch in range(meta['epoch'], args.epochs):
        torch.manual_seed(args.seed * 1_000_000 + epoch)
        start = time.perf_counter()
        loss = train_epoch(forward, optimizer, train, epoch, args)
        speed = len(train.labels) / (time.perf_counter() - start)
        meta.update(epoch=epoch + 1, top1=accuracy(model, val, args))
        held = dict(meta=meta, state_dict=model.state_dict())
        if epoch + 1 < args.epochs:
            held['optimizer'] = optimizer.state_dict()
        with replacing(args.out) as partial:
            torch.save(held, partial)
        print(f'epoch {epoch + 1}/{args.epochs}: loss {loss:.3f}, val top-1 {meta["top1"]:.2f}%, '
              f'{speed:.0f} images/s', flush=True)
    print(f'{args.out}: val top-1 {meta["top1"]:.2f}% after {args.epochs} epochs')


def main() -> None:
    args = parse_args()
    with clear_errors():
        if args.pack:
            write_packs(args.data, args.pack, args.quality)
        else:
            pretrain(args)


if __name__ == '__main__':
    main()
