"""Published layouts -> rows: metric depth at known pixels, by hand."""

import functools
import math
import struct
import zlib

import numpy as np
import pyarrow
import pytest

from data.sources import depth
from data.sources.depth_corpora import curate, points, scannetpp, sunrgbd, waymo
from tests import depth_corpus_files as files
from vlm.methods.depthlm import sample


def rows_of(tmp_path, corpus, **flags):
  """All rows of a corpus with every valid pixel labelled, and the report."""
  labels = flags.get('labels', 'correct')
  settings = curate.Settings(
    corpus,
    str(tmp_path),
    str(tmp_path / f'out_{corpus}_{labels}_{len(flags)}'),
    **{'per_image': 10**6, **flags},
  )
  address, report = curate.prepare(settings)
  rows = depth.DepthRows(address)
  return [rows[i] for i in range(len(rows))], report


def labels_of(row):
  """{(x, y): metres}."""
  places = map(tuple, row['pixel_coords'].tolist())
  return dict(zip(places, row['depth'].tolist(), strict=True))


def test_ibims1(tmp_path):
  files.ibims1(tmp_path)
  rows, report = rows_of(tmp_path, 'ibims1')
  assert len(rows) == report.rows == 3 and not report.bad
  row, z = rows[0], 13107 * 50 / 65535
  assert row['dataset'] == 'ibims1' and row['scene'] == 'corridor'
  # Counted from pixel centres: (3, 2) is on the axis, (7, 2) 45 degrees off.
  assert row['intrinsics'] == (4.0, 5.0, 3.5, 2.5, 8, 6)
  found = labels_of(row)
  assert found[3, 2] == pytest.approx(z, rel=1e-12)
  assert found[7, 2] == pytest.approx(z * math.sqrt(2), rel=1e-12)
  # Neither column 0, which has no depth, nor row 0, which is masked.
  assert set(found) == {(x, y) for x in range(1, 8) for y in range(1, 6)}
  (old, *_), _ = rows_of(tmp_path, 'ibims1', labels='official')
  assert old['depth_kind'] == 'z' and old['intrinsics'][2:4] == (3.0, 2.0)
  assert labels_of(old)[7, 2] == pytest.approx(z, rel=1e-12)


def test_sun_values_are_rotated_millimetres():
  raw = np.array([0, 8, 16000, 80, 1, 65528], np.uint16)
  metres = [0, 0.001, 2.0, 0.01, 8.192, 8.191]
  np.testing.assert_allclose(sunrgbd.decode(raw), metres)


def test_sunrgbd_and_nyuv2_share_a_layout(tmp_path):
  files.sunrgbd(tmp_path)
  files.sunrgbd(tmp_path, 'SUNRGBD/kv1/NYUdata/NYU0001')
  for corpus in ('sunrgbd', 'nyuv2'):
    (row,), _ = rows_of(tmp_path, corpus)
    (old,), _ = rows_of(tmp_path, corpus, labels='official')
    found, released = labels_of(row), labels_of(old)
    assert found[3, 2] == 2.0
    assert found[7, 2] == pytest.approx(2 * math.sqrt(2))
    # Released ranges are 8000 / 10000 of the truth, everywhere.
    assert set(found) == set(released) and (3, 0) not in found
    for place, metres in found.items():
      assert released[place] == pytest.approx(0.8 * metres, rel=1e-12)
    assert old['depth_kind'] == row['depth_kind'] == 'range'


def test_nyuv2_from_its_own_file(tmp_path):
  from scipy import io

  files.nyu_mat(tmp_path)
  rows, _ = rows_of(tmp_path, 'nyuv2')
  assert len(rows) == 3
  # The toolbox counts pixels from 1: (0, 5) there is (1, 6).
  x = (1 - 325.58244941119034) / 518.85790117450188
  y = (6 - 253.73616633400465) / 519.46961112127485
  for number, row in enumerate(rows):
    wanted = (number + 1) * math.sqrt(1 + x * x + y * y)
    assert labels_of(row)[0, 5] == pytest.approx(wanted)
  with pytest.raises(ValueError, match=r'--split=test needs .*splits\.mat'):
    rows_of(tmp_path, 'nyuv2', split='test')
  io.savemat(
    tmp_path / 'splits.mat', {'testNdxs': [[3]], 'trainNdxs': [[1], [2]]}
  )
  (row,), _ = rows_of(tmp_path, 'nyuv2', split='test', seed=1)
  assert row['depth'].min() > 3
  with pytest.raises(ValueError, match='made from SUN RGB-D'):
    rows_of(tmp_path, 'nyuv2', labels='official')


