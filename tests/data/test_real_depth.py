"""Real photographs with depth: the layouts of two Debian packages."""

import numpy as np
import pytest
from PIL import Image

from data.sources import real_depth, sr300


def write_aloe(root):
  folder = root / real_depth.ALOE
  folder.mkdir(parents=True)
  disparity = np.full((20, 30), 60, np.uint8)
  disparity[:, :5] = 0
  Image.fromarray(disparity).save(folder / 'aloeGT.png')
  Image.new('RGB', (30, 20), (10, 200, 30)).save(folder / 'aloeL.jpg')


def write_castle(root, frames=2):
  folder = root / real_depth.CASTLE
  (folder / 'castel').mkdir(parents=True)
  pose = np.eye(4)
  pose[0, 3] = -0.025
  np.savetxt(folder / sr300.POSE, pose)
  units = np.full((480, 640), 4000, '<u2')
  units[:, 320:] = 2000
  for number in range(frames):
    grey = np.zeros((480, 640), np.uint8)
    Image.fromarray(grey).save(folder / f'castel/image_{number:04d}.pgm')
    (folder / f'castel/depth_image_{number:04d}.bin').write_bytes(
      np.array([480, 640], '<u4').tobytes() + units.tobytes()
    )
  return folder


def test_only_what_is_installed_is_there(tmp_path, monkeypatch):
  monkeypatch.setenv('VLM_DEBIAN', str(tmp_path))
  assert [name for name, _ in real_depth.installed()] == ['motorcycle']
  write_aloe(tmp_path)
  write_castle(tmp_path)
  found = dict(real_depth.installed())
  assert list(found) == ['motorcycle', 'aloe', 'castle']
  assert len(found['castle']) == 2


def test_aloe_in_metres(tmp_path, monkeypatch):
  monkeypatch.setenv('VLM_DEBIAN', str(tmp_path))
  write_aloe(tmp_path)
  ((photo,),) = (p for name, p in real_depth.installed() if name == 'aloe')
  assert np.isnan(photo.z[:, :5]).all()
  np.testing.assert_allclose(photo.z[:, 5:], 0.16 * 3740 / 330, rtol=1e-6)
  assert (photo.range[:, 5:] >= photo.z[:, 5:]).all()
  assert photo.intrinsics == (3740, 3740, 15, 10, 30, 20)


def test_depth_is_carried_into_the_picture(tmp_path):
  """Point by point: the nearest of those that fall into a pixel."""
  rng = np.random.default_rng(0)
  part = rng.uniform(0.3, 0.5, (30, 40))
  part[rng.random((30, 40)) < 0.3] = np.nan
  measured = np.full((480, 640), np.nan)
  measured[200:230, 300:340] = part
  pose = np.eye(4)
  pose[:3, 3] = 0.02, -0.01, 0.005
  shape = (480, 640)
  want = np.full(shape, np.nan)
  (near, near_centre), (far, far_centre) = sr300.DEPTH, sr300.COLOUR
  for y in range(200, 230):
    for x in range(300, 340):
      z = measured[y, x]
      if np.isnan(z):
        continue
      point = pose[:3, :3] @ [
        (x - near_centre[0]) / near * z,
        (y - near_centre[1]) / near * z,
        z,
      ]
      point = point + pose[:3, 3]
      column = round(point[0] / point[2] * far + far_centre[0])
      row = round(point[1] / point[2] * far + far_centre[1])
      if 0 <= column < 640 and 0 <= row < 480:
        want[row, column] = np.fmin(want[row, column], point[2])
  got = sr300.carried_over(measured, pose, shape)
  assert np.isfinite(want).sum() > 300
  np.testing.assert_allclose(got, want)


def test_a_castle_frame(tmp_path):
  folder = write_castle(tmp_path)
  frame, _ = sr300.frames(folder)
  assert frame.rgb.shape == (480, 640, 3)
  known = np.isfinite(frame.z)
  assert 0.3 < known.mean() < 0.9  # the picture has more pixels than points
  assert set(np.round(frame.z[known] / sr300.UNIT)) == {2000.0, 4000.0}


def test_bad_castle_files_are_named(tmp_path):
  folder = write_castle(tmp_path)
  short = folder / 'castel/depth_image_0001.bin'
  short.write_bytes(short.read_bytes()[:-10])
  with pytest.raises(ValueError, match='depth_image_0001.bin: 614398'):
    list(sr300.frames(folder))
  short.unlink()
  with pytest.raises(FileNotFoundError, match='depth_image_0001'):
    list(sr300.frames(folder))
