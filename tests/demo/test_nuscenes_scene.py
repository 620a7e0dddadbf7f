from collections import Counter

import numpy as np
import pytest

from generators.nuscenes_cameras import (CAMERAS, NEAR, Camera, Canvas, box_corners,
                                                    clip_near, paint_order, planar_pose)
from generators.nuscenes_looks import LOOKS
from generators.nuscenes_scene import Scene
from generators.nuscenes_tables import lidar_box

SIZE = (352, 198)


@pytest.fixture(scope='module')
def scenes():
    return [Scene(2, SIZE, np.random.default_rng(seed)) for seed in range(4)]


def corners_of(box):
    """(8, 3) corners of a box of mmdet3d's infos, in the LiDAR's frame."""
    x, y, z, length, width, height, yaw = box
    signs = np.array(np.meshgrid(*[(-0.5, 0.5)] * 3)).reshape(3, -1).T
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    return signs * (length, width, height) @ turn.T + (x, y, z)


def views_of(scene, frame=0):
    """Camera, its shot, and the box (8, 3) in its frame, of all objects that are wholly ahead."""
    lidar2global = scene.ego2global(frame) @ scene.lidar2ego
    for channel, shot in scene.shoot(frame).items():
        camera = scene.cameras[channel]
        lidar2cam = camera.ego2cam @ scene.lidar2ego
        for index, thing in enumerate(scene.world.things):
            box = corners_of(lidar_box(scene.box2global(thing, frame), thing.size, lidar2global))
            box = box @ lidar2cam[:3, :3].T + lidar2cam[:3, 3]
            if box[:, 2].min() > NEAR:
                yield channel, camera, shot, index, box


def test_projected_boxes_hold_exactly_the_pixels_of_their_objects(scenes):
    """In every camera: none lies outside, and where nothing hides any they reach the edges."""
    seen, tight = Counter(), Counter()
    for scene in scenes:
        for channel, camera, shot, index, box in views_of(scene):
            rows, columns = np.nonzero(shot.ids == index + 1)
            if not len(rows):
                continue
            pixels = camera.project(box)
            low, high = pixels.min(0), pixels.max(0)
            assert columns.min() > low[0] - 1 and columns.max() < high[0] + 1
            assert rows.min() > low[1] - 1 and rows.max() < high[1] + 1
            seen[channel] += 1
            inside = (low > 0).all() and (high < np.array(SIZE) - 1).all()
            if inside and shot.seen[index] == shot.painted[index] and len(rows) > 150:
                # The box's lower end is its base, the look fills it.
                assert rows.max() > high[1] - 0.15 * (high[1] - low[1]) - 1
                assert np.ptp(columns) > 0.6 * (high[0] - low[0]) - 1
                tight[channel] += 1
    assert set(seen) == set(CAMERAS) and min(seen.values()) >= 3
    assert sum(tight.values()) >= 20


def entries(rays, origin, size, pose):
    """Where rays (n, 3) from an origin enter a box, (n,), in lengths of the rays; or infinity."""
    start, steps = (origin - pose[:3, 3]) @ pose[:3, :3], rays @ pose[:3, :3]
    low, high = np.array([(-0.5, -0.5, 0), (0.5, 0.5, 1)]) * size
    ends = np.stack([(low - start) / steps, (high - start) / steps])
    enter, leave = ends.min(0).max(-1), ends.max(0).min(-1)
    return np.where((enter < leave) & (enter > 0), enter, np.inf)


def test_nothing_shows_through_a_bus(scenes):
    """Rays cast through the pixels of other objects do not meet a bus first.

    A bus fills its box, unlike others.
    """
    checked = 0
    for scene in scenes:
        things = scene.world.things
        global2ego = np.linalg.inv(scene.ego2global(0))
        poses = [global2ego @ scene.box2global(thing, 0) for thing in things]
        for channel, shot in scene.shoot(0).items():
            camera = scene.cameras[channel]
            origin, rays = camera.cam2ego[:3, 3], camera.rays()
            for index in np.flatnonzero(shot.seen):
                through = rays[shot.ids == index + 1]
                own = entries(through, origin, things[index].size, poses[index])
                for bus in np.flatnonzero(shot.seen):
                    if things[bus].name == 'bus' and bus != index:
                        depth = entries(through, origin, things[bus].size, poses[bus])
                        # Outlines are a pixel wide.
                        wrong = ((depth < own) & np.isfinite(own)).sum()
                        assert wrong <= 0.05 * len(own) + 8
                        checked += np.isfinite(depth).sum()
    assert checked > 50


