"""Pinhole cameras: intrinsics, poses, rays and projection.

Frames. World: x right, y forward, z up, metres. Camera: x right, y down,
z forward (OpenCV). `world_from_camera` is a 4x4 rigid transform.

Pixels. Image coordinates are continuous with pixel i covering [i, i + 1), so
the centre of pixel i is i + 0.5 and a centred principal point is W / 2. A
resize by s then maps a coordinate u to s * u and multiplies fx and cx by the
same s, with no half-pixel term. The ray of pixel (x, y) passes through
(x + 0.5, y + 0.5).
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Camera:
  """A pinhole camera: focal lengths and principal point in pixels."""

  fx: float
  fy: float
  cx: float
  cy: float
  width: int
  height: int
  world_from_camera: np.ndarray  # [4, 4] float64

  @property
  def intrinsics(self) -> tuple[float, float, float, float, int, int]:
    """(fx, fy, cx, cy, W, H), the order of the published row format."""
    return (self.fx, self.fy, self.cx, self.cy, self.width, self.height)

  @property
  def matrix(self) -> np.ndarray:
    """K, [3, 3] float64."""
    return np.array(
      [[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], np.float64
    )


def look_from(
  position, yaw: float, pitch: float = 0.0, roll: float = 0.0
) -> np.ndarray:
  """Pose of a camera at `position` (metres); angles in radians.

  yaw 0 looks along world +y and grows to the right (towards +x); pitch grows
  upwards; roll turns the camera clockwise about its axis.

  Returns:
    world_from_camera, [4, 4] float64.
  """
  cos_y, sin_y = math.cos(yaw), math.sin(yaw)
  cos_p, sin_p = math.cos(pitch), math.sin(pitch)
  forward = np.array([sin_y * cos_p, cos_y * cos_p, sin_p])
  right = np.array([cos_y, -sin_y, 0.0])
  down = np.cross(forward, right)
  cos_r, sin_r = math.cos(roll), math.sin(roll)
  pose = np.eye(4)
  pose[:3, 0] = cos_r * right + sin_r * down
  pose[:3, 1] = cos_r * down - sin_r * right
  pose[:3, 2] = forward
  pose[:3, 3] = position
  return pose


def pixel_rays(camera: Camera) -> np.ndarray:
  """Camera-frame directions ((u-cx)/fx, (v-cy)/fy, 1), [H, W, 3] float32.

  The third component is 1, so a ray's parameter is the depth z.
  """
  rays = np.ones((camera.height, camera.width, 3), np.float32)
  u = (np.arange(camera.width) + (0.5 - camera.cx)) / camera.fx
  v = (np.arange(camera.height) + (0.5 - camera.cy)) / camera.fy
  rays[..., 0] = u
  rays[..., 1] = v[:, None]
  return rays


def project(camera: Camera, points: np.ndarray) -> np.ndarray:
  """World points [..., 3] -> (u, v, z) [..., 3]; u, v are continuous pixels.

  Points with z <= 0 are behind the camera; their u, v mean nothing.
  """
  rotation = camera.world_from_camera[:3, :3]
  local = (np.asarray(points) - camera.world_from_camera[:3, 3]) @ rotation
  z = local[..., 2]
  with np.errstate(divide='ignore', invalid='ignore'):
    u = camera.fx * local[..., 0] / z + camera.cx
    v = camera.fy * local[..., 1] / z + camera.cy
  return np.stack([u, v, z], -1)
