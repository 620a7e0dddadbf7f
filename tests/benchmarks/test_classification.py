"""The comparison of narrow DeiTs: what its variants are, that it goes on, what its table says."""
import json
import sys

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT

sys.path.insert(0, str(ROOT / 'benchmarks'))
import classification as benchmark  # noqa: E402
import sparse_weights  # noqa: E402
from small_images import augmented, read_images  # noqa: E402


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)


def model_of(name):
    torch.manual_seed(0)
    return benchmark.Classifier(benchmark.VARIANTS[name]).eval()


@torch.no_grad()
@pytest.mark.parametrize('keep', [.5, .7])
def test_dropped_tokens_have_no_part_in_the_head(images, keep):
    model, inputs = model_of(f'dropped {keep}'), benchmark.normalised(images)
    with model.backbone.recording() as maps:
        model.backbone(inputs)
    ran = torch.stack([m.flatten(1) for m in maps[-1][-6:]])
    assert (ran == ran[0]).all()  # none returns
    assert (ran[0].sum(1) == int(64 * keep)).all()
    patches, _ = model.backbone(inputs)[-1]
    mean = torch.stack([p.flatten(1)[:, r.bool()].mean(1) for p, r in zip(patches, ran[0])])
    torch.testing.assert_close(model(inputs)[0], model.head(model.norm(mean)))


@torch.no_grad()
def test_variants_differ_from_dense_in_what_runs_alone(images):
    inputs = benchmark.normalised(images)
    macs = {name: benchmark.backbone_macs(model_of(name).backbone, (32, 32))
            for name in benchmark.VARIANTS}
    assert macs['svite'] == macs['static'] == macs['magnitude'] == macs['dense']
    assert macs['svite+'] < macs['dropped 0.7']
    small = benchmark.Classifier(benchmark.VARIANTS['s2vite'], compacted=True)
    assert benchmark.backbone_macs(small.backbone, (32, 32)) < .7 * macs['dense']
    assert macs['copy 0.5'] < macs['representative 0.5'] < macs['copy 0.7'] < macs['dense']
    dense = model_of('dense')
    for name in ('representative 0.5', 'copy 0.5', 'dropped 0.5'):
        sparse = model_of(name)
        sparse.load_state_dict(dense.state_dict())
        assert not torch.allclose(sparse(inputs)[0], dense(inputs)[0])
        sparse.backbone.sparsity = [0, 0] if name.startswith('dropped') else [0] * 9
        torch.testing.assert_close(sparse(inputs), dense(inputs))


@pytest.mark.parametrize('kind', ['svite', 'static', 'magnitude'])
def test_half_of_the_weights_are_left_and_only_svite_moves_them(kind):
    model = model_of('dense')
    optimizer = torch.optim.AdamW(model.parameters(), .01)
    sparse = sparse_weights.SparseWeights(model, kind, 20, seed=0)
    seen = []
    for i in range(1, 21):
        logits = model(torch.randn(4, 3, 32, 32))
        optimizer.zero_grad()
        sum(x.square().sum() for x in logits).backward()
        sparse.begin(i)
        sparse.step(i, optimizer)
        if sparse.masks is not None:
            assert not sparse.masks.outside()
            assert sparse.masks.density == pytest.approx(sparse_weights.DENSITY, abs=1e-3)
            seen.append(sparse.masks.digest())
    assert len(seen) == (6 if kind == 'magnitude' else 20)
    assert (len(set(seen)) > 1) == (kind == 'svite')
    assert len(set(seen[-5:])) == 1  # the rest of the training settles


def test_svite_plus_keeps_its_tokens_for_good_by_a_selector_that_trains(images):
    model, inputs = model_of('svite+').train(), benchmark.normalised(images)
    sum(logits.square().sum() for logits in model(inputs)).backward()
    assert model.backbone.selector.weight.grad.abs().sum() > 0
    with model.backbone.recording() as maps:
        model.eval().backbone(inputs)
    ran = torch.stack([m.flatten(1) for stage in maps for m in stage])
    assert len(ran) == 9 and (ran == ran[0]).all() and (ran[0].sum(1) == int(64 * .7)).all()


def test_s2vite_masks_units_that_move_and_counts_what_compaction_leaves():
    model = model_of('s2vite').train()
    optimizer = torch.optim.AdamW(model.parameters(), .01)
    sparse, seen = sparse_weights.SparseUnits(model, 20), []
    for i in range(1, 21):
        sparse.begin(i)
        logits = model(torch.randn(4, 3, 32, 32))
        optimizer.zero_grad()
        sum(x.square().sum() for x in logits).backward()
        sparse.step(i, optimizer)
        assert not sparse.masks.outside()
        seen.append({name: mask.clone() for name, mask in sparse.masks.masks.items()})
    kept = {name.rsplit('.')[-1]: int(mask.sum()) for name, mask in seen[-1].items()}
    assert kept == dict(heads=2, neurons=153)
    for kind in kept:
        assert len({b''.join(mask.numpy().tobytes() for name, mask in masks.items()
                             if name.endswith(kind)) for masks in seen}) > 1, kind
    assert all(torch.equal(mask, seen[-5][name]) for name, mask in seen[-1].items())
    small = benchmark.Classifier(benchmark.VARIANTS['s2vite'], compacted=True)
    assert small.backbone.layers[0].attn.attn.num_heads == 2
    assert small.backbone.layers[8].ffn.feedforward_channels == 153
    assert .5 < benchmark.density(model, small) < .6


