import cv2
import numpy as np
import pytest

pytest.importorskip('mmdet3d')
from sparsevit_mm.models.bevdet.loading import NUSCENES_CAMERAS, LoadCameras  # noqa: E402

SIZE = (12, 20)
CAMERA = 'CAM_BACK_LEFT'


def rigid(seed):
    """A random rotation and translation."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.sign(np.linalg.det(rotation))
    matrix[:3, 3] = rng.normal(size=3)
    return matrix


@pytest.fixture
def frame(tmp_path):
    """An info whose cameras are in another order; the image of camera i is filled with i."""
    views = {}
    for i, camera in reversed(list(enumerate(NUSCENES_CAMERAS))):
        path = tmp_path / f'{camera}.png'
        cv2.imwrite(str(path), np.full((*SIZE, 3), i, np.uint8))
        cam2img = [[100. + i, 0., 10.], [0., 110. + i, 6.], [0., 0., 1.]]
        views[camera] = dict(
            img_path=str(path), cam2img=cam2img, lidar2cam=rigid(i).tolist())
    return dict(token='t0ken', sample_idx=7, images=views)


def fault(frame, error=ValueError):
    with pytest.raises(error) as caught:
        LoadCameras(SIZE)(frame)
    message = str(caught.value)
    assert message.startswith(f'sample t0ken, {CAMERA}: ')
    return message


def test_cameras_come_in_the_order_asked_for_with_their_own_calibration(frame):
    results = LoadCameras(SIZE)(frame)
    assert results['cameras'] == NUSCENES_CAMERAS
    assert [image.mean() for image in results['img']] == [0, 1, 2, 3, 4, 5]
    assert results['cam2img'][:, 0, 0].tolist() == [100, 101, 102, 103, 104, 105]
    assert np.array_equal(results['lidar2cam'], [rigid(i) for i in range(6)])
    assert [camera in path for camera, path in zip(NUSCENES_CAMERAS, results['img_path'])] == [
        True] * 6

    two = LoadCameras(SIZE, cameras=('CAM_BACK', 'CAM_FRONT'))(frame)
    assert [image.mean() for image in two['img']] == [4, 1]
    assert two['cam2img'].shape == (2, 3, 3) and two['cameras'] == ('CAM_BACK', 'CAM_FRONT')


def test_types_and_shapes(frame):
    results = LoadCameras(SIZE)(frame)
    assert {(image.shape, image.dtype.name) for image in results['img']} == {((*SIZE, 3), 'uint8')}
    assert results['cam2img'].shape == (6, 3, 3) and results['cam2img'].dtype == np.float64
    assert results['lidar2cam'].shape == (6, 4, 4) and results['lidar2cam'].dtype == np.float64
    assert results['img_shape'] == results['ori_shape'] == SIZE
    assert (results['token'], results['sample_idx']) == ('t0ken', 7)


def test_pixels_are_blue_green_red(frame):
    path = frame['images']['CAM_FRONT']['img_path']
    cv2.imwrite(path, np.full((*SIZE, 3), (10, 20, 30), np.uint8))
    assert LoadCameras(SIZE)(frame)['img'][1][0, 0].tolist() == [10, 20, 30]


def test_padded_intrinsics_are_the_same_intrinsics(frame):
    plain = LoadCameras(SIZE)(frame)['cam2img']
    for view in frame['images'].values():
        padded = np.eye(4)
        padded[:3, :3] = view['cam2img']
        view['cam2img'] = padded
    assert np.array_equal(LoadCameras(SIZE)(frame)['cam2img'], plain)


def test_missing_camera_is_named(frame):
    del frame['images'][CAMERA]
    assert 'not in the frame' in fault(frame)


def test_frame_without_cameras_is_refused(frame):
    del frame['images']
    with pytest.raises(ValueError, match='sample t0ken, CAM_FRONT_LEFT: .*not in the frame'):
        LoadCameras(SIZE)(frame)


@pytest.mark.parametrize('key', ['cam2img', 'lidar2cam', 'img_path'])
@pytest.mark.parametrize('drop', [True, False])
def test_missing_entry_is_named(frame, key, drop):
    if drop:
        del frame['images'][CAMERA][key]
    else:
        frame['images'][CAMERA][key] = None
    assert f'{key} is missing' in fault(frame)


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('key', ['cam2img', 'lidar2cam'])
def test_calibration_that_is_not_finite_is_refused(frame, key, value):
    frame['images'][CAMERA][key][0][2] = value
    assert f'{key} is not finite' in fault(frame)


@pytest.mark.parametrize('key, value', [
    ('cam2img', np.eye(3)[:2]), ('cam2img', np.eye(3)[0]), ('lidar2cam', np.eye(3)),
    ('lidar2cam', np.eye(4)[:3])])
def test_calibration_of_another_shape_is_refused(frame, key, value):
    frame['images'][CAMERA][key] = value.tolist()
    assert f'{key} has shape {value.shape}' in fault(frame)


@pytest.mark.parametrize('value', ['eye', [[1, 0], [0]]])
def test_calibration_that_is_no_matrix_is_refused(frame, value):
    frame['images'][CAMERA]['cam2img'] = value
    assert 'cam2img' in fault(frame)


@pytest.mark.parametrize('key', ['cam2img', 'lidar2cam'])
def test_last_row_must_be_that_of_an_identity(frame, key):
    frame['images'][CAMERA][key][-1][0] = 0.5
    assert f'the last row of {key}' in fault(frame)


@pytest.mark.parametrize('row, column, value', [(0, 3, 4.), (2, 0, .1), (0, 0, 0.), (1, 1, -9.)])
def test_intrinsics_of_no_pinhole_camera_are_refused(frame, row, column, value):
    matrix = np.diag([100., 100., 1., 1.])
    matrix[row, column] = value
    frame['images'][CAMERA]['cam2img'] = matrix
    assert 'cam2img is not a pinhole camera' in fault(frame)


@pytest.mark.parametrize('linear', [
    pytest.param(np.diag([100., 100., 1.]), id='lidar2img'),
    pytest.param(np.diag([1., 1., -1.]), id='mirror'),
    pytest.param(np.zeros((3, 3)), id='singular')])
def test_extrinsics_that_are_no_rigid_motion_are_refused(frame, linear):
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    frame['images'][CAMERA]['lidar2cam'] = matrix
    assert 'lidar2cam is not a rigid' in fault(frame)


def test_missing_file_is_named(frame):
    path = frame['images'][CAMERA]['img_path'] = frame['images'][CAMERA]['img_path'] + '.gone'
    assert path in fault(frame, FileNotFoundError)


def test_folder_in_place_of_a_file_is_named(frame, tmp_path):
    frame['images'][CAMERA]['img_path'] = str(tmp_path)
    assert f'{tmp_path} cannot be read' in fault(frame)


@pytest.mark.parametrize('share', [0., 0.1, 0.5, 0.95])
def test_truncated_jpeg_is_refused(frame, tmp_path, share):
    noise = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    content = cv2.imencode('.jpg', noise)[1].tobytes()
    path = tmp_path / 'cut.jpg'
    frame['images'][CAMERA]['img_path'] = str(path)
    path.write_bytes(content)
    LoadCameras(SIZE)(frame)
    path.write_bytes(content[:int(share * len(content))])
    assert f'{path} is truncated' in fault(frame)


def test_image_of_another_size_than_the_calibration_is_refused(frame):
    path = frame['images'][CAMERA]['img_path']
    cv2.imwrite(path, np.zeros((*SIZE[::-1], 3), np.uint8))
    message = fault(frame)
    assert f'{path} has 20x12 pixels' in message and '12x20' in message
