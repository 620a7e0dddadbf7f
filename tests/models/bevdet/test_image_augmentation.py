import cv2
import numpy as np
import pytest

pytest.importorskip('mmdet3d')
from mmcv.transforms.utils import cache_random_params  # noqa: E402

from sparsevit_mm.models.bevdet.image_augmentation import (  # noqa: E402
    Draw, ImageAugmentation, augment)

STORED = (900, 1600)
SIZE = (256, 704)
TRAINING = dict(resize=(-0.06, 0.11), random_crop=True, flip=0.5, rotate=5.4)
# Resized height and width, first row and column kept when testing (SparseViT, table 2).
PUBLISHED = {
    (256, 704): (432, 768, 176, 32),
    (288, 792): (481, 856, 193, 32),
    (224, 616): (382, 680, 158, 32),
    (192, 528): (333, 592, 141, 32),
}


def move(matrix, points):
    """Points (N, 2) moved by a homogeneous matrix."""
    return np.c_[points, np.ones(len(points))] @ matrix[:2].T


def speckled(rng, shape=STORED, spacing=100):
    """A black image with bright blobs, and their centres (N, 2) in fractions of pixels."""
    height, width = shape
    grid = np.stack(np.meshgrid(*(np.arange(spacing / 2, end, spacing) for end in (width, height))))
    centres = grid.reshape(2, -1).T + rng.uniform(-15, 15, (grid[0].size, 2))
    image = np.zeros((*shape, 3), np.uint8)
    for centre in centres:
        left, top = np.round(centre).astype(int) - 30
        v, u = np.indices((61, 61))
        squares = (u + left - centre[0])**2 + (v + top - centre[1])**2
        image[top:top + 61, left:left + 61] = (255 * np.exp(-squares / 72)).round()[..., None]
    return image, centres


def centroid(image, point, radius):
    """Centre of brightness around a point, (u, v); NaN where the image is dark."""
    corner = np.round(point).astype(int) - radius
    patch = image[corner[1]:, corner[0]:][:2 * radius + 1, :2 * radius + 1, 0].astype(float)
    v, u = np.indices(patch.shape)
    return corner + np.array([(patch * u).sum(), (patch * v).sum()]) / patch.sum()


def visible(points, size, margin):
    return ((points >= margin) & (points <= np.array(size[::-1]) - 1 - margin)).all(1)


@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize('size', [(256, 704), (192, 528)])
def test_the_matrix_says_where_every_pixel_went(size, seed):
    image, centres = speckled(np.random.default_rng(seed))
    augmentation = ImageAugmentation(size, **TRAINING)
    np.random.seed(seed)
    results = augmentation(dict(img=[image]))
    np.random.seed(seed)
    lit = augmentation(dict(img=[np.full_like(image, 255)]))['img'][0]
    lit = cv2.erode(lit[..., 0], np.ones((27, 27)))  # all of a blob's surroundings are there

    expected = move(results['img_aug_matrix'][0], centres)
    expected = expected[visible(expected, size, 14)]
    u, v = expected.round().astype(int).T
    expected = expected[lit[v, u] == 255]
    assert len(expected) > 30
    found = np.array([centroid(results['img'][0], point, 13) for point in expected])
    assert np.abs(found - expected).max() < 0.05  # half a pixel in the resize would be 0.28


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('extra', [-0.06, 0., 0.11])
@pytest.mark.parametrize('degrees', [-5.4, 0., 5.4])
def test_black_is_what_comes_from_outside_the_image_or_the_crop(flip, extra, degrees):
    white = np.full((90, 160, 3), 255, np.uint8)
    size = (26, 70)
    image, matrix = augment(white, size, Draw(extra, 0.3, flip, degrees))
    crop = augment(white, size, Draw(extra, 0.3, False, 0.))[1]

    v, u = np.indices(size).reshape(2, -1)
    stored = move(np.linalg.inv(matrix), np.c_[u, v])
    cropped = move(crop, stored)

    def inside(margin):
        # The margin: interpolation blends across the border within one pixel.
        return visible(stored, (90, 160), 2 * margin) & visible(cropped, size, margin)

    pixels = image.reshape(-1, 3)
    assert (pixels[inside(1.1)] == 255).all() and (pixels[~inside(-1.1)] == 0).all()
    assert (~inside(-1.1)).any() == (degrees != 0 or extra < 0)


@pytest.mark.parametrize('flip, turned', [(False, (5 * 3**.5, -5)), (True, (-5 * 3**.5, 5))])
def test_a_flip_and_then_a_counter_clockwise_turn_about_the_centre(flip, turned):
    matrix = augment(np.zeros((90, 160, 3), np.uint8), (90, 160), Draw(0., 0., flip, 30.))[1]
    centre, right = move(matrix, np.array([[79.5, 44.5], [89.5, 44.5]]))
    assert np.allclose(centre, [79.5, 44.5])
    assert np.allclose(right - centre, turned)  # v grows downwards