def test_matterport3d_counts_rows_from_the_bottom(tmp_path):
  files.matterport3d(tmp_path)
  (row,), _ = rows_of(tmp_path, 'matterport3d')
  assert row['intrinsics'] == (4.0, 5.0, 3.5, 2.5, 8, 8)
  found = labels_of(row)
  assert found[3, 2] == 2.0 and (0, 0) not in found
  assert found[3, 7] == pytest.approx(2 * math.sqrt(2))
  # The camera looks along the third column of the motion, backwards.
  np.testing.assert_array_equal(row['world_from_camera'][:3, 3], [10, 20, 30])
  forward = row['world_from_camera'][:3, :3] @ [0, 0, 1]
  np.testing.assert_array_equal(forward, [-1, 0, 0])
  (old,), _ = rows_of(tmp_path, 'matterport3d', labels='official')
  wanted = 2 * math.hypot(1, 0.5 / 4, 3.5 / 5)  # (3, 2) against (3.5, 5.5)
  assert labels_of(old)[3, 2] == pytest.approx(wanted)


@pytest.mark.parametrize('component', ['taskonomy', 'hm3d'])
def test_omnidata(tmp_path, component):
  files.omnidata(tmp_path, component)
  rows, _ = rows_of(tmp_path, component)
  assert len(rows) == 4 and {row['scene'] for row in rows} == {'allen', 'beech'}
  row = rows[0]
  assert row['intrinsics'] == pytest.approx((4.0, 4.0, 4.0, 4.0, 8, 8))
  found = labels_of(row)
  assert set(found.values()) == {2.0} and len(found) == 64 - 3
  pose = row['world_from_camera']
  np.testing.assert_array_equal(pose[:3, 3], [1, 2, 3])
  # Blender's camera looks down; turned 90 degrees about x it looks along y.
  np.testing.assert_allclose(pose[:3, :3] @ [0, 0, 1], [0, 1, 0], atol=1e-12)
  with pytest.raises(ValueError, match='released no script'):
    rows_of(tmp_path, component, labels='official')
  for path in tmp_path.glob('depth_euclidean/*/*/*.png'):
    name = path.as_posix().replace('depth_euclidean', 'depth_zbuffer')
    path = path.rename(files_parent(tmp_path / name))
  rows, _ = rows_of(tmp_path, component, seed=1)
  wanted = 2 * math.hypot(1, 3.5 / 4, 0.5 / 4)
  assert labels_of(rows[0])[7, 3] == pytest.approx(wanted)


