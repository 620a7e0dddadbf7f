"""BEVDet's augmentation of the camera images, with the matrix that maps their pixels."""
import math
from typing import List, NamedTuple, Tuple, Union

import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmdet3d.registry import TRANSFORMS


class Draw(NamedTuple):
    """Random parameters of one camera."""
    resize: float  # added to the factor that fits the width
    crop: float  # horizontal position of the crop, from 0 (left) to 1 (right)
    flip: bool
    rotate: float  # degrees, counterclockwise as displayed


@TRANSFORMS.register_module()
class ImageAugmentation(BaseTransform):
    """Resize, crop, flip and rotate each camera's image: the image space augmentation of BEVDet
    (arXiv 2112.11790, section 3.3), drawn independently for each camera.

    The resize factor is (width of ``size``) / (stored width) + ``resize``. The crop keeps the
    bottom rows. The rotation is about the centre of the crop. Pixels from outside the resized image
    or the crop are black. The defaults are those of testing; for training use::

        ImageAugmentation(
            size, resize=(-0.06, 0.11), random_crop=True, flip=0.5, rotate=5.4)

    Required keys: ``img`` (list of V uint8 images (H, W, 3)).

    Modified keys: ``img``, ``img_shape``. ``cam2img`` remains that of the stored image.

    Added key: ``img_aug_matrix`` (ndarray), (V, 3, 3) float64, maps homogeneous pixels (u, v, 1) of
    the stored image to those of the augmented one. Pixel centres are at integers.

    Args:
        size (tuple[int, int]): Height and width of the result in pixels.
        resize (float | tuple[float, float]): Value added to the resize factor, or the range of a
            uniform draw of it.
        random_crop (bool): Whether to crop at a random horizontal position instead of the centre.
        flip (float): Probability of a horizontal flip.
        rotate (float): Maximum rotation in degrees; the angle is uniform in [-rotate, rotate].

    Raises:
        ValueError: If ``flip`` is not a probability, ``resize`` is not a number or range, or the
            resized image has no pixels.
    """

    def __init__(self,
                 size: Tuple[int, int],
                 resize: Union[float, Tuple[float, float]] = 0.04,
                 random_crop: bool = False,
                 flip: float = 0.,
                 rotate: float = 0.) -> None:
        self.size = tuple(size)
        self.resize = (resize, resize) if isinstance(resize, (int, float)) else tuple(resize)
        self.random_crop = random_crop
        self.flip = flip
        self.rotate = rotate
        if len(self.resize) != 2 or self.resize[0] > self.resize[1]:
            raise ValueError(f'resize must be a number or (low, high), got {resize}')
        if not 0 <= flip <= 1:
            raise ValueError(f'flip must be a probability, got {flip}')

    @cache_randomness
    def draw(self, num_cameras: int) -> List[Draw]:
        """Draw the parameters of each camera independently, from numpy's global generator."""
        return [
            Draw(
                resize=np.random.uniform(*self.resize),
                crop=np.random.uniform() if self.random_crop else 0.5,
                flip=np.random.uniform() < self.flip,
                rotate=np.random.uniform(-self.rotate, self.rotate))
            for _ in range(num_cameras)
        ]

    def transform(self, results: dict) -> dict:
        draws = self.draw(len(results['img']))
        augmented = [augment(image, self.size, draw) for image, draw in zip(results['img'], draws)]
        results['img'] = [image for image, _ in augmented]
        results['img_aug_matrix'] = np.stack([matrix for _, matrix in augmented])
        results['img_shape'] = self.size
        return results

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(size={self.size}, resize={self.resize}, '
                f'random_crop={self.random_crop}, flip={self.flip}, rotate={self.rotate})')


def augment(image: np.ndarray, size: Tuple[int, int], draw: Draw) -> Tuple[np.ndarray, np.ndarray]:
    """Augment one image. Return it, (*size, 3) uint8, and its matrix, (3, 3) float64."""
    (height, width), (stored_height, stored_width) = size, image.shape[:2]
    factor = width / stored_width + draw.resize
    # Rounded down as published. The epsilon absorbs rounding errors: 1600 * (912 / 1600) is 912.
    new_width = math.floor(stored_width * factor + 1e-6)
    new_height = math.floor(stored_height * factor + 1e-6)
    if min(new_width, new_height) < 1:
        raise ValueError(f'resizing by {factor:.3f} leaves no pixels of a {stored_height}x'
                         f'{stored_width} image')
    left = int(draw.crop * max(0, new_width - width))
    top = new_height - height  # negative if the image is too short: adds black rows on top
    crop = affine(new_width / stored_width, new_height / stored_height, -left, -top)
    turn = flip_and_rotate(size, draw)

    # Bilinear interpolation alone would skip pixels of the stored image at these factors.
    image = mmcv.imresize(image, (new_width, new_height), interpolation='area', backend='cv2')
    window = np.array([left, top, left + width - 1, top + height - 1])
    image = mmcv.imcrop(image, window, pad_fill=0)
    return cv2.warpAffine(image, turn[:2], (width, height)), turn @ crop


def affine(scale_x: float, scale_y: float, left: float, top: float) -> np.ndarray:
    """Return the matrix of a resize, which scales about the image corner (-0.5, -0.5), followed by
    a shift."""
    return np.array([[scale_x, 0, 0.5 * scale_x - 0.5 + left],
                     [0, scale_y, 0.5 * scale_y - 0.5 + top],
                     [0, 0, 1]])


def flip_and_rotate(size: Tuple[int, int], draw: Draw) -> np.ndarray:
    """Return the matrix of a horizontal flip followed by a rotation about the image centre."""
    height, width = size
    flip = np.diag([-1., 1., 1.]) if draw.flip else np.eye(3)
    flip[0, 2] = width - 1 if draw.flip else 0
    rotation = np.eye(3)
    rotation[:2] = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), draw.rotate, 1)
    return rotation @ flip
