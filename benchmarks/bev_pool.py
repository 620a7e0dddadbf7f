"""Compare our BEV pooling with the plain way, which adds a feature for each point to its cell.

The setting is six cameras around the car with nuScenes' focal length, at the sizes of BEVDet-Tiny.
Both ways run in turn on the same points; ratios are of medians.
"""
import argparse

import numpy as np
import torch
from rich.progress import track

from sparsevit_mm.compat import timer
from sparsevit_mm.cost.latency import device_name
from sparsevit_mm.models.bevdet.bev_pool import bev_pool, make_table
from sparsevit_mm.models.bevdet.geometry import BEVGrid, find_cells, lift, view_to_bev

GRID = BEVGrid((-51.2, 51.2, 0.8), (-51.2, 51.2, 0.8), (-10., 10.))
VIEWS, SIZE, STRIDE, CHANNELS = 6, (16, 44), 16, 64
DEPTHS = torch.arange(1., 60.)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--batch-size', type=int, default=1, help='number of frames')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--device', default='cpu')
    return parser.parse_args()


def cells(batch: int, device: str) -> torch.Tensor:
    """Return the cell of each point, (B, V, D, h, w); the cameras look outwards from the origin."""
    lidar2cam = torch.eye(4, dtype=torch.float64).repeat(VIEWS, 1, 1)
    for view in range(VIEWS):
        yaw = 2 * np.pi * view / VIEWS
        ahead = torch.tensor([np.cos(yaw), np.sin(yaw), 0.])
        right = torch.tensor([np.sin(yaw), -np.cos(yaw), 0.])
        lidar2cam[view, :3, :3] = torch.stack([right, torch.tensor([0., 0., -1.]), ahead])
    cam2img = torch.tensor([[1260., 0, 800], [0, 1260, 450], [0, 0, 1]], dtype=torch.float64)
    img_aug = torch.tensor([[0.44, 0, 0], [0, 0.44, -140], [0, 0, 1]], dtype=torch.float64)
    matrices = view_to_bev(cam2img.expand(VIEWS, 3, 3), lidar2cam, img_aug.expand(VIEWS, 3, 3),
                           torch.eye(4, dtype=torch.float64))
    matrices = matrices.expand(batch, VIEWS, 3, 4).float().to(device)
    return find_cells(lift(matrices, DEPTHS.to(device), SIZE, STRIDE), GRID)


def plain(depth: torch.Tensor, context: torch.Tensor, cell: torch.Tensor,
          num_cells: int) -> torch.Tensor:
    points = depth[..., None] * context[:, :, None]
    inside = cell.flatten() >= 0
    out = torch.zeros(num_cells, CHANNELS, device=depth.device)
    return out.index_add(0, cell.flatten()[inside], points.view(-1, CHANNELS)[inside])


def main() -> None:
    args = parse_args()
    cell = cells(args.batch_size, args.device)
    num_cells = args.batch_size * GRID.shape[0] * GRID.shape[1]
    depth = torch.rand(cell.shape, device=args.device).softmax(2).requires_grad_()
    context = torch.randn(args.batch_size, VIEWS, *SIZE, CHANNELS, device=args.device,
                          requires_grad=True)
    table = make_table(cell, num_cells)
    ways = {
        'plain': lambda: plain(depth, context, cell, num_cells),
        'this pool': lambda: bev_pool(depth, context, table),
        'this pool and its table': lambda: bev_pool(depth, context, make_table(cell, num_cells)),
    }
    times = {name: [] for name in ways}
    for i in track(range(args.rounds + 2), 'rounds'):
        for name, way in ways.items():
            start = timer()
            pooled = way()
            middle = timer()
            torch.autograd.grad(pooled.sum(), (depth, context))
            end = timer()
            if i >= 2:  # after warm-up
                times[name].append((1e3 * (middle - start), 1e3 * (end - start)))
    torch.testing.assert_close(ways['plain'](), ways['this pool'](), atol=1e-4, rtol=1e-4)

    print(f'{len(table.points)} points in {num_cells} cells, {CHANNELS} channels; '
          f'{device_name(args.device)}, torch {torch.__version__}, '
          f'{torch.get_num_threads()} threads\n')
    print('| | forward | of plain | forward and backward | of plain |\n|---|---|---|---|---|')
    base = np.median(times['plain'], axis=0)
    for name, measured in times.items():
        low, median, high = np.percentile(measured, (25, 50, 75), axis=0)
        figures = [f'{m:.1f} ms ({a:.1f} to {b:.1f}) | {m / of:.2f}'
                   for a, m, b, of in zip(low, median, high, base)]
        print(f'| {name} | {" | ".join(figures)} |')


if __name__ == '__main__':
    main()