def box_at(x, y, size=(1., 1., 1.), heading=0.):
    return box_corners(size, planar_pose(x, y, heading))


def test_a_plane_between_tells_the_order_where_distances_do_not():
    eye = (0, 0, 1.5)
    bus, person = box_at(13, 4, (20, 3, 3)) - eye, box_at(17, 2, (0.7, 0.7, 1.8)) - eye
    assert np.linalg.norm(person.mean(0)) > np.linalg.norm(bus.mean(0))
    for boxes, order in (((bus, person), [0, 1]), ((person, bus), [1, 0])):
        assert paint_order(np.stack(boxes)) == order


def test_boxes_in_a_row_are_painted_from_far_to_near():
    places = [7, 3, 9, 5]
    assert paint_order(np.stack([box_at(x, 0.3) for x in places])) == [2, 0, 3, 1]


def test_polygons_are_cut_at_the_near_plane():
    square = np.array([(-1, 0, -1.), (1, 0, -1), (1, 0, 3), (-1, 0, 3)])
    cut = clip_near(square)
    assert len(cut) == 4 and cut[:, 2].max() == 3
    assert cut[:, 2].min() == pytest.approx(NEAR)
    assert clip_near(square - (0, 0, 5)).shape == (0, 3)
    assert np.array_equal(clip_near(square + (0, 0, 5)), square + (0, 0, 5))


def test_a_box_beside_the_camera_is_painted_to_the_edge_of_the_image():
    """It reaches from behind the camera to ahead of it."""
    cam2ego = np.eye(4)
    cam2ego[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    cam2ego[2, 3] = 1.5
    camera = Camera(cam2ego, np.array([[100., 0, 100], [0, 100, 50], [0, 0, 1]]), (200, 100))
    canvas = Canvas(camera, np.zeros((100, 200, 3), np.uint8), np.zeros(3))
    pose, size = planar_pose(0, 3, 0), np.array((10., 2., 3.))
    model = LOOKS['bus'](np.random.default_rng(0), False)
    parts, quads = (corners * size @ pose[:3, :3].T + pose[:3, 3]
                    for corners in (model.parts, model.quads))
    canvas.paint(1, parts, quads, model)
    # The near side, 2 m to the left, ends 5 m ahead, 40 pixels left of the middle; the far one
    # at 80 pixels.
    columns = np.flatnonzero((canvas.ids == 1).any(0))
    assert columns[0] == 0 and columns[-1] == pytest.approx(60, abs=1)
    assert (canvas.ids[:, 0] == 1).all()


def test_hidden_objects_have_no_points(scenes):
    hidden = shown = 0
    for scene in scenes:
        shots = scene.shoot(0)
        share, points = scene.visibility(shots)
        assert share.min() >= 0 and share.max() <= 1
        seen = sum(shot.seen for shot in shots.values())
        assert (points[seen == 0] == 0).all() and (seen[points > 0] >= 16).all()
        hidden += (points == 0).sum()
        shown += (points > 0).sum()
    assert hidden > 0 and shown > 30


def test_objects_are_in_all_directions_and_mostly_near(scenes):
    distances, angles = [], []
    for scene in scenes:
        _, points = scene.visibility(scene.shoot(0))
        for index in np.flatnonzero(points):
            pose = np.linalg.inv(scene.ego2global(0)) @ scene.box2global(
                scene.world.things[index], 0)
            distances.append(np.hypot(*pose[:2, 3]))
            angles.append(np.arctan2(pose[1, 3], pose[0, 3]))
    assert np.mean(np.array(distances) < 30) > 0.6 and max(distances) < 46
    assert (np.histogram(angles, 6, (-np.pi, np.pi))[0] > 0).all()
    assert 8 <= len(distances) / len(scenes) <= 20


def test_much_of_a_picture_is_empty(scenes):
    covered = np.mean([(shot.ids > 0).mean() for scene in scenes
                       for shot in scene.shoot(1).values()])
    assert 0.01 < covered < 0.3


@pytest.mark.parametrize('name', LOOKS)
@pytest.mark.parametrize('moving', [False, True])
def test_looks_fill_their_box_with_parts_that_do_not_overlap(name, moving):
    model = LOOKS[name](np.random.default_rng(0), moving)
    assert model.parts.min((0, 1)) == pytest.approx([-0.5, -0.5, 0])
    assert model.parts.max((0, 1)) == pytest.approx([0.5, 0.5, 1])
    low, high = model.parts.min(1), model.parts.max(1)
    apart = (low[:, None] > high[None] - 1e-9) | (high[:, None] < low[None] + 1e-9)
    assert (apart.any(-1) | np.eye(len(low), dtype=bool)).all()
