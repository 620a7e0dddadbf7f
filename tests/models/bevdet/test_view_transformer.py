"""Where features of images land in bird's eye view."""
import numpy as np
import pytest
import torch
from cameras import SIZE, random_cameras

from sparsevit_mm.models.bevdet import view_transformer
from sparsevit_mm.models.bevdet.bev_pool import bev_pool, make_table
from sparsevit_mm.models.bevdet.geometry import BEVGrid, find_cells, lift
from sparsevit_mm.models.bevdet.view_transformer import LSSViewTransformer

STRIDE, CHANNELS = 16, 3
FEATURES = (SIZE[0] // STRIDE, SIZE[1] // STRIDE)
GRID = dict(x=(-51.2, 51.2, 0.8), y=(-38.4, 38.4, 0.8), z=(-10., 10.))


def transformer(**options):
    """Whose features are depth logits and context as they are."""
    model = LSSViewTransformer(59 + CHANNELS, CHANNELS, **GRID, stride=STRIDE, **options)
    model.depth_net.weight.data = torch.eye(59 + CHANNELS)[..., None, None]
    torch.nn.init.zeros_(model.depth_net.bias)
    return model


@pytest.mark.parametrize('seed', range(5))
def test_lifted_points_project_back_to_their_pixels_and_depths(seed):
    cameras, depths = random_cameras(seed), torch.arange(1., 60.)
    points = lift(cameras.matrices, depths.double(), FEATURES, STRIDE)[0].numpy()
    for view, seen in enumerate(points):
        pixels, found = cameras.project(seen.reshape(-1, 3), view)
        pixels = pixels.reshape(59, *FEATURES, 2)
        np.testing.assert_allclose(found.reshape(59, -1), depths[:, None].expand(59, 44))
        np.testing.assert_allclose(pixels[..., 0], np.broadcast_to(
            np.arange(FEATURES[1]) * 16 + 7.5, pixels.shape[:3]), atol=1e-6)
        np.testing.assert_allclose(pixels[..., 1], np.broadcast_to(
            np.arange(FEATURES[0])[:, None] * 16 + 7.5, pixels.shape[:3]), atol=1e-6)


@pytest.mark.parametrize('seed', range(5))
def test_a_feature_at_a_known_point_appears_in_its_cell_and_nowhere_else(seed):
    cameras, rng = random_cameras(seed), np.random.default_rng(seed)
    model, found = transformer(), 0
    for view in range(6):
        # A point that a ray through the centre of a feature's cell meets at a depth bin.
        row, column, depth = (rng.integers(FEATURES[0]), rng.integers(FEATURES[1]),
                              rng.integers(3, 45))
        pixel = np.array([column * 16 + 7.5, row * 16 + 7.5, 1]) * depth
        camera = np.linalg.inv(cameras.img_aug[view] @ cameras.cam2img[view]) @ pixel
        lidar = np.linalg.inv(cameras.lidar2cam[view]) @ [*camera, 1]
        x, y, z, _ = cameras.bev_aug @ lidar

        features = torch.zeros(1, 6, 59 + CHANNELS, *FEATURES)
        features[0, view, depth - 1, row, column] = 1000.
        features[0, view, 59:, row, column] = torch.tensor([1., 2., 3.])
        with torch.no_grad():
            bev = model(features, cameras.matrices)
        assert bev.shape == (1, CHANNELS, 96, 128)
        if abs(x) < 51.2 and abs(y) < 38.4 and abs(z) < 10:
            found += 1
            cell = bev[0, :, int((y + 38.4) // 0.8), int((x + 51.2) // 0.8)]
            torch.testing.assert_close(cell, torch.tensor([1., 2., 3.]))
            assert torch.count_nonzero(bev) == CHANNELS
        else:
            assert torch.count_nonzero(bev) == 0
    assert found


def test_samples_of_a_batch_stay_apart():
    torch.manual_seed(0)
    matrices = torch.cat([random_cameras(seed).matrices for seed in (1, 2)])
    features = torch.randn(2, 6, 59 + CHANNELS, *FEATURES)
    with torch.no_grad():
        both = transformer()(features, matrices)
        alone = [transformer()(features[i:i + 1], matrices[i:i + 1]) for i in range(2)]
    torch.testing.assert_close(both, torch.cat(alone))
    assert not torch.allclose(*alone)


def test_points_on_the_edges_of_the_grid_fall_in_the_cell_above_or_outside():
    grid = BEVGrid((-2., 2., 1.), (-1., 1., 1.), (-1., 1.))
    points = torch.tensor([[[-2., -1., 0.], [1.9, 0.9, 0.], [2., 0., 0.], [0., 1., 0.],
                            [0., 0., -1.], [0., 0., 1.], [-2.1, 0., 0.], [float('nan')] * 3]])
    assert grid.shape == (2, 4)
    assert find_cells(points, grid).tolist() == [[0, 7, -1, -1, 6, -1, -1, -1]]


def pool_by_hand(depth, context, cells, num_cells):
    points = depth[..., None] * context[:, :, None]
    inside = cells.flatten() >= 0
    out = torch.zeros(num_cells, context.shape[-1], dtype=points.dtype)
    return out.index_add(0, cells.flatten()[inside], points.flatten(0, 4)[inside])


@pytest.fixture
def pooled():
    torch.manual_seed(0)
    depth = torch.rand(2, 3, 5, 4, 6, requires_grad=True)
    context = torch.randn(2, 3, 4, 6, 7, requires_grad=True)
    return depth, context, torch.randint(-1, 20, depth.shape)


def test_pooling_equals_the_sum_over_points_and_so_do_its_gradients(pooled):
    depth, context, cells = pooled
    weight = torch.randn(20, 7)
    expected = pool_by_hand(depth.double(), context.double(), cells, 20)
    gradients = torch.autograd.grad((expected * weight).sum(), (depth, context))
    found = bev_pool(depth, context, make_table(cells, 20))
    torch.testing.assert_close(found, expected.float())
    torch.testing.assert_close(
        torch.autograd.grad((found * weight).sum(), (depth, context)), gradients)


def test_pooling_gives_the_same_bits_each_time_and_fp32_under_autocast(pooled):
    depth, context, cells = pooled
    table = make_table(cells, 20)
    first = bev_pool(depth, context, table)
    assert torch.equal(first, bev_pool(depth, context, table))
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(first, bev_pool(depth, context, table))
    half = bev_pool(depth.bfloat16(), context.bfloat16(), table)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, first, atol=0.1, rtol=0.1)


def test_a_table_without_points_pools_zeros():
    cells = torch.full((1, 1, 2, 2, 2), -1)
    bev = bev_pool(torch.ones(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 3), make_table(cells, 4))
    assert torch.equal(bev, torch.zeros(4, 3))


def test_the_table_serves_until_cameras_augmentations_or_sizes_change(monkeypatch):
    calls = []
    monkeypatch.setattr(view_transformer, 'make_table',
                        lambda *args: calls.append(1) or make_table(*args))
    model, cameras = transformer(), random_cameras(0)
    turned = cameras._replace(bev_aug=np.diag([-1., 1, 1, 1]) @ cameras.bev_aug)
    wide = torch.randn(1, 6, 59 + CHANNELS, FEATURES[0], FEATURES[1] + 1)
    features = wide[..., :-1]
    with torch.no_grad():
        first = model(features, cameras.matrices)
        assert torch.equal(model(features, cameras.matrices), first) and len(calls) == 1
        mirrored = model(features, turned.matrices)
        assert len(calls) == 2
        torch.testing.assert_close(mirrored, transformer()(features, turned.matrices))
        model(wide, turned.matrices)
        assert len(calls) == 4
        torch.testing.assert_close(model(features, cameras.matrices), first)