def files_parent(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  return path


def bend(ray, focal, centre, k, p=(0, 0), s=(0, 0)):
  """COLMAP's thin-prism fisheye, term by term: ray -> image place."""
  radius = math.hypot(ray[0], ray[1])
  angle = math.atan2(radius, ray[2])
  u, v = (angle * c / radius for c in ray[:2])
  r2 = u * u + v * v
  radial = k[0] * r2 + k[1] * r2**2 + k[2] * r2**3 + k[3] * r2**4
  du = u * radial + 2 * p[0] * u * v + p[1] * (r2 + 2 * u * u) + s[0] * r2
  dv = v * radial + 2 * p[1] * u * v + p[0] * (r2 + 2 * v * v) + s[1] * r2
  return focal * (u + du) + centre[0], focal * (v + dv) + centre[1]


DISTORTION = (0.1, -0.02, 0.02, -0.03, 0.3, -0.2, 0.03, -0.02)


def test_eth3d(tmp_path):
  y, x = np.mgrid[:48, :64]
  z = 1 + x / 100 + y
  z[0] = np.inf
  files.eth3d(tmp_path, DISTORTION, z)
  (row,), _ = rows_of(tmp_path, 'eth3d', lenses='keep')
  assert row['lens'].model == 'thin_prism_fisheye'
  assert row['lens'].coefficients == DISTORTION
  np.testing.assert_array_equal(row['world_from_camera'][:3, 3], [2, 0, 0])
  found = labels_of(row)
  assert not any(y == 0 for _, y in found) and len(found) > 2000
  k1, k2, p1, p2, k3, k4, s1, s2 = DISTORTION
  for ray in ([0.4, 0.3, 1], [-0.5, 0.1, 1], [0.1, -0.4, 1]):
    place = bend(ray, 40, (32, 24), (k1, k2, k3, k4), (p1, p2), (s1, s2))
    x, y = map(math.floor, place)
    # The label's ray goes through the pixel's centre, at most half a pixel
    # from `ray`; z is that of its pixel.
    wanted = z[y, x] * math.hypot(*ray)
    assert found[x, y] == pytest.approx(wanted, rel=0.012)


def test_eth3d_straightened_and_as_released(tmp_path):
  y, x = np.mgrid[:48, :64]
  files.eth3d(tmp_path, DISTORTION, 10 + x / 50 + y / 20, focal=20.0)
  (row,), _ = rows_of(tmp_path, 'eth3d')
  (old,), _ = rows_of(tmp_path, 'eth3d', labels='official')
  assert 'lens' not in row and row['image'].shape == (48, 64, 3)
  assert (row['depth_kind'], old['depth_kind']) == ('range', 'range')
  k1, k2, p1, p2, k3, k4, s1, s2 = DISTORTION
  radial, found, released = (k1, k2, k3, k4), labels_of(row), labels_of(old)
  for place in ((50, 34), (14, 30), (45, 14)):
    # Straightening spreads the rim, so that not every pixel has a label.
    x, y = min(found, key=lambda at: math.dist(at, place))
    assert math.dist((x, y), place) < 2
    ray = [(x + 0.5 - 32) / 20, (y + 0.5 - 24) / 20, 1]
    u, v = bend(ray, 20, (32, 24), radial, (p1, p2), (s1, s2))
    # A bent pixel, 1/20 m per row, whose centre lands somewhere in (x, y).
    wanted = (10 + (u - 0.5) / 50 + (v - 0.5) / 20) * math.hypot(*ray)
    assert found[x, y] == pytest.approx(wanted, rel=0.02)
    # Released: no tangential nor prism terms, pixels counted from centres.
    x, y = place
    ray = [(x - 32) / 20, (y - 24) / 20, 1]
    u, v = bend(ray, 20, (32, 24), radial)
    z = 10 + math.floor(u + 0.5) / 50 + math.floor(v + 0.5) / 20
    assert released[x, y] == pytest.approx(z * math.hypot(*ray))


def test_ddad(tmp_path):
  files.ddad(tmp_path)
  (row,), _ = rows_of(tmp_path, 'ddad')
  (old,), _ = rows_of(tmp_path, 'ddad', labels='official')
  # (0, 0, 4) hides (0, 0, 8); (3, 0, 4) lands on u = 4 * 3 / 4 + 3 = 6.
  assert labels_of(row) == {(3, 2): 4.0, (6, 2): 5.0}
  # Released: the last point of a pixel, and its z.
  assert labels_of(old) == {(3, 2): 8.0, (6, 2): 4.0}
  assert old['depth_kind'] == 'z'
  assert row['timestamp'] % 1 == 0.5
  with pytest.raises(ValueError, match='no scene of ddad, split train'):
    rows_of(tmp_path, 'ddad', split='train')


def test_nuscenes_follows_the_car(tmp_path):
  files.nuscenes(tmp_path)
  (row,), _ = rows_of(tmp_path, 'nuscenes', split='mini')
  (old,), _ = rows_of(tmp_path, 'nuscenes', split='mini', labels='official')
  assert labels_of(row) == {(3, 2): 4.0, (6, 2): 5.0}
  # Released: the car stands still, z; 4 * 3 / 5 + 3 = 5.4.
  assert labels_of(old) == {(3, 2): 5.0, (5, 2): 5.0}
  assert old['depth_kind'] == 'z' and row['timestamp'] == 1.5
  np.testing.assert_array_equal(row['world_from_camera'][:3, 3], [0, 0, 1])


def test_nuscenes_train_is_without_mini(tmp_path):
  files.nuscenes(tmp_path, 'v1.0-trainval', 'scene-0061')
  with pytest.raises(ValueError, match='no scene of nuscenes'):
    rows_of(tmp_path, 'nuscenes')
  files.nuscenes(tmp_path, 'v1.0-trainval', 'scene-0001')
  assert len(rows_of(tmp_path, 'nuscenes')[0]) == 1


def test_argoverse2(tmp_path):
  files.argoverse2(tmp_path)
  (row,), _ = rows_of(tmp_path, 'argoverse2', split='val')
  assert labels_of(row) == {(3, 2): 4.0, (6, 2): 5.0}
  assert row['intrinsics'] == (4.0, 5.0, 3.5, 2.5, 8, 6)
  (old,), _ = rows_of(tmp_path, 'argoverse2', split='val', labels='official')
  assert labels_of(old) == labels_of(row)


def test_argoverse2_as_released_shrinks_and_says_fy_1000(tmp_path):
  files.argoverse2(tmp_path, focal=2000.0)
  (old,), _ = rows_of(tmp_path, 'argoverse2', split='val', labels='official')
  assert old['intrinsics'] == (1000.0, 1000.0, 1.5, 1.0, 4, 3)
  assert labels_of(old) == {(1, 1): 4.0}  # (3, 2) halved and cut
  (row,), _ = rows_of(tmp_path, 'argoverse2', split='val', max_focal=1000.0)
  # Exact: fx and fy both 1000, rows shrunk by 1000 / 2001; 3.5 / 2 = 1.75.
  assert row['intrinsics'][:2] == (1000.0, 1000.0)
  assert labels_of(row) == {(1, 1): 4.0}


def test_argoverse2_without_sweep_or_pose_is_counted(tmp_path):
  files.argoverse2(tmp_path)
  place = tmp_path / 'val/log1/sensors/cameras/ring_front_left'
  files.save(place / '1000.jpg', files.picture())
  files.save(place / '3000.jpg', files.picture())
  rows, report = rows_of(tmp_path, 'argoverse2', split='val')
  assert len(rows) == 2 and report.by_reason() == {
    'missing depth': ['log1/ring_front_left/3000']
  }


def test_waymo_labels_move_the_right_way(tmp_path):
  files.waymo(tmp_path)
  bent, _ = rows_of(tmp_path, 'waymo', split='val', lenses='keep')
  straight, _ = rows_of(tmp_path, 'waymo', split='val')
  old, _ = rows_of(tmp_path, 'waymo', split='val', labels='official')
  # 5 m at 45 degrees, 1 m nearer along x by the time of the image.
  side = 5 / math.sqrt(2)
  moved = math.hypot(side - 1, side)
  assert labels_of(bent[0]) == {(33, 15): pytest.approx(moved)}
  assert bent[0]['lens'].coefficients == (0.2, 0.0, 0.0, 0.0, 0.0)
  # r (1 + 0.2 r^2) = 1.3 has r = 1.0605: pixel 20.5 + 10.6 = 31.1.
  low, high = 0.0, 1.3
  for _ in range(50):
    middle = (low + high) / 2
    low, high = (
      (middle, high) if middle + 0.2 * middle**3 < 1.3 else (low, middle)
    )
  x = math.floor(20.5 + 10 * low)
  assert x == 31 and labels_of(straight[0]) == {(x, 15): pytest.approx(moved)}
  # Released: forward instead of back, 1.3 (1 + 0.2 1.3^2) 10 + 20.5 = 37.9.
  assert labels_of(old[0]) == {(37, 15): pytest.approx(5.0)}
  assert old[0]['intrinsics'][2:4] == (20.0, 15.0)
  assert bent[0]['timestamp'] == 1.5
  # Forward is along x of the world, right is against its y.
  turn = bent[0]['world_from_camera'][:3, :3]
  np.testing.assert_allclose(turn @ [0, 0, 1], [1, 0, 0])
  np.testing.assert_allclose(turn @ [1, 0, 0], [0, -1, 0])


def test_scannetpp(tmp_path):
  files.scannetpp(tmp_path)
  rows, report = rows_of(tmp_path, 'scannetpp')
  assert report.frames == len(rows) == 2  # every tenth
  row = rows[0]
  found = labels_of(row)
  # Cells are a quarter of a pixel; the left half is masked.
  assert {x for x, _ in found} == set(range(32, 64))
  assert found[32, 24] == pytest.approx(2 * math.hypot(1, 0.5 / 40, 0.5 / 40))
  assert found[63, 24] == pytest.approx(2 * math.hypot(1, 31.5 / 40, 0.5 / 40))
  (old, _), _ = rows_of(tmp_path, 'scannetpp', labels='official', per_image=100)
  assert old['intrinsics'] == pytest.approx(
    (951.625, 951.625, 639.667, 479.667, 1280, 960), abs=1e-3
  )
  for (x, y), metres in labels_of(old).items():
    xn, yn = (x - 639.6667) / 951.625, (y - 479.6667) / 951.625
    assert x >= 640
    assert metres == pytest.approx(math.sqrt(xn**2 + yn**2 + 4), rel=1e-6)
  worst = max(
    2 * math.hypot(1, (x - 639.6667) / 951.625, (y - 479.6667) / 951.625) / m
    for (x, y), m in labels_of(old).items()
  )
  assert worst > 1.1


def depth_bin(form, cells):
  """`cells` uint16 [n, 192, 256] mm in one of the published forms."""

  def deflated(values):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(values.tobytes()) + packer.flush()

  if form == 'whole':
    return deflated((cells / 1000).astype('<f4'))
  blocks = []
  for frame in cells:
    if form == 'lz4':
      raw = frame.astype('<u2').tobytes()
      block = pyarrow.compress(raw, codec='lz4_raw', asbytes=True)
    else:
      block = deflated((frame / 1000).astype('<f4'))
    blocks.append(struct.pack('<I', len(block)) + block)
  return b''.join(blocks)


@pytest.mark.parametrize('form', ['whole', 'lz4', 'deflated'])
def test_scannetpp_depth_bin(tmp_path, form):
  cells = np.full((3, 192, 256), 500, np.uint16)
  cells[1], cells[2, 5, 7] = 1500, 0
  files.write(tmp_path / 'depth.bin', depth_bin(form, cells))
  depths = scannetpp._Depths(tmp_path)
  for number in (1, 0, 2):
    read = depths.get(f'frame_{number:06d}').astype(int)
    assert np.abs(read - cells[number]).max() <= 1  # float32 metres are cut
    assert read[5, 7] == (0 if number == 2 else pytest.approx(read[0, 0]))


def test_scannetpp_video(tmp_path):
  import av

  files.scannetpp(tmp_path, frames=3)
  root = tmp_path / 'data/scene1/iphone'
  pictures = [files.picture(64, 48, seed=n) for n in range(3)]
  with av.open(str(root / 'rgb.mkv'), 'w') as out:
    stream = out.add_stream('ffv1', rate=30)
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'bgr0'
    for pixels in pictures:
      for packet in stream.encode(av.VideoFrame.from_ndarray(pixels)):
        out.mux(packet)
    for packet in stream.encode():
      out.mux(packet)
  for path in (root / 'rgb').iterdir():
    path.unlink()
  (root / 'rgb').rmdir()
  rows, _ = rows_of(tmp_path, 'scannetpp', every=2)
  assert len(rows) == 2
  for row, number in zip(rows, (0, 2)):
    # Through a jpg of quality 95.
    apart = np.abs(row['image'].astype(int) - pictures[number])
    assert np.median(apart) <= 3


@pytest.mark.parametrize('corpus', ['ddad', 'nuscenes', 'argoverse2'])
@pytest.mark.parametrize('seed', range(3))
def test_points_find_their_pixel_through_every_frame(tmp_path, corpus, seed):
  """Turned and shifted mounts and cars; scipy's rotations as the oracle."""
  from scipy.spatial import transform

  rng = np.random.default_rng(seed)

  def motion():
    turn = transform.Rotation.random(random_state=rng.integers(2**31))
    x, y, z, w = turn.as_quat()
    matrix, shift = np.eye(4), rng.uniform(-3, 3, 3)
    matrix[:3, :3], matrix[:3, 3] = turn.as_matrix(), shift
    return matrix, ([w, x, y, z], shift)

  (m_laser, laser), (m_camera, camera) = motion(), motion()
  (m_before, before), (m_after, after) = motion(), motion()
  flags = {}
  if corpus == 'ddad':
    to_laser, to_camera = m_laser, m_camera
    make = functools.partial(files.ddad, camera=camera, laser=laser)
  elif corpus == 'nuscenes':
    to_laser, to_camera = m_before @ m_laser, m_after @ m_camera
    make = functools.partial(
      files.nuscenes, mounts=(laser, camera), cars=(before, after)
    )
    flags['split'] = 'mini'
  else:
    to_laser, to_camera = m_before, m_after @ m_camera
    make = functools.partial(
      files.argoverse2, mount=camera, cars=(before, after)
    )
    flags['split'] = 'val'
  # u = 4 * 0.6 / 4 + 3.5 = 4.1, v = 5 * 0.3 / 4 + 2.5 = 2.875
  point = np.array([0.6, 0.3, 4, 1])
  cloud = (np.linalg.inv(to_laser) @ to_camera @ point)[:3]
  make(tmp_path, cloud=[cloud])
  (row,), _ = rows_of(tmp_path, corpus, **flags)
  metres = math.hypot(0.6, 0.3, 4)
  assert labels_of(row) == {(4, 2): pytest.approx(metres, rel=3e-3)}
  np.testing.assert_allclose(row['world_from_camera'], to_camera, atol=1e-9)


def test_the_nearest_point_of_a_pixel():
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 5, (200, 2))
  distance = rng.uniform(1, 50, 200)
  chosen = points.nearest(pixels, distance)
  wanted = {}
  for place, metres in zip(map(tuple, pixels.tolist()), distance):
    wanted[place] = min(metres, wanted.get(place, math.inf))
  got = {tuple(pixels[i].tolist()): distance[i] for i in chosen}
  assert got == wanted and len(chosen) == len(wanted)