def test_a_training_sets_the_temperature(images, monkeypatch):
    taus = []
    monkeypatch.setattr(benchmark, 'BATCH', 2)
    monkeypatch.setattr(benchmark.Classifier, 'forward', lambda self, x: (
        taus.append(self.backbone.selector.tau), 2 * [self.head(self.norm.weight)[None].repeat(
            len(x), 1)])[1])
    monkeypatch.setattr(sparse_weights.WeightMasks, 'drop_and_grow', lambda *_: 0)
    benchmark.train(benchmark.VARIANTS['svite+'], 0, 3, images, torch.zeros(4, dtype=torch.long))
    assert taus == pytest.approx(np.linspace(10, .1, 6))


def test_magnitude_keeps_the_largest():
    mask = sparse_weights.largest(torch.tensor([[1., -4.], [-3., 2.]]), 2)
    assert mask.tolist() == [[False, True], [True, False]]


def test_augmentation_moves_by_at_most_four_pixels_and_flips(images):
    images[:, :, 16, 16] = 255
    images[:] = torch.where(images == 255, images, images // 2)
    moved = augmented(images.repeat(16, 1, 1, 1), torch.Generator().manual_seed(0))
    assert moved.shape == (64, 3, 32, 32) and moved.dtype == torch.uint8
    places = [(m.sum(0) == 765).nonzero() for m in moved]
    assert all(len(p) == 1 and (p[0] - 16).abs().max() <= 5 for p in places)
    assert len({tuple(p[0].tolist()) for p in places}) > 20


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    for part, number in (('train', 13), ('test', 2)):
        for label in range(benchmark.CLASSES):
            folder = tmp_path / 'data' / part / f'class{label}'
            folder.mkdir(parents=True)
            for i in range(number):
                cv2.imwrite(str(folder / f'{i:02}.png'),
                            rng.integers(256, size=(32, 32, 3), dtype=np.uint8))
    return tmp_path / 'data'


def test_images_are_the_first_of_each_class(data, tmp_path):
    images, labels = read_images(data / 'train', tmp_path / 'cache.npz', 3)
    assert images.shape == (30, 3, 32, 32) and labels.bincount().tolist() == [3] * 10
    assert (images[4].permute(1, 2, 0).numpy()[..., ::-1]
            == cv2.imread(str(data / 'train/class1/01.png'))).all()
    with pytest.raises(FileNotFoundError, match='nowhere'):
        read_images(tmp_path / 'nowhere', tmp_path / 'other.npz', 3)
    (data / 'train/class2/00.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match='class2/00.png .*32x32'):
        read_images(data / 'train', tmp_path / 'other.npz', 3)


def run(monkeypatch, data, out, *options):
    monkeypatch.setattr(sys, 'argv', ['classification.py', str(data), '--out', str(out), '--seeds',
                                      '0', '--epochs', '1', '--variants', *options])
    benchmark.main()


def test_a_run_goes_on_and_results_of_other_schedules_are_refused(
        data, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'out'
    run(monkeypatch, data, out, 'dense')
    first = out / 'dense_seed0.json'
    made = first.stat().st_mtime_ns
    run(monkeypatch, data, out, 'dense', 'copy 0.5')
    assert first.stat().st_mtime_ns == made and (out / 'copy_0.5_seed0.json').exists()
    record = json.loads(first.read_text())
    hits = benchmark.hits_of(first)
    assert len(hits) == 20 and record['accuracy'] == pytest.approx(100 * hits.mean())
    assert 'copy 0.5' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='was trained for 1 epochs, not 2'):
        run(monkeypatch, data, out, 'dense', '--epochs', '2')
    assert first.stat().st_mtime_ns == made


def test_intervals_are_of_paired_differences():
    rng = np.random.default_rng(0)
    one = [rng.random(400) < .6 for _ in range(2)]
    gain, low, high = benchmark.interval(one, one)
    assert gain == low == high == 0
    worse = [hits & (rng.random(400) < .9) for hits in one]
    gain, low, high = benchmark.interval(worse, one)
    assert low < gain < high < 0
    assert gain == pytest.approx(100 * (np.mean(worse) - np.mean(one)))
