"""Tiny corpora in their published layouts, a few kB each, for the tests.

Every picture is W x H = 8 x 6 unless said; depth is chosen by hand so that a
label can be checked with pencil and paper.
"""

import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image
from pyarrow import feather

W, H = 8, 6


def picture(width=W, height=H, seed=0):
  """uint8 [height, width, 3], smooth enough for jpg."""
  y, x = np.mgrid[:height, :width]
  waves = [x * 7 + y * 3 + seed * 11, x * 2 + y * 9, 255 - x * 5]
  return (np.stack(waves, -1) % 256).astype(np.uint8)


def save(path, pixels, **options):
  """Writes an image; uint16 arrays become 16-bit pngs."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path, **options)


def write(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  if isinstance(text, bytes):
    path.write_bytes(text)
  else:
    path.write_text(text if isinstance(text, str) else json.dumps(text))


def jpg(pixels):
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'JPEG')
  return buffer.getvalue()


def ibims1(folder, names=('corridor_01', 'corridor_02', 'office_01')):
  """z is 0 in column 0 and invalid in row 0, 13107 units elsewhere: 10 m."""
  root = folder / 'ibims1_core_raw'
  raw = np.full((H, W), 13107, np.uint16)
  raw[:, 0] = 0
  valid = np.full((H, W), 255, np.uint8)
  valid[0] = 0
  for seed, name in enumerate(names):
    save(root / 'rgb' / f'{name}.png', picture(seed=seed))
    save(root / 'depth' / f'{name}.png', raw)
    save(root / 'mask_invalid' / f'{name}.png', valid)
    write(root / 'calib' / f'{name}.txt', '4.0,5.0,3.0,2.0\n')


def sunrgbd(folder, place='SUNRGBD/kv2/kinect2data/000002'):
  """16000 units everywhere: 2 m, or 1.6 m as released."""
  root = folder / place
  save(root / 'image' / '0000002.jpg', picture())
  raw = np.full((H, W), 16000, np.uint16)
  raw[0] = 0
  for kind in ('depth', 'depth_bfx'):
    save(root / kind / '0000002.png', raw)
  write(root / 'intrinsics.txt', '4 0 3\n0 5 2\n0 0 1\n')


def nyu_mat(folder, count=3):
  """The HDF5 file, 8 x 6; frame n is n + 1 metres deep."""
  import h5py

  with h5py.File(folder / 'nyu_depth_v2_labeled.mat', 'w') as file:
    pictures = [picture(seed=n).transpose(2, 1, 0) for n in range(count)]
    file['images'] = np.stack(pictures)
    z = np.ones((count, W, H), np.float32)
    file['rawDepths'] = z * np.arange(1, count + 1)[:, None, None]


def matterport3d(folder):
  """8 x 8; 8000 units: 2 m. cy = 5.5 from the bottom, 2.5 from the top."""
  root = folder / 'scan1'
  raw = np.full((8, 8), 8000, np.uint16)
  raw[0, 0] = 0
  save(root / 'undistorted_depth_images' / 'a_d0_0.png', raw)
  save(root / 'undistorted_color_images' / 'a_i0_0.jpg', picture(8, 8))
  motion = '0 0 1 10 0 1 0 20 -1 0 0 30 0 0 0 1'
  write(
    root / 'undistorted_camera_parameters' / 'scan1.conf',
    'dataset matterport\nn_images 1\n'
    'intrinsics_matrix 4 0 3.5  0 5 5.5 0 0 1\n'
    f'scan a_d0_0.png a_i0_0.jpg {motion}\n',
  )


def omnidata(folder, component='taskonomy', buildings=('allen', 'beech')):
  """8 x 8, fov 90 degrees; 1024 units: 2 m; two holes and a masked pixel."""
  raw = np.full((8, 8), 1024, np.uint16)
  raw[0, 0], raw[0, 1] = 0, 65535
  mask = np.full((8, 8), 255, np.uint8)
  mask[0, 2] = 0
  info = {
    'field_of_view_rads': np.pi / 2,
    'resolution': 8,
    'camera_location': [1.0, 2.0, 3.0],
    'camera_rotation_final': [np.pi / 2, 0.0, 0.0],
  }
  for seed, building in enumerate(buildings):
    for view in range(2):
      name = f'point_{view}_view_0_domain_'

      def path(task, end='.png', building=building, name=name):
        return folder / task / component / building / f'{name}{task}{end}'

      save(path('rgb'), picture(8, 8, seed=2 * seed + view))
      save(path('depth_euclidean'), raw)
      save(path('mask_valid'), mask)
      write(path('point_info', '.json'), info)


def eth3d(folder, distortion, z, focal=40.0, name='DSC_0001.JPG'):
  """One image of z's size with a thin-prism fisheye, centred."""
  height, width = z.shape
  root = folder / 'courtyard'
  save(root / 'images' / 'dslr_images' / name, picture(width, height))
  numbers = [focal, focal, width / 2, height / 2, *distortion]
  write(
    root / 'dslr_calibration_jpg' / 'cameras.txt',
    f'# Camera list\n0 THIN_PRISM_FISHEYE {width} {height} '
    + ' '.join(map(str, numbers)),
  )
  # World to camera: a shift of -2 along x, so that the camera sits at x = 2.
  write(
    root / 'dslr_calibration_jpg' / 'images.txt',
    f'# Image list\n1 1 0 0 0 -2 0 0 0 dslr_images/{name}\n1.0 2.0 -1\n',
  )
  write(
    root / 'ground_truth_depth' / 'dslr_images' / name,
    z.astype('<f4').tobytes(),
  )


