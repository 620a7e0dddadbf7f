"""Frames of six cameras: the windows of each view, boxes, what is refused."""
import pickle
import re

import mmcv
import numpy as np
import pytest
import torch
from helpers import ROOT, refused, run_tool
from mmdet3d.registry import MODELS
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

from sparsevit_mm.config.reading import load_config, set_sparsity
from generators import generate_mini_nuscenes
from sparsevit_mm.sparsity import kept_windows
from sparsevit_mm.visualization.camera_budget import Budget, budget_of, correlation, draw_budgets
from sparsevit_mm.visualization.camera_panel import GROUND_TRUTH, PREDICTION, View
from sparsevit_mm.visualization.frames import SCORE, FrameInferencer, find_frames, open_test_split
from sparsevit_mm.visualization.overlay import Counts
from sparsevit_mm.visualization.windows import Placement, count_blocks

SIZE = 64, 192  # no stage pads its windows
CONFIG = '''
_base_ = ['{base}/demo/configs/bevdet_sparsevit-narrow_mini_nuscenes.py']
pipeline = [
    dict(type='LoadCameras', image_size=(99, 176)),
    dict(type='ImageAugmentation', size={size}, resize=0.04),
    dict(type='Pack3DDetInputs', keys=['img'], meta_keys={{{{_base_.meta_keys}}}})]
test_dataloader = dict(dataset=dict(data_root='{root}/test/', pipeline=pipeline))
'''


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Config and checkpoint of random weights, and the tokens of the two test frames."""
    folder = tmp_path_factory.mktemp('frames')
    root = generate_mini_nuscenes(folder / 'data', dict(train=1, val=2, test=2), (176, 99))
    config, checkpoint = folder / 'tiny.py', folder / 'random.pth'
    config.write_text(CONFIG.format(base=ROOT, root=root, size=SIZE))
    cfg = load_config(str(config))
    init_default_scope('mmdet3d')
    torch.manual_seed(0)
    state = MODELS.build(cfg.model).state_dict()
    for key, bias in state.items():
        if key.endswith('heatmap.1.bias'):
            bias -= 1.2  # so that some scores are high enough to be drawn
    torch.save(dict(state_dict=state), checkpoint)
    infos = pickle.loads((root / 'test/nuscenes_infos_val.pkl').read_bytes())['data_list']
    return config, checkpoint, [info['token'] for info in infos]


@pytest.fixture(scope='module')
def infer(files):
    cfg = load_config(str(files[0]))
    set_sparsity(cfg, .5)
    return FrameInferencer(cfg, str(files[1]), open_test_split(cfg))


@pytest.fixture(scope='module')
def frame(infer):
    return infer(1)


def test_a_picture_is_written_for_each_sample_by_token_or_position(files, tmp_path):
    config, checkpoint, (first, second) = files
    done = run_tool('visualize_windows', config, checkpoint, second, 0, 1, '--out',
                    tmp_path / 'out', '--sparsity', .6, '--device', 'cpu')
    assert done.code == 0, done.error
    drawn = {p.name: mmcv.imread(p) for p in (tmp_path / 'out').iterdir()}
    assert sorted(drawn) == sorted(f'{token}_windows.png' for token in (first, second))
    height = 500 * 64 / 192
    side = 2 * (27 + height) - 27
    for picture in drawn.values():
        assert picture.shape[:2] == pytest.approx(
            (31.2 + 2 * (27 + height) + 55, 3 * 515 + 30 + side), abs=1)
    assert not np.array_equal(*drawn.values())


def test_half_of_the_windows_of_each_view_run_at_half_sparsity(frame):
    assert len(frame.views) == 6
    for view in frame.views:
        for stage, window in zip(view.stages, (16, 32, 64)):
            total = SIZE[0] * SIZE[1] // window**2
            assert stage.run.shape == SIZE
            assert stage.run.sum() == stage.blocks * kept_windows(total, .5) * window**2


def test_windows_of_a_view_are_those_that_run_in_its_image_alone(infer, frame):
    packed = infer.dataset[1]
    images = infer.model.data_preprocessor(pseudo_collate([packed]))['inputs']['imgs'][0]
    for view, image in zip(frame.views, images):
        with torch.no_grad(), infer.backbone.recording() as maps:
            infer.backbone(image[None])
        alone = count_blocks(infer.backbone, maps, SIZE, Placement(SIZE))
        assert all(np.array_equal(a.run, b.run) for a, b in zip(view.stages, alone))
    first, *others = (view.stages[0].run for view in frame.views)
    assert not any(np.array_equal(first, other) for other in others)


def test_views_are_the_network_s_images_in_the_pipeline_s_order(infer, frame):
    packed = infer.dataset[1]
    meta = packed['data_samples'].metainfo
    assert [view.camera for view in frame.views] == [
        'CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK',
        'CAM_BACK_RIGHT']
    point = np.array([12., 3., 1., 1.])
    for index, view in enumerate(frame.views):
        assert view.camera in meta['img_path'][index]
        seen = packed['inputs']['img'][index].numpy().transpose(1, 2, 0)
        assert np.array_equal(view.image, mmcv.bgr2rgb(seen))
        stored = meta['cam2img'][index] @ (meta['lidar2cam'][index] @ point)[:3]
        u, v, _ = meta['img_aug_matrix'][index] @ (stored / stored[2])
        assert view.lidar2img @ point == pytest.approx(stored[2] * np.array([u, v, 1]))


def test_boxes_are_the_ground_truth_and_predictions_of_some_score(infer, frame):
    truth = infer.dataset.get_data_info(1)['eval_ann_info']['gt_bboxes_3d']
    assert len(truth) and np.allclose(frame.boxes[GROUND_TRUTH], truth.corners)
    with torch.no_grad():
        found = infer.model.test_step(pseudo_collate([infer.dataset[1]]))[0].pred_instances_3d
    good = found.bboxes_3d[found.scores_3d >= SCORE]
    assert 0 < len(good) < len(found) and np.allclose(frame.boxes[PREDICTION], good.corners)
    assert frame.area == ((-32, 32), (-32, 32))


def test_a_token_is_found_and_so_is_a_position(infer, files):
    tokens = files[2]
    assert find_frames(infer.dataset, [tokens[1], '0', '1']) == {tokens[1]: 1, tokens[0]: 0}
    with pytest.raises(ValueError, match='test split: 2, abc .* 0 to 1,'):
        find_frames(infer.dataset, ['2', tokens[0], 'abc'])


def test_bad_input_is_named_before_anything_is_drawn(files, tmp_path):
    config, checkpoint, (token, _) = files
    out = '--out', tmp_path / 'out'

    def message(*arguments, **options):
        return refused('visualize_windows', *arguments, *out, **options)

    assert 'unheard-of' in message(config, checkpoint, token, 'unheard-of')
    picture = tmp_path / 'a.jpg'
    mmcv.imwrite(np.zeros((8, 8, 3)), str(picture))
    assert 'sample tokens of this split' in (text := message(config, checkpoint, picture))
    assert f'{picture}' in text
    single = ROOT / 'demo/configs/mask_rcnn_sparsevit-narrow_mini_coco.py'
    assert f'no such image files: {token}' in message(single, checkpoint, token)
    assert ': test /nowhere' in message(
        config, checkpoint, token, test_dataloader__dataset__data_root='/nowhere/')
    assert 'nowhere.pth' in message(config, 'nowhere.pth', token)
    assert 'cameras' in message(
        config, checkpoint, token, test_dataloader__dataset__pipeline__2__meta_keys=(
            '[token,img_shape,box_type_3d,cam2img,lidar2cam,img_aug_matrix]'))
    assert not list(tmp_path.glob('out/*'))


def test_a_shared_budget_is_drawn_over_the_frames(files, tmp_path):
    config, checkpoint, tokens = files
    done = run_tool('visualize_windows', config, checkpoint, 0, 1, '--out', tmp_path, '--sparsity',
                    .6, '--device', 'cpu', '--budget', model__img_backbone__scope='group')
    assert done.code == 0, done.error
    assert re.search(r'budget.png; .* correlate by -?(0\.\d\d|nan)', done.output)
    assert mmcv.imread(tmp_path / 'budget.png').shape == (600, 1000, 3)


def test_equal_budgets_are_equal_shares_and_objects_are_counted_where_they_are_seen(infer):
    frames = [infer(i) for i in range(2)]
    for frame in frames:
        budget = budget_of(frame.views, frame.boxes)
        assert list(budget.shares.values()) == pytest.approx([1 / 6] * 6)
        assert list(budget.shares) == [view.camera for view in frame.views]
        middles = frame.boxes[GROUND_TRUTH].mean(1)
        for view in frame.views:
            number = 0
            for point in middles:
                u, v, depth = view.lidar2img @ [*point, 1]
                number += (depth > .1 and 0 <= u / depth <= SIZE[1]
                           and 0 <= v / depth <= SIZE[0])
            assert budget.objects[view.camera] == number
    assert np.isnan(correlation([budget_of(f.views, f.boxes) for f in frames]))


def test_shares_follow_what_ran_and_correlate_with_the_objects():
    def view(camera, run):
        stages = [Counts(f'stage {i}', np.full((4, 4), r), 2) for i, r in enumerate(run)]
        return View(camera, np.zeros((4, 4, 3), np.uint8), stages, np.zeros((3, 4)))

    budget = budget_of([view('a', (2, 1)), view('b', (0, 1))], {})
    assert budget.shares == {'a': .75, 'b': .25} and not budget.objects
    budgets = [Budget(dict(a=.7, b=.3), dict(a=5, b=1)), Budget(dict(a=.2, b=.8), dict(a=0, b=6))]
    assert correlation(budgets) > .99
    assert draw_budgets(budgets, 'title').shape == (600, 1000, 3)


def test_budgets_of_single_images_are_refused(tmp_path):
    message = refused('visualize_windows', 'demo/configs/mask_rcnn_sparsevit-narrow_mini_coco.py',
                      'none.pth', 'a.jpg', '--budget', '--out', tmp_path)
    assert '--budget' in message and 'cameras' in message
