"""Loading of a frame's camera images and their calibration."""
from typing import Optional, Sequence, Tuple

import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet3d.registry import TRANSFORMS
from mmengine.fileio import get

NUSCENES_CAMERAS = ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK',
                    'CAM_BACK_RIGHT')


@TRANSFORMS.register_module()
class LoadCameras(BaseTransform):
    """Load the images of a frame's V cameras, in the order of ``cameras``, and their calibration.

    Differs from mmdet3d's LoadMultiViewImageFromFiles, which uses the order of the info file,
    ignores missing cameras, and pads images of different sizes.

    Required keys: ``images`` (from mmdet3d's v2 infos: per camera ``img_path``, ``cam2img``,
    ``lidar2cam``) and ``token``, for error messages.

    Added keys:

    - ``img`` (list[ndarray]): V images (H, W, 3), uint8, BGR.
    - ``cam2img`` (ndarray): (V, 3, 3) float64, intrinsics of the images as stored; pixel centres
      are at integers.
    - ``lidar2cam`` (ndarray): (V, 4, 4) float64, points in metres.
    - ``cameras`` (tuple[str]), ``img_path`` (list[str]), ``img_shape`` and ``ori_shape`` (H, W).

    Args:
        image_size (tuple[int, int]): Height and width of the calibrated images in pixels.
        cameras (Sequence[str]): Cameras to load; nuScenes' six by default.
        backend_args (dict, optional): Arguments of mmengine's file backend.

    Raises:
        ValueError: If a camera is missing from the frame; if its calibration is missing, not
            finite, of the wrong shape, not a pinhole camera or not a rigid transform; or if its
            image cannot be read or has a different size.
        FileNotFoundError: If an image does not exist.
    """

    def __init__(self,
                 image_size: Tuple[int, int],
                 cameras: Sequence[str] = NUSCENES_CAMERAS,
                 backend_args: Optional[dict] = None) -> None:
        self.image_size = tuple(image_size)
        self.cameras = tuple(cameras)
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        views = results.get('images', {})
        images, paths, cam2img, lidar2cam = [], [], [], []
        for camera in self.cameras:
            where = f'sample {results["token"]}, {camera}'
            if camera not in views:
                raise ValueError(f'{where}: camera not in the frame, which has {sorted(views)}')
            view = views[camera]
            cam2img.append(_intrinsics(view.get('cam2img'), where))
            lidar2cam.append(_rigid_motion(view.get('lidar2cam'), where))
            paths.append(view.get('img_path'))
            images.append(self._read(paths[-1], where))
        results.update(
            img=images,
            img_path=paths,
            cameras=self.cameras,
            cam2img=np.stack(cam2img),
            lidar2cam=np.stack(lidar2cam),
            img_shape=self.image_size,
            ori_shape=self.image_size)
        return results

    def _read(self, path: Optional[str], where: str) -> np.ndarray:
        """Read the image at a path, (H, W, 3), uint8, BGR."""
        if path is None:
            raise ValueError(f'{where}: img_path is missing')
        try:
            content = get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'{where}: {path} does not exist') from error
        except OSError as error:
            raise ValueError(f'{where}: {path} cannot be read: {error}') from error
        try:
            # cv2 returns None for a truncated file. The calibration ignores orientation tags.
            image = mmcv.imfrombytes(content, flag='color_ignore_orientation', backend='cv2')
        except cv2.error:  # the file is empty
            image = None
        if image is None:
            raise ValueError(f'{where}: {path} is truncated or not an image')
        if image.shape[:2] != self.image_size:
            height, width = image.shape[:2]
            raise ValueError(f'{where}: {path} has {height}x{width} pixels, but the calibration '
                             'is for {}x{}'.format(*self.image_size))
        return image

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(image_size={self.image_size}, cameras={self.cameras}, '
                f'backend_args={self.backend_args})')


def _matrix(value, name: str, sizes: Sequence[int], where: str) -> np.ndarray:
    """Check and return a finite square float64 matrix of one of the sizes, whose last row is that
    of an identity matrix."""
    if value is None:
        raise ValueError(f'{where}: {name} is missing')
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{where}: {name} is not a matrix: {value}') from error
    if matrix.shape not in [(size, size) for size in sizes]:
        raise ValueError(f'{where}: {name} has shape {matrix.shape}, not '
                         + ' or '.join(f'{size}x{size}' for size in sizes))
    if not np.isfinite(matrix).all():
        raise ValueError(f'{where}: {name} is not finite: {matrix.tolist()}')
    if not np.array_equal(matrix[-1], np.eye(len(matrix))[-1]):
        raise ValueError(f'{where}: the last row of {name} is {matrix[-1].tolist()}, not that of '
                         'an identity matrix')
    return matrix


def _intrinsics(value, where: str) -> np.ndarray:
    """Check and return the (3, 3) matrix of a pinhole camera, which may be padded to (4, 4)."""
    matrix = _matrix(value, 'cam2img', (3, 4), where)
    padding = matrix[:3, 3:]
    matrix = matrix[:3, :3]
    if padding.any() or not np.array_equal(matrix[2], [0, 0, 1]) or np.diag(matrix).min() <= 0:
        raise ValueError(f'{where}: cam2img is not a pinhole camera: {np.array(value).tolist()}')
    return matrix


def _rigid_motion(value, where: str) -> np.ndarray:
    """Check and return a (4, 4) matrix of a rotation and a translation."""
    matrix = _matrix(value, 'lidar2cam', (4, ), where)
    rotation = matrix[:3, :3]
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
        raise ValueError(f'{where}: lidar2cam is not a rigid transform: {matrix.tolist()}')
    return matrix
