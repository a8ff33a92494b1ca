"""Rooms: depth against closed forms, determinism, boxes, cameras."""

import math

import numpy as np
import pytest

from data.worlds import cameras, furniture, raycast, rooms, textures

SMALL = rooms.RoomSettings(width=24, height=20, focals=(20.0, 40.0))


def _camera(position=(0, 0, 0), yaw=0.0, pitch=0.0, size=33, focal=20.0):
  pose = cameras.look_from(position, yaw, pitch)
  return cameras.Camera(focal, focal, size / 2, size / 2, size, size, pose)


def _cast(rows, camera, room=((0, 0, 0), (50, 50, 50)), sun=(0, 0, 1)):
  """Casts white rows of (kind, centre, half, yaw) inside a large room."""
  rows = [*rows, (raycast.ROOM, *room, 0.0)]
  kind, centre, half, yaw = zip(*rows)
  count = len(rows)
  solids = raycast.Solids(
    np.array(kind),
    np.array(centre, np.float32),
    np.array(half, np.float32),
    np.cos(np.array(yaw, np.float32)),
    np.sin(np.array(yaw, np.float32)),
    np.arange(10, 10 + count),
    np.zeros(count, int),
  )
  white, one = np.ones((6, 3), np.float32), np.ones(6, np.float32)
  plain = np.full(6, textures.PLAIN)
  table = textures.Textures(plain, white, white, one, white, white)
  light = raycast.Light(np.float32(sun), 0.2, 0.8)
  return raycast.cast(solids, table, light, camera)


