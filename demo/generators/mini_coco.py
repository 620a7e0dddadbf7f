"""A miniature COCO: generated images and annotations in COCO's on-disk layout.

Objects cover a small share of each image and the background is cluttered: the case that window
pruning is made for. ``mmdet.CocoDataset`` reads the data set, ``mmdet.CocoMetric`` scores it.
"""
import json
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import cv2
import numpy as np
from pycocotools import mask as mask_utils
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from .folder import check_counts, make_folder
from .shapes import OUTLINES, TEXTURES, ground, irregular, paint, place

# Part of the parameters that identify a data set; increase it when the images change.
VERSION = '1.0'
SPLITS = ('train', 'val', 'test')
# Maps each class, which is also the name of its outline, to the texture of its objects.
CLASS_TEXTURES = {
    'disk': 'stripes',
    'triangle': 'checks',
    'square': 'dots',
    'star': 'shade',
    'cross': 'holes',
}
CLASSES = tuple(CLASS_TEXTURES)
METAINFO = dict(
    classes=CLASSES,
    palette=[(220, 20, 60), (0, 125, 92), (60, 100, 216), (250, 170, 30), (160, 60, 200)])

# Ratios of the shorter to the longer side with mixed_shapes.
ASPECTS = (1 / 2, 2 / 3, 5 / 6)
# Range of the radius of objects, in shares of the longer side.
RADIUS = (0.07, 0.2)
CROWD_RADIUS = 0.035
# Share of the image area that all objects together may cover.
MAX_COVER = 0.3
CROWD_PROBABILITY = 0.12
# Share of an object that must stay visible: inside the image, and not covered by later objects.
MIN_VISIBLE = 0.4


Sides = Tuple[int, int]  # width and height of an image, in pixels


class Item(NamedTuple):
    """An object in an image: its full outline and the visible part, in pixels."""
    category: str
    outline: BaseGeometry
    visible: BaseGeometry
    iscrowd: bool = False


def _crowd(sides: Sides, category: str, rng: np.random.Generator) -> BaseGeometry:
    """Return the union of 9 to 14 small shapes of one class, close together, as a crowd region."""
    radius = CROWD_RADIUS * max(sides)
    middle = rng.uniform(0.2, 0.8, size=2) * sides
    centres = middle + rng.normal(scale=2.2 * radius, size=(rng.integers(9, 15), 2))
    members = [
        place(OUTLINES[category], centre, radius, rng) for centre in np.clip(centres, 0, sides)
    ]
    return unary_union(members)


def _polygons(shape: BaseGeometry) -> list:
    """Return the polygons of a geometry, without the points and lines that a cut may leave."""
    return [part for part in getattr(shape, 'geoms', [shape]) if part.geom_type == 'Polygon']


def _cover(items: List[Item], item: Item) -> List[Item]:
    """Return the items after one more is painted on top of them."""
    covered = [
        below._replace(visible=below.visible.difference(item.outline)) for below in items
    ]
    return covered + [item]


def _acceptable(items: List[Item], sides: Sides) -> bool:
    """Whether the items leave enough background, and enough of each is visible, in a form that COCO
    can store."""
    if sum(item.visible.area for item in items) > MAX_COVER * sides[0] * sides[1]:
        return False
    # COCO's polygons can not represent holes; its RLE, used for crowds, can.
    return all(item.visible.area >= MIN_VISIBLE * item.outline.area and (
        item.iscrowd or not any(polygon.interiors for polygon in _polygons(item.visible)))
               for item in items)


def _compose(sides: Sides, rng: np.random.Generator) -> List[Item]:
    """Draw items for one image, in painting order."""
    frame = box(0, 0, *sides)
    items = []
    if rng.random() < CROWD_PROBABILITY:
        category = str(rng.choice(CLASSES))
        outline = _crowd(sides, category, rng)
        items.append(Item(category, outline, outline.intersection(frame), iscrowd=True))
    wanted = len(items) + rng.integers(5, 13)
    # Reject placements that hide too much, and give up after 50 attempts.
    for _ in range(50):
        if len(items) == wanted:
            break
        category = str(rng.choice(CLASSES))
        radius = max(sides) * np.exp(rng.uniform(*np.log(RADIUS)))
        outline = place(OUTLINES[category], rng.uniform(0, sides), radius, rng)
        more = _cover(items, Item(category, outline, outline.intersection(frame)))
        if _acceptable(more, sides):
            items = more
    return items


def draw_image(sides: Sides, rng: np.random.Generator) -> Tuple[np.ndarray, List[Item]]:
    """Draw one image.

    Args:
        sides (tuple[int, int]): Width and height in pixels.
        rng (Generator): Source of all randomness.

    Returns:
        tuple[np.ndarray, list[Item]]: (height, width, 3) uint8 image, and its objects.
    """
    items = _compose(sides, rng)
    width, height = sides
    picture = ground(max(sides), rng)[:height, :width]
    for _ in range(rng.integers(1, 5)):
        radius = max(sides) * np.exp(rng.uniform(*np.log(RADIUS)))
        clutter = irregular(rng.uniform(0, sides), radius, rng)
        paint(picture, clutter, str(rng.choice(list(TEXTURES))), rng)
    for item in items:
        for polygon in _polygons(item.outline):
            paint(picture, polygon, CLASS_TEXTURES[item.category], rng)
    picture += 6 * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8), items


def _run_lengths(mask: np.ndarray) -> List[int]:
    """Encode a mask as COCO's uncompressed RLE: run lengths in column order, zeros first."""
    pixels = np.concatenate([[0], mask.flatten(order='F'), [1 - mask[-1, -1]]])
    edges = np.concatenate([[0], np.flatnonzero(np.diff(pixels))])
    return np.diff(edges).tolist()