def test_motions_turn_as_quaternions_say():
  quarter = points.rigid([1, 0, 0, 1], [1, 2, 3])  # 90 degrees about z
  np.testing.assert_allclose(
    points.move(quarter, np.array([[1.0, 0, 0]])), [[1, 3, 3]]
  )
  np.testing.assert_allclose(
    points.inverse(quarter) @ quarter, np.eye(4), atol=1e-12
  )
  with pytest.raises(ValueError, match='quaternion'):
    points.rigid([0, 0, 0, 0], [0, 0, 0])


def test_waymo_points_against_loops(tmp_path):
  rng = np.random.default_rng(3)
  distance = rng.uniform(1, 50, (3, 5))
  poses = rng.uniform(-1, 1, (3, 5, 6))
  inclinations = np.array([-0.3, 0.0, 0.1])
  turn = points.rigid([0.9, 0.01, 0.02, 0.4], [1.4, 0.1, 2.1])

  def about(axis, angle):
    x, y = [k for k in range(3) if k != axis]
    out = np.eye(3)
    out[x, x] = out[y, y] = math.cos(angle)
    out[x, y], out[y, x] = -math.sin(angle), math.sin(angle)
    return out.T if axis == 1 else out

  found = waymo._cloud(
    distance,
    {
      'extrinsic.transform': turn.ravel(),
      'beam_inclination.values': inclinations,
    },
    poses,
  )
  yaw = math.atan2(turn[1, 0], turn[0, 0])
  for row in range(3):
    for column in range(5):
      up = inclinations[2 - row]
      around = (2 * (5 - column - 0.5) / 5 - 1) * math.pi - yaw
      ray = [math.cos(around) * math.cos(up), math.sin(around) * math.cos(up)]
      point = distance[row, column] * np.array([*ray, math.sin(up)])
      point = turn[:3, :3] @ point + turn[:3, 3]
      roll, pitch, yaw_car, *shift = poses[row, column]
      motion = about(2, yaw_car) @ about(1, pitch) @ about(0, roll)
      np.testing.assert_allclose(found[row, column], motion @ point + shift)


def test_rows_serve_training(tmp_path):
  files.waymo(tmp_path, k1=0.0, focal=20.0)
  (row,), _ = rows_of(tmp_path, 'waymo', split='val')
  settings = sample.SampleSettings(focal=20.0)
  query = sample.make_query(row, 0, settings)
  assert query is not None and query['depth'] == pytest.approx(
    math.hypot(5 / math.sqrt(2) - 1, 5 / math.sqrt(2))
  )