class TestAnalyticDepth:
  def test_wall_has_constant_z_and_growing_range(self):
    camera = _camera(size=9, focal=6.0)
    _, z, distance, _ = _cast([], camera, ((0, 0, 0), (60, 7, 60)))
    np.testing.assert_allclose(z, 7.0, rtol=1e-6)
    # Upper left pixel: its centre is 4 px left of and above the middle.
    ray = math.sqrt(1 + 2 * (4 / 6) ** 2)
    np.testing.assert_allclose(distance[0, 0], 7 * ray, rtol=1e-6)
    np.testing.assert_allclose(distance[4, 4], 7.0, rtol=1e-6)

  def test_floor_and_ceiling_rows(self):
    camera = _camera((0, 0, 1.5), size=40, focal=30.0)
    _, z, _, ids = _cast([], camera, ((0, 0, 1.25), (50, 50, 1.25)))
    for row in (30, 39):  # z = eye height * f / (v - cy)
      np.testing.assert_allclose(z[row], 1.5 * 30 / (row + 0.5 - 20), rtol=1e-5)
    np.testing.assert_allclose(z[0], 1.0 * 30 / 19.5, rtol=1e-5)
    assert set(ids[39]) == {10} and set(ids[0]) == {11}

  def test_rotated_box_against_its_corner(self):
    """A cube turned by 45 degrees shows its edge, half a diagonal nearer."""
    box = (raycast.BOX, (0, 6, 0), (1, 1, 1), math.pi / 4)
    _, z, _, ids = _cast([box], _camera())
    np.testing.assert_allclose(z[16, 16], 6 - math.sqrt(2), rtol=1e-5)
    # Beside the edge the face runs away: y + |x| = ... with x = xn y.
    xn = 3 / 20
    want = (6 - math.sqrt(2)) / (1 - xn)
    np.testing.assert_allclose(z[16, [13, 19]], want, rtol=1e-5)
    assert ids[16, 16] == 10 and ids[0, 0] > 10

  def test_sphere_against_the_quadratic(self):
    centre, radius = np.array([0.3, 5.0, -0.2]), 1.2
    ball = (raycast.SPHERE, centre, (radius,) * 3, 0.0)
    camera = _camera()
    _, z, _, ids = _cast([ball], camera)
    rays = cameras.pixel_rays(camera) @ camera.world_from_camera[:3, :3].T
    a, b = (rays**2).sum(-1), rays @ centre
    root = b**2 - a * (centre @ centre - radius**2)
    hit = root > 1e-3
    assert hit.sum() > 50
    np.testing.assert_allclose(
      z[hit], ((b - np.sqrt(root.clip(0))) / a)[hit], rtol=2e-5
    )
    np.testing.assert_array_equal(ids[hit], 10)
    assert (ids[root < -1e-3] > 10).all()

  def test_cylinder_side_and_cap(self):
    pole = (raycast.CYLINDER, (0, 5, 0), (0.5, 0.5, 1.0), 0.0)
    _, z, _, _ = _cast([pole], _camera())
    np.testing.assert_allclose(z[16, 16], 4.5, rtol=1e-6)
    xn = 1 / 20  # |(xn t, t - 5)| = 0.5
    a, b, c = 1 + xn**2, -5.0, 25 - 0.25
    want = (-b - math.sqrt(b * b - a * c)) / a
    np.testing.assert_allclose(z[16, [15, 17]], want, rtol=1e-5)
    # From above, looking straight down at the cap one metre below.
    above = _camera((0, 5, 2.0), pitch=-math.pi / 2)
    _, z, _, ids = _cast([pole], above)
    np.testing.assert_allclose(z[ids == 10], 1.0, rtol=1e-5)
    # The cap is a disc of radius 0.5 * 20 = 10 px.
    assert abs((ids == 10).sum() - math.pi * 100) < 12

  def test_thin_far_pole_keeps_its_depth(self):
    pole = (raycast.CYLINDER, (0, 20, 0), (0.01, 0.01, 1.0), 0.0)
    _, z, _, ids = _cast([pole], _camera(focal=400.0))
    assert ids[16, 16] == 10
    np.testing.assert_allclose(z[16, 16], 19.99, rtol=1e-5)

  def test_nearer_solid_wins_and_solids_behind_are_ignored(self):
    rows = [
      (raycast.BOX, (0, 8, 0), (1, 1, 1), 0.0),
      (raycast.SPHERE, (0, 4, 0), (0.5,) * 3, 0.0),
      (raycast.BOX, (0, -3, 0), (1, 1, 1), 0.0),
      (raycast.CYLINDER, (0, -3, 0), (1, 1, 1), 0.0),
    ]
    _, z, _, ids = _cast(rows, _camera())
    assert ids[16, 16] == 11 and 12 not in ids and 13 not in ids
    np.testing.assert_allclose(z[16, 16], 3.5, rtol=1e-6)

  def test_corners_of_an_empty_room(self):
    """The far corners project to where floor, wall and wall meet."""
    camera = _camera((0.4, -3.0, 1.4), yaw=0.1, pitch=-0.05, size=96, focal=60)
    room = ((0, 0, 1.3), (1.5, 4.0, 1.3))
    _, z, _, ids = _cast([], camera, room)
    for x, side in ((-1.5, 12), (1.5, 13)):
      u, v, depth = cameras.project(camera, np.array([x, 4.0, 0.0]))
      near = np.s_[int(v) - 1 : int(v) + 3, int(u) - 1 : int(u) + 3]
      assert {10, 15, side} <= set(ids[near].ravel())
      np.testing.assert_allclose(z[near].max(), depth, rtol=0.05)

  def test_tiles_do_not_show(self, monkeypatch):
    (whole,) = rooms.render_batch(4, [2], SMALL)
    monkeypatch.setattr(raycast, 'TILE', 7)
    (tiled,) = rooms.render_batch(4, [2], SMALL)
    np.testing.assert_array_equal(whole.rgb, tiled.rgb)
    np.testing.assert_array_equal(whole.z, tiled.z)
    np.testing.assert_array_equal(whole.instances, tiled.instances)


class TestShading:
  """Strength is 0.2 + 0.8 (1 + n.l) / 2: 255 facing, 51 away, 153 beside."""

  def test_room_is_lit_from_inside(self):
    camera = _camera((0, 0, 1.5), size=40, focal=30.0)
    rgb, _, _, _ = _cast([], camera, ((0, 0, 1.25), (50, 50, 1.25)))
    assert (rgb[39] == 255).all() and (rgb[0] == 51).all()
    rgb, _, _, ids = _cast([], _camera(), ((0, 0, 0), (60, 7, 60)))
    assert (rgb[ids == 15] == 153).all()

  def test_turned_box_is_brighter_towards_the_light(self):
    box = (raycast.BOX, (0, 6, 0), (1, 1, 1), math.pi / 4)
    rgb, _, _, _ = _cast([box], _camera(), sun=(1, 0, 0))
    lit = 255 * (0.2 + 0.4 * (1 + math.sqrt(0.5)))
    dark = 255 * (0.2 + 0.4 * (1 - math.sqrt(0.5)))
    assert abs(int(rgb[16, 19, 0]) - lit) < 1
    assert abs(int(rgb[16, 13, 0]) - dark) < 1

  @pytest.mark.parametrize('kind', [raycast.SPHERE, raycast.CYLINDER])
  def test_round_solids_turn_their_normals(self, kind):
    solid = (kind, (0, 4, 0), (1, 1, 1), 0.0)
    rgb, _, _, ids = _cast([solid], _camera(), sun=(1, 0, 0))
    row = rgb[16, ids[16] == 10, 0].astype(int)
    assert (np.diff(row) > 0).all() and row[0] < 75 and row[-1] > 230
    assert rgb[16, 16, 0] == 153

  def test_cap_of_a_cylinder_faces_up(self):
    pole = (raycast.CYLINDER, (0, 5, 0), (0.5, 0.5, 1.0), 0.0)
    above = _camera((0, 5, 2.0), pitch=-math.pi / 2)
    rgb, _, _, ids = _cast([pole], above)
    assert (rgb[ids == 10] == 255).all()


