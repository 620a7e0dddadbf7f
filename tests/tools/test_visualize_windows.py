import mmcv
import numpy as np
import pytest
from helpers import refused, run_tool
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trained import Trained

from sparsevit_mm.config.reading import load_config
from sparsevit_mm.visualization.ground_truth import find_ground_truths
from sparsevit_mm.visualization.inference import FileInferencer

HOOKED = '''
_base_ = ['{base}']
custom_imports = dict(imports=['sparsevit_mm', 'sparsevit_mm.visualization'])
custom_hooks = [
    dict(type='SparsityAdaptationHook', val_sparsity={{'dense': 0, '60%': 0.6}}),
    dict(type='KeptWindowsHook', num_images=3)]
visualizer = dict(vis_backends=[dict(type='TensorboardVisBackend')])
val_dataloader = dict(batch_size=2)
'''


def images_of(tiny: Trained):
    return sorted((tiny.data / 'test2017').glob('*.jpg'))


def height_of(columns: int) -> int:
    """Of a panel of square pictures beside each other."""
    return round(100 * (.24 * 1.3 + .27 + .13 + .42 + (10 - .15) / columns - .15))


def test_an_image_with_and_one_without_ground_truth_are_drawn(tiny, tmp_path):
    inside = images_of(tiny)[0]
    stranger = tmp_path / inside.name  # of the same name: neither may overwrite the other
    mmcv.imwrite(mmcv.imread(inside)[::-1].copy(), str(stranger))
    done = run_tool('visualize_windows', tiny.config, tiny.checkpoint, inside, stranger, '--out',
                    tmp_path / 'out', '--sparsity', .5, '--device', 'cpu')
    assert done.code == 0, done.error
    name = inside.stem
    drawn = {p.name: mmcv.imread(p) for p in (tmp_path / 'out').iterdir()}
    assert sorted(drawn) == sorted(f'{name}{number}_{kind}.png' for number in ('', '-2')
                                   for kind in ('panel', 'windows'))
    assert drawn[f'{name}_panel.png'].shape[:2] == pytest.approx((height_of(3), 1000), abs=1)
    assert drawn[f'{name}-2_panel.png'].shape[:2] == pytest.approx((height_of(2), 1000), abs=1)
    assert not np.array_equal(drawn[f'{name}_windows.png'], drawn[f'{name}-2_windows.png'])
    assert [line.split(':')[0] for line in done.output.splitlines()
            if 'no ground truth' in line] == [str(stranger)]


def test_ground_truth_of_detection_is_in_the_image_s_own_pixels(tiny):
    """The pipelines of `tiny` resize after they load annotations."""
    cfg = load_config(str(tiny.config))
    options = {f'{split}_dataloader.dataset.pipeline.2.scale': (128, 128)
               for split in ('train', 'val', 'test')}
    cfg.merge_from_dict(options)
    model = FileInferencer(cfg, str(tiny.checkpoint)).model
    path = str(images_of(tiny)[0])
    truth = find_ground_truths(cfg, [path], model)[path].gt_instances
    height, width = mmcv.imread(path).shape[:2]
    assert len(truth) and truth.masks.masks.shape[1:] == (height, width)
    for box, mask in zip(truth.bboxes.tolist(), truth.masks.masks):
        rows, cols = np.nonzero(mask)
        hull = cols.min(), rows.min(), cols.max() + 1, rows.max() + 1
        assert box == pytest.approx(hull, abs=2)


@pytest.mark.slow
def test_training_hands_panels_with_ground_truth_to_tensorboard(tiny, tmp_path):
    (tmp_path / 'hooked.py').write_text(HOOKED.format(base=tiny.config))
    done = run_tool('train', tmp_path / 'hooked.py', '--work-dir', tmp_path / 'work',
                    **tiny.options)
    assert done.code == 0, done.error
    events = EventAccumulator(str(next(tmp_path.glob('work/*/vis_data/events*'))),
                              size_guidance=dict(images=0))
    events.Reload()
    assert sorted(events.Tags()['images']) == [f'val_kept_windows_{i}' for i in range(3)]
    for tag in events.Tags()['images']:
        (image, ) = events.Images(tag)
        panel = mmcv.imfrombytes(image.encoded_image_string)
        assert image.step == 2 and panel.shape[0] == pytest.approx(height_of(3), abs=1)


def test_bad_input_is_named_before_anything_is_drawn(tiny, tmp_path):
    image, out = images_of(tiny)[0], tmp_path / 'out'
    files = tiny.config, tiny.checkpoint

    def message(*arguments, **options):
        return refused('visualize_windows', *arguments, '--out', out, **options)

    assert 'a.jpg, b.jpg' in message(*files, image, 'a.jpg', 'b.jpg')
    assert 'checkpoint nowhere.pth' in message(tiny.config, 'nowhere.pth', image)
    assert 'nowhere.py' in message('nowhere.py', tiny.checkpoint, image)
    assert f'{tiny.config}' in message(*files, tiny.config)  # no image
    assert 'stage 0, block 1' in message(*files, image, '--sparsity', '[[.6,.1],0,0,0]')
    assert "device 'nonsense'" in message(*files, image, '--device', 'nonsense')
    assert '0 sparse backbones' in message(
        *files, image, model__backbone__type='SwinTransformer')
    assert 'does not fit' in message(*files, image, model__neck__out_channels=32)
    assert not out.exists()
    out.write_text('a file')
    assert 'is a file' in message(*files, image)
    assert out.read_text() == 'a file'