def test_a_whole_number_of_pixels_stays_whole():
    white = np.full((90, 1600, 3), 255, np.uint8)
    assert (augment(white, (51, 912), Draw(0., 0., False, 0.))[0] == 255).all()  # 911.99...


@pytest.mark.parametrize('size', PUBLISHED)
def test_testing_takes_the_published_window(size):
    height, width, top, left = PUBLISHED[size]
    stored = speckled(np.random.default_rng(0))[0]
    results = ImageAugmentation(size)(dict(img=[stored] * 2))
    resized = cv2.resize(stored, (width, height), interpolation=cv2.INTER_AREA)
    expected = resized[top:, left:left + size[1]]
    assert expected.shape == (*size, 3) and results['img_shape'] == size
    for image, matrix in zip(results['img'], results['img_aug_matrix']):
        assert image.dtype == np.uint8 and np.array_equal(image, expected)
        # Corners of pixels, not centres, meet: the bottom edge stays the bottom edge.
        assert np.allclose(move(matrix, np.array([[-.5, 899.5]])), [[-left - .5, size[0] - .5]])
        assert np.allclose(np.diag(matrix), [width / 1600, height / 900, 1])


def test_a_flip_alone_reverses_the_columns():
    stored = np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)
    plain, mirrored = [augment(stored, (26, 70), Draw(.04, .5, flip, 0.))[0] for flip in (0, 1)]
    assert np.array_equal(mirrored, plain[:, ::-1])


@pytest.mark.parametrize('size', PUBLISHED)
def test_training_gives_images_of_the_size_asked_for(size):
    results = ImageAugmentation(size, **TRAINING)(
        dict(img=[np.zeros((*STORED, 3), np.uint8)] * 3, cam2img='as stored'))
    assert [image.shape for image in results['img']] == [(*size, 3)] * 3
    assert results['img_aug_matrix'].shape == (3, 3, 3)
    assert results['img_aug_matrix'].dtype == np.float64
    assert results['cam2img'] == 'as stored'


def test_testing_is_deterministic_and_training_is_not():
    image = np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)

    def twice(**kwargs):
        augmentation = ImageAugmentation((26, 70), **kwargs)
        return [augmentation(dict(img=[image]))['img_aug_matrix'] for _ in range(2)]

    assert np.array_equal(*twice())
    for name, value in TRAINING.items():  # each of them alone
        assert name == 'flip' or not np.array_equal(*twice(**{name: value}))


def test_equal_seeds_give_equal_images():
    image = np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)
    runs = []
    for _ in range(2):
        np.random.seed(5)
        runs.append(ImageAugmentation((26, 70), **TRAINING)(dict(img=[image] * 2)))
    assert np.array_equal(runs[0]['img'], runs[1]['img'])


def test_draws_fill_the_published_ranges_camera_by_camera():
    augmentation = ImageAugmentation(SIZE, **TRAINING)
    resize, crop, flip, rotate = np.array(augmentation.draw(4000), dtype=float).T
    for values, low, high in [(resize, -.06, .11), (crop, 0, 1), (rotate, -5.4, 5.4)]:
        assert low <= values.min() < low + .01 * (high - low)
        assert high >= values.max() > high - .01 * (high - low)
    assert abs(flip.mean() - .5) < .05
    assert np.abs(np.corrcoef([resize, crop, flip, rotate]) - np.eye(4)).max() < .06


def test_cached_draws_augment_two_frames_alike():
    augmentation = ImageAugmentation((26, 70), **TRAINING)
    frames = [dict(img=[np.zeros((90, 160, 3), np.uint8)] * 2) for _ in range(2)]
    with cache_random_params(augmentation):
        first, second = [augmentation(frame)['img_aug_matrix'] for frame in frames]
    assert np.array_equal(first, second) and not np.array_equal(first[0], first[1])


def test_an_image_lower_than_the_crop_has_black_above_it():
    white = np.full((20, 160, 3), 255, np.uint8)
    image, matrix = augment(white, (30, 80), Draw(0., 0.5, False, 0.))
    assert (image[:20] == 0).all() and (image[20:] == 255).all()
    assert np.allclose(move(matrix, np.array([[-.5, -.5]])), [[-.5, 19.5]])


@pytest.mark.parametrize('kwargs', [
    dict(flip=1.5), dict(flip=-.1), dict(resize=(.1, -.1)), dict(resize=(.1, ))])
def test_bad_arguments_are_refused(kwargs):
    with pytest.raises(ValueError, match='must be'):
        ImageAugmentation(SIZE, **kwargs)


def test_a_factor_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match='resizing .*90x160'):
        ImageAugmentation((36, 64), resize=-.5)(dict(img=[np.zeros((90, 160, 3), np.uint8)]))