class TestCameras:
  def test_axes(self):
    pose = cameras.look_from((1, 2, 3), 0.0)
    np.testing.assert_allclose(pose[:3, 0], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(pose[:3, 1], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(pose[:3, 2], [0, 1, 0], atol=1e-12)
    right = cameras.look_from((0, 0, 0), math.pi / 2)
    np.testing.assert_allclose(right[:3, 2], [1, 0, 0], atol=1e-12)
    up = cameras.look_from((0, 0, 0), 0.0, math.pi / 2)
    np.testing.assert_allclose(up[:3, 2], [0, 0, 1], atol=1e-12)

  def test_poses_are_rotations(self):
    turn = cameras.look_from((0, 0, 0), 0.7, -0.3, 0.2)[:3, :3]
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turn), 1.0)

  def test_pixels_lift_and_project_back(self):
    (frame,) = rooms.render_batch(0, [3], SMALL)
    camera = frame.camera
    rays = cameras.pixel_rays(camera)
    points = frame.z[..., None] * rays
    pose = camera.world_from_camera
    world = points @ pose[:3, :3].T + pose[:3, 3]
    u, v, z = np.moveaxis(cameras.project(camera, world), -1, 0)
    y, x = np.mgrid[: camera.height, : camera.width]
    np.testing.assert_allclose(u, x + 0.5, atol=1e-3)
    np.testing.assert_allclose(v, y + 0.5, atol=1e-3)
    np.testing.assert_allclose(z, frame.z, rtol=1e-4)

  def test_focal_laws(self):
    picks = rooms.RoomSettings(focals=(34, 40, 48), focal_law='list')
    drawn = {rooms.make_cameras(0, i, picks)[0].fx for i in range(40)}
    assert drawn == {34, 40, 48}
    smooth = rooms.RoomSettings(focals=(30, 60), focal_ratio=(0.8, 1.25))
    lens = [rooms.make_cameras(0, i, smooth)[0] for i in range(300)]
    fx = np.array([c.fx for c in lens])
    ratio = np.array([c.fy for c in lens]) / fx
    assert fx.min() >= 30 and fx.max() <= 60 and len(set(fx)) == 300
    # Log-uniform: the median is the geometric mean.
    np.testing.assert_allclose(np.median(fx), math.sqrt(1800), rtol=0.05)
    assert ratio.min() >= 0.8 and ratio.max() <= 1.25 and ratio.std() > 0.05

  def test_bad_settings_are_named(self):
    with pytest.raises(ValueError, match='focal_law'):
      rooms.RoomSettings(focal_law='normal')
    with pytest.raises(ValueError, match="focal_law='list'"):
      rooms.RoomSettings(focals=(1, 2, 3))
    scene = rooms.make_scene(0, 0, SMALL)
    with pytest.raises(ValueError, match='outside the room'):
      rooms.render(scene, _camera((99, 0, 1)))


