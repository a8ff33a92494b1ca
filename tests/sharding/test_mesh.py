"""The mesh takes its sizes from the config and refuses what does not divide."""

import types

import jax
import pytest
from ml_collections import ConfigDict

from vlm.sharding.mesh import MeshShape, check_batch_size, make_mesh, reshaped


def test_minus_one_takes_the_rest():
  mesh = make_mesh(dict(data=2, fsdp=-1, tensor=2))
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'tensor': 2}
  assert all(t == jax.sharding.AxisType.Auto for t in mesh.axis_types)


def test_config_dict_and_subset_of_devices():
  mesh = make_mesh(ConfigDict(dict(data=-1, fsdp=2)), jax.devices()[:4])
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'tensor': 1}


def test_slices_extend_data_only():
  mesh = make_mesh(MeshShape(data=1, fsdp=-1, tensor=2, dcn_data=2))
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'tensor': 2}
  # Without slices in the devices, the first half is the first slice.
  first = {device.id for device in mesh.devices[0].flat}
  assert first == {0, 1, 2, 3}


@pytest.mark.parametrize(
  ('config', 'words'),
  [
    (dict(fsdp=3), ['--config.mesh.fsdp=3', '8 devices']),
    (dict(data=4, fsdp=1), ['--config.mesh.data=4', 'exactly', '8 devices']),
    (dict(fsdp=-1, tensor=3), ['--config.mesh.tensor=3', 'a divisor']),
    (dict(data=-1, fsdp=-1), ['--config.mesh.data=-1', 'at most one']),
    (dict(fsdp=0), ['--config.mesh.fsdp=0', 'positive']),
    (dict(dcn_data=-1), ['--config.mesh.dcn_data=-1', 'positive']),
    (dict(dcn_data=3), ['--config.mesh.dcn_data=3', '8 devices']),
    (dict(model=2), ['--config.mesh.model', 'unknown', 'tensor']),
  ],
)
def test_errors_name_the_flag(config, words):
  with pytest.raises(ValueError) as error:
    make_mesh(config)
  for word in words:
    assert word in str(error.value)


def test_slices_must_be_declared():
  devices = [types.SimpleNamespace(id=i, slice_index=i // 4) for i in range(8)]
  with pytest.raises(ValueError, match=r'dcn_data=1, expected 2'):
    make_mesh(dict(fsdp=-1), devices)


def test_batch_size_must_split():
  mesh = make_mesh(dict(data=2, fsdp=2, tensor=2))
  check_batch_size(mesh, 24, accumulate=3)
  with pytest.raises(ValueError) as error:
    check_batch_size(mesh, 20, accumulate=3)
  for word in ('--config.batch_size=20', 'multiple of 12', '12 or 24'):
    assert word in str(error.value)
  with pytest.raises(ValueError, match='accumulate=0'):
    check_batch_size(mesh, 8, accumulate=0)
  with pytest.raises(ValueError, match='--config.rollout.rows=3, expected'):
    check_batch_size(mesh, 3, flag='--config.rollout.rows')


def test_another_shape_keeps_the_order_of_the_devices():
  mesh = make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  wide = reshaped(mesh, {'data': -1, 'fsdp': 1, 'tensor': 1})
  assert dict(wide.shape) == {'data': 8, 'fsdp': 1, 'tensor': 1}
  assert list(wide.devices.flat) == list(mesh.devices.flat)
  with pytest.raises(ValueError, match='--config.mesh.tensor=3'):
    reshaped(mesh, {'data': 1, 'fsdp': -1, 'tensor': 3})
  with pytest.raises(ValueError, match='--config.rollout.mesh.tensor=3: '):
    reshaped(mesh, {'fsdp': -1, 'tensor': 3}, '--config.rollout.mesh')