def to_annotation(item: Item, sides: Sides) -> dict:
    """Convert the visible part of an item to a COCO annotation without ids.

    Args:
        item (Item): An item from :func:`draw_image`.
        sides (tuple[int, int]): Width and height of the image in pixels.

    Returns:
        dict: ``segmentation`` (polygons, or uncompressed RLE for a crowd), ``area`` (square
        pixels), ``iscrowd``, ``bbox`` (x, y, width, height in pixels) and ``category_id``.
    """
    shape = item.visible
    polygons = _polygons(shape)
    segmentation, area = [_flat(polygon.exterior) for polygon in polygons], shape.area
    if item.iscrowd:
        mask = _rasterize(segmentation, sides)
        holes = [_flat(ring) for polygon in polygons for ring in polygon.interiors]
        if holes:
            mask &= 1 - _rasterize(holes, sides)
        segmentation, area = dict(counts=_run_lengths(mask), size=list(sides[::-1])), mask.sum()
    left, top, right, bottom = shape.bounds
    return dict(
        segmentation=segmentation,
        area=round(float(area), 2),
        iscrowd=int(item.iscrowd),
        bbox=[round(value, 2) for value in (left, top, right - left, bottom - top)],
        category_id=CLASSES.index(item.category) + 1)


def _flat(ring) -> List[float]:
    """Return the vertices of a closed ring in COCO's order: x1, y1, x2, y2, ..."""
    return np.round(ring.coords[:-1], 2).flatten().tolist()


def _rasterize(rings: List[List[float]], sides: Sides) -> np.ndarray:
    """Return the mask of polygons, (height, width) uint8."""
    width, height = sides
    return mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(rings, height, width)))


def _draw_sides(size: int, rng: np.random.Generator) -> Sides:
    """Draw an aspect ratio from ``ASPECTS``, landscape or portrait."""
    sides = size, round(size * float(rng.choice(ASPECTS)))
    return sides if rng.random() < .5 else sides[::-1]


def _write_split(root: Path, split: str, count: int, size: int, info: dict) -> None:
    """Draw and write the images and the annotation file of one split."""
    folder = root / f'{split}2017'
    folder.mkdir()
    images, annotations = [], []
    for index in range(count):
        # One random stream per image, so that more images never change the earlier ones.
        rng = np.random.default_rng([info['seed'], SPLITS.index(split), index])
        sides = _draw_sides(size, rng) if info.get('mixed_shapes') else (size, size)
        picture, items = draw_image(sides, rng)
        image_id = index + 1
        name = f'{image_id:012d}.jpg'
        if not cv2.imwrite(str(folder / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 92]):
            raise OSError(f'could not write {folder / name}')
        images.append(
            dict(
                license=1,
                file_name=name,
                coco_url='',
                height=sides[1],
                width=sides[0],
                date_captured='2017-01-01 00:00:00',
                flickr_url='',
                id=image_id))
        for item in items:
            annotation = to_annotation(item, sides)
            annotation.update(image_id=image_id, id=len(annotations) + 1)
            annotations.append(annotation)
    content = dict(
        info=info,
        licenses=[dict(id=1, name='Public domain', url='')],
        images=images,
        annotations=annotations,
        categories=[
            dict(supercategory='shape', id=index, name=name)
            for index, name in enumerate(CLASSES, start=1)
        ])
    _annotation_file(root, split).write_text(json.dumps(content))


def _annotation_file(root: Path, split: str) -> Path:
    return root / 'annotations' / f'instances_{split}2017.json'


def _read_info(root: Path) -> Optional[dict]:
    """Return the ``info`` of the data set at ``root``, or None if there is none."""
    path = _annotation_file(root, SPLITS[-1])
    return json.loads(path.read_text())['info'] if path.is_file() else None


def generate_mini_coco(root,
                       num_images: Optional[Dict[str, int]] = None,
                       image_size: int = 192,
                       seed: int = 0,
                       overwrite: bool = False,
                       mixed_shapes: bool = False) -> Path:
    """Write a miniature COCO, or keep an existing one with the same parameters.

    The folder appears in one step once it is complete, so an interrupted call leaves no
    half-written data set behind.

    Args:
        root (str | Path): Folder to create, with ``annotations/instances_{split}2017.json`` and
            ``{split}2017/*.jpg`` for the splits train, val and test.
        num_images (dict[str, int], optional): Images per split; 1200, 150 and 200 by default.
        image_size (int): Height and width in pixels; with ``mixed_shapes``, the longer side.
        seed (int): Random seed. Image i of a split depends only on the seed, the image size and
            shapes, the split and i.
        overwrite (bool): Whether to replace ``root`` if it exists.
        mixed_shapes (bool): Whether to draw landscape and portrait images of 2:1, 3:2 and 6:5
            instead of squares, so that batches need padding.

    Returns:
        Path: ``root``.

    Raises:
        ValueError: If ``num_images`` does not give the three splits positive counts.
        FileExistsError: If ``root`` exists with other parameters and ``overwrite`` is False.
    """
    num_images = dict(num_images or dict(train=1200, val=150, test=200))
    check_counts(num_images, SPLITS)
    info = dict(
        description='Miniature COCO of textured shapes',
        url='',
        version=VERSION,
        year=2017,
        contributor='sparsevit_mm',
        date_created='2017/01/01',
        num_images=num_images,
        image_size=image_size,
        seed=seed)
    if mixed_shapes:
        info['mixed_shapes'] = True

    def write(folder: Path) -> None:
        (folder / 'annotations').mkdir()
        for split in SPLITS:
            _write_split(folder, split, num_images[split], image_size, info)

    return make_folder(Path(root), info, _read_info, write, overwrite)