class TestScenes:
  def test_a_scene_depends_on_nothing_but_seed_and_index(self):
    together = rooms.render_batch(7, range(4), SMALL)
    alone = rooms.render_batch(7, [2], SMALL)[0]
    np.testing.assert_array_equal(together[2].rgb, alone.rgb)
    np.testing.assert_array_equal(together[2].z, alone.z)
    assert together[2].objects == alone.objects
    other = rooms.render_batch(8, [2], SMALL)[0]
    assert other.objects != alone.objects

  def test_another_focal_law_sees_the_same_rooms(self):
    far = rooms.RoomSettings(width=24, height=20, focals=(60.0, 80.0))
    one, two = (rooms.make_scene(1, 5, s) for s in (SMALL, far))
    assert one.objects == two.objects and one.size == two.size
    a, b = (rooms.make_cameras(1, 5, s)[0] for s in (SMALL, far))
    np.testing.assert_array_equal(a.world_from_camera, b.world_from_camera)
    assert a.fx < 40 < 60 <= b.fx

  def test_frames_are_complete_and_plausible(self):
    for frame in rooms.render_batch(2, range(30), SMALL):
      assert frame.rgb.shape == (20, 24, 3) and frame.rgb.dtype == np.uint8
      assert frame.z.dtype == frame.range.dtype == np.float32
      assert np.isfinite(frame.z).all() and frame.z.min() > 0.2
      assert frame.range.max() < 30
      rays = np.linalg.norm(cameras.pixel_rays(frame.camera), axis=-1)
      np.testing.assert_allclose(frame.range, frame.z * rays, rtol=1e-5)

  def test_every_visible_object_point_lies_in_its_box(self):
    settings = rooms.RoomSettings(width=64, height=64, focals=(45.0, 60.0))
    seen = set()
    for frame in rooms.render_batch(5, range(12), settings):
      pose = frame.camera.world_from_camera
      points = frame.z[..., None] * cameras.pixel_rays(frame.camera)
      world = points @ pose[:3, :3].T + pose[:3, 3]
      known = {*rooms.SURFACES, *(o.id for o in frame.objects)}
      assert set(np.unique(frame.instances)) <= known
      for thing in frame.objects:
        offset = world[frame.instances == thing.id] - thing.centre
        cos, sin = math.cos(thing.yaw), math.sin(thing.yaw)
        x = cos * offset[:, 0] + sin * offset[:, 1]
        y = cos * offset[:, 1] - sin * offset[:, 0]
        local = np.abs(np.stack([x, y, offset[:, 2]], 1))
        assert (local <= np.array(thing.size) / 2 + 2e-3).all(), thing
        seen |= {thing.name} if len(offset) else set()
    assert len(seen) > 8

  def test_objects_stand_inside_and_apart(self):
    for index in range(40):
      scene = rooms.make_scene(6, index, SMALL)
      standing = [o for o in scene.objects if o.name in furniture.STANDING]
      for thing in standing:
        np.testing.assert_allclose(
          thing.centre[2], thing.size[2] / 2, atol=1e-6
        )
        reach = np.abs(thing.centre) + [0, 0, thing.size[2] / 2]
        assert (reach[:2] < np.array(scene.size[:2]) / 2).all()
        assert reach[2] < scene.size[2]
      for a in range(len(standing)):
        for b in range(a):
          gap = np.hypot(
            *np.subtract(standing[a].centre[:2], standing[b].centre[:2])
          )
          # Disjoint bounding circles: the boxes cannot touch.
          assert gap > 0.4 * sum(
            math.hypot(*standing[k].size[:2]) for k in (a, b)
          )

  def test_walk_gives_overlapping_views_of_one_room(self):
    settings = rooms.RoomSettings(
      width=24, height=20, focals=(20.0, 25.0), views=3
    )
    frames = rooms.render_batch(9, [0, 1], settings)
    assert len(frames) == 6
    for k in (0, 3):
      assert frames[k].objects == frames[k + 2].objects
      first, last = (
        frames[j].camera.world_from_camera[:3, 3] for j in (k, k + 2)
      )
      assert 0.1 < np.linalg.norm(last - first) <= 2.0
      assert frames[k].camera.fx == frames[k + 2].camera.fx

  def test_period_says_nothing_about_scale(self):
    table = textures.draw(np.random.default_rng(0), 2000)
    assert table.period.min() >= 0.2 and table.period.max() <= 2.0
    np.testing.assert_allclose(
      np.median(table.period), math.sqrt(0.4), rtol=0.1
    )

  def test_textures_by_hand(self):
    table = textures.Textures(
      kind=np.array([textures.CHECKER, textures.STRIPE, textures.PLAIN]),
      first=np.zeros((3, 3), np.float32),
      second=np.ones((3, 3), np.float32),
      period=np.float32([0.5, 0.5, 0.5]),
      phase=np.zeros((3, 3), np.float32),
      axis=np.float32([[1, 0, 0]] * 3),
    )
    points = np.float32([[0.1, 0.1, 0.1], [0.6, 0.1, 0.1], [0.6, 0.6, 0.1]])
    values = [
      textures.colours(table, np.full(3, k), points)[:, 0].tolist()
      for k in range(3)
    ]
    assert values == [[0, 1, 0], [0, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize('name', sorted(furniture.STANDING))
def test_furniture_has_real_sizes(name):
  for seed in range(20):
    parts = furniture.build(name, np.random.default_rng(seed))
    low, high = furniture.extent(parts)
    size = high - low
    np.testing.assert_allclose(low[2], 0.0, atol=1e-6)
    assert (size > 0.15).all() and (size < 2.4).all()
    assert {p.material for p in parts} <= {0, 1, 2}