# A motion is (quaternion w x y z, translation).
HERE = [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
AHEAD = [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0]


def _dgp_pose(motion):
  turn, shift = (list(map(float, numbers)) for numbers in motion)
  return {
    'rotation': dict(zip(('qw', 'qx', 'qy', 'qz'), turn)),
    'translation': dict(zip('xyz', shift)),
  }


def ddad(
  folder, camera=HERE, laser=AHEAD, cloud=((0, 0, 3), (3, 0, 3), (0, 0, 7))
):
  """Laser 1 m ahead of the camera; points at 4 m, at (3, 0, 4), at 8 m."""
  root = folder / 'ddad_train_val'
  scene = '000150/scene_abc.json'
  write(
    root / 'ddad.json',
    {'scene_splits': {'0': {'filenames': []}, '1': {'filenames': [scene]}}},
  )
  save(root / '000150' / 'rgb' / 'CAMERA_01' / '1.png', picture())
  cloud = np.array([[*point, 1] for point in cloud], np.float32)
  path = root / '000150' / 'point_cloud' / 'LIDAR' / '1.npz'
  path.parent.mkdir(parents=True)
  np.savez(path, data=cloud)
  time = '2019-04-30T12:00:00.500000Z'
  image = {
    'filename': 'rgb/CAMERA_01/1.png',
    'width': W,
    'height': H,
    'pose': _dgp_pose(camera),
  }
  laser = {
    'filename': 'point_cloud/LIDAR/1.npz',
    'pose': _dgp_pose(laser),
  }
  write(
    root / scene,
    {
      'data': [
        {
          'key': 'c',
          'id': {'name': 'CAMERA_01', 'timestamp': time},
          'datum': {'image': image},
        },
        {
          'key': 'l',
          'id': {'name': 'LIDAR', 'timestamp': time},
          'datum': {'point_cloud': laser},
        },
      ],
      'samples': [{'calibration_key': 'k', 'datum_keys': ['l', 'c']}],
    },
  )
  numbers = {'fx': 4.0, 'fy': 5.0, 'cx': 3.0, 'cy': 2.0}
  write(
    root / '000150' / 'calibration' / 'k.json',
    {'names': ['LIDAR', 'CAMERA_01'], 'intrinsics': [{}, numbers]},
  )


def nuscenes(
  folder,
  version='v1.0-mini',
  scene='scene-0061',
  mounts=(HERE, HERE),
  cars=(HERE, AHEAD),
  cloud=((0, 0, 5), (3, 0, 5)),
):
  """The car moves 1 m along the view between laser and camera.

  `mounts` and `cars` are those of the laser, then the camera.
  """

  def motion(pair):
    turn, shift = (list(map(float, numbers)) for numbers in pair)
    return {'rotation': turn, 'translation': shift}

  tables = {
    'scene': [{'token': 's', 'name': scene}],
    'sample': [{'token': 'k', 'scene_token': 's', 'timestamp': 10}],
    'sensor': [
      {'token': 'sc', 'channel': 'CAM_FRONT'},
      {'token': 'sl', 'channel': 'LIDAR_TOP'},
    ],
    'calibrated_sensor': [
      {
        'token': 'mc',
        'sensor_token': 'sc',
        'camera_intrinsic': [[4, 0, 3], [0, 5, 2], [0, 0, 1]],
        **motion(mounts[1]),
      },
      {
        'token': 'ml',
        'sensor_token': 'sl',
        'camera_intrinsic': [],
        **motion(mounts[0]),
      },
    ],
    'ego_pose': [
      {'token': 'el', **motion(cars[0])},
      {'token': 'ec', **motion(cars[1])},
    ],
    'sample_data': [
      {
        'sample_token': 'k',
        'calibrated_sensor_token': mount,
        'ego_pose_token': car,
        'filename': name,
        'is_key_frame': True,
        'timestamp': 1_500_000,
        'width': W,
        'height': H,
      }
      for mount, car, name in (
        ('mc', 'ec', 'samples/CAM_FRONT/1.jpg'),
        ('ml', 'el', 'samples/LIDAR_TOP/1.pcd.bin'),
      )
    ],
  }
  for name, rows in tables.items():
    write(folder / version / f'{name}.json', rows)
  save(folder / 'samples' / 'CAM_FRONT' / '1.jpg', picture())
  cloud = np.array([[*point, 0, 0] for point in cloud], np.float32)
  write(folder / 'samples' / 'LIDAR_TOP' / '1.pcd.bin', cloud.tobytes())


def argoverse2(
  folder,
  focal=4.0,
  mount=HERE,
  cars=(HERE, AHEAD),
  cloud=((0, 0, 5), (3, 0, 5)),
):
  """The car moves 1 m along the view between sweep and image."""
  log = folder / 'val' / 'log1'
  save(log / 'sensors' / 'cameras' / 'ring_front_left' / '2000.jpg', picture())

  def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    feather.write_feather(pyarrow.Table.from_pylist(rows), str(path))

  def motion(pair):
    names = 'qw', 'qx', 'qy', 'qz', 'tx_m', 'ty_m', 'tz_m'
    return dict(zip(names, map(float, (*pair[0], *pair[1]))))

  table(
    log / 'calibration' / 'egovehicle_SE3_sensor.feather',
    [{'sensor_name': 'ring_front_left', **motion(mount)}],
  )
  numbers = {'fx_px': focal, 'fy_px': focal + 1, 'cx_px': 3.0, 'cy_px': 2.0}
  size = {'width_px': W, 'height_px': H}
  table(
    log / 'calibration' / 'intrinsics.feather',
    [{'sensor_name': 'ring_front_left', **numbers, **size}],
  )
  table(
    log / 'city_SE3_egovehicle.feather',
    [
      {'timestamp_ns': 1000, **motion(cars[0])},
      {'timestamp_ns': 2000, **motion(cars[1])},
    ],
  )
  cloud = np.array(cloud, np.float16)
  rows = {name: cloud[:, i] for i, name in enumerate('xyz')}
  path = log / 'sensors' / 'lidar' / '1000.feather'
  path.parent.mkdir(parents=True)
  feather.write_feather(pyarrow.table(rows), str(path))


WAYMO_SIZE = 40, 30


def waymo(folder, k1=0.2, focal=10.0):
  """One echo at 5 m, 45 degrees to the left, on pixel (33, 15) of camera 1.

  The car moves 1 m forward between laser frame and image.
  """
  names = iter(range(99))

  def component(name, class_name, key, **fields):
    keys = {'key.segment_context_name': ['seg'], **key}
    row = {f'[{class_name}].{k}': [v] for k, v in fields.items()}
    path = folder / 'validation' / name / 'seg.parquet'
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(
      pyarrow.table({'index': [f'{next(names)}'], **keys, **row}), str(path)
    )

  frame = {'key.frame_timestamp_micros': [7]}
  roof, camera = {'key.laser_name': [1]}, {'key.camera_name': [1]}
  still, ahead = np.eye(4), np.eye(4)
  ahead[0, 3] = 1.0
  width, height = WAYMO_SIZE

  component(
    'camera_image',
    'CameraImageComponent',
    frame | camera,
    image=jpg(picture(width, height)),
    pose_timestamp=1.5,
    **{'pose.transform': ahead.ravel().tolist()},
  )
  lens = dict(f_u=focal, f_v=focal, c_u=20.5, c_v=15.5, k1=k1, k2=0.0)
  lens |= dict(p1=0.0, p2=0.0, k3=0.0)
  component(
    'camera_calibration',
    'CameraCalibrationComponent',
    camera,
    width=width,
    height=height,
    **{f'intrinsic.{k}': v for k, v in lens.items()},
    **{'extrinsic.transform': still.ravel().tolist()},
  )
  component(
    'vehicle_pose',
    'VehiclePoseComponent',
    frame,
    **{'world_from_vehicle.transform': still.ravel().tolist()},
  )
  component(
    'lidar_calibration',
    'LiDARCalibrationComponent',
    roof,
    **{
      'extrinsic.transform': still.ravel().tolist(),
      'beam_inclination.min': -0.5,
      'beam_inclination.max': 0.5,
      # From the lowest up, as published; rows of the image run downwards.
      'beam_inclination.values': [-0.5, 0.0],
    },
  )

  def image(name, class_name, values):
    component(
      name,
      class_name,
      frame | roof,
      **{
        'range_image_return1.values': values.astype(np.float32).ravel(),
        'range_image_return1.shape': list(values.shape),
      },
    )

  distance = np.zeros((2, 4, 4))
  distance[0, 1, 0] = 5.0  # row 0 looks along the horizon, column 1 at 45 deg
  image('lidar', 'LiDARComponent', distance)
  image('lidar_pose', 'LiDARPoseComponent', np.zeros((2, 4, 6)))
  places = np.zeros((2, 4, 6))
  places[0, 1] = [2, 1, 1, 1, 33, 15]
  image('lidar_camera_projection', 'LiDARCameraProjectionComponent', places)


SCANNET_SIZE = 64, 48


def scannetpp(folder, frames=11, depth=2000):
  """256 x 192 cells of `depth` mm for 64 x 48 pixels; a masked left half."""
  root = folder / 'data' / 'scene1' / 'iphone'
  width, height = SCANNET_SIZE
  facts = {
    'timestamp': 0.5,
    'intrinsic': [[40.0, 0, 31.5], [0, 40.0, 23.5], [0, 0, 1]],
    'aligned_pose': np.eye(4).tolist(),
  }
  names = [f'frame_{n:06d}' for n in range(frames)]
  write(root / 'pose_intrinsic_imu.json', dict.fromkeys(names, facts))
  cells = np.full((192, 256), depth, np.uint16)
  mask = np.zeros((height, width), np.uint8)
  mask[:, width // 2 :] = 255
  for seed, name in enumerate(names):
    save(root / 'rgb' / f'{name}.jpg', picture(width, height, seed))
    save(root / 'depth' / f'{name}.png', cells)
    save(root / 'rgb_masks' / f'{name}.png', mask)
