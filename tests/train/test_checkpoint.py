"""Checkpoints: only whole ones count, and everything comes back."""

import logging
import os
import shutil

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.sharding.mesh import make_mesh
from vlm.train import manifest
from vlm.train.checkpoint import Checkpoints, NoGoodCheckpoint

P = jax.P
FSDP = P('fsdp')


def make_state(step, mesh, spec=FSDP):
  kernel = np.arange(64, dtype=np.float32).reshape(8, 8) + step
  return {
    'params': {
      'dense': {
        'kernel': jax.device_put(kernel, jax.NamedSharding(mesh, spec)),
        'bias': jax.device_put(
          jnp.full(3, step, jnp.bfloat16), jax.NamedSharding(mesh, P())
        ),
      }
    },
    'step': jax.device_put(np.int32(step), jax.NamedSharding(mesh, P())),
  }


def abstract_of(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state,
  )


def make_data():
  return iter(
    grain.MapDataset.range(100).seed(3).shuffle().to_iter_dataset().batch(4)
  )


@pytest.fixture(scope='module')
def mesh():
  return make_mesh({'data': 1, 'fsdp': 8, 'tensor': 1})


@pytest.fixture(scope='module')
def pristine(tmp_path_factory, mesh):
  """A folder with good checkpoints of steps 10 and 20."""
  root = tmp_path_factory.mktemp('pristine')
  checkpoints = Checkpoints(root)
  data = make_data()
  for step in (10, 20):
    next(data)
    checkpoints.save(step, make_state(step, mesh), data=data)
  checkpoints.close()
  return root


def test_round_trip_on_another_mesh_shape(pristine, mesh):
  other = make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  state = make_state(20, other, P('fsdp', 'tensor'))
  checkpoints = Checkpoints(pristine)
  assert checkpoints.latest() == 20
  restored, facts = checkpoints.restore(abstract_of(state), step=20)
  assert facts.step == 20 and facts.processes == 1
  jax.tree.map(np.testing.assert_array_equal, restored, state)
  kernel = restored['params']['dense']['kernel']
  assert kernel.sharding.is_equivalent_to(
    jax.NamedSharding(other, P('fsdp', 'tensor')), 2
  )
  assert restored['params']['dense']['bias'].dtype == jnp.bfloat16


def test_a_relative_folder_will_do(tmp_path, mesh, monkeypatch):
  monkeypatch.chdir(tmp_path)
  checkpoints = Checkpoints('runs/one')
  state = make_state(3, mesh)
  checkpoints.save(3, state)
  checkpoints.close()
  monkeypatch.chdir('/')
  assert checkpoints.latest() == 3
  restored, _ = checkpoints.restore(abstract_of(state), step=3)
  np.testing.assert_array_equal(
    restored['params']['dense']['kernel'], state['params']['dense']['kernel']
  )


def test_the_position_in_the_data_comes_back(pristine, mesh):
  reference = make_data()
  next(reference)
  data = make_data()
  Checkpoints(pristine).restore(
    abstract_of(make_state(0, mesh)), step=10, data=data
  )
  for _ in range(3):
    np.testing.assert_array_equal(next(data), next(reference))


def test_evaluation_reads_parameters_only(pristine, mesh):
  params = make_state(10, mesh)['params']
  restored, _ = Checkpoints(pristine).restore(
    {'params': abstract_of(params)}, step=10, partial=True
  )
  assert list(restored) == ['params']
  jax.tree.map(np.testing.assert_array_equal, restored['params'], params)


@pytest.mark.parametrize(
  ('change', 'told'),
  [
    (lambda p: p.pop('bias'), r'extra +params/dense/bias bfloat16\[3\]'),
    (
      lambda p: p.update(scale=p['bias']),
      r'missing +params/dense/scale bfloat16\[3\]',
    ),
    (
      lambda p: p.update(bias=jax.ShapeDtypeStruct((4,), jnp.bfloat16)),
      r'differs +params/dense/bias: checkpoint bfloat16\[3\],'
      r' model bfloat16\[4\]',
    ),
    (
      lambda p: p.update(bias=jax.ShapeDtypeStruct((3,), jnp.float32)),
      r'params/dense/bias: checkpoint bfloat16\[3\], model float32\[3\]',
    ),
  ],
)
def test_structure_drift_names_the_path(pristine, mesh, change, told):
  abstract = abstract_of(make_state(0, mesh))
  change(abstract['params']['dense'])
  with pytest.raises(ValueError, match=told):
    Checkpoints(pristine).restore(abstract, step=20)


def test_another_worker_count_names_the_flag(pristine, mesh):
  checkpoints = Checkpoints(pristine, workers=2)
  abstract = abstract_of(make_state(0, mesh))
  with pytest.raises(ValueError, match=r'--config\.data\.workers=0'):
    checkpoints.restore(abstract, step=20, data=make_data())
  checkpoints.restore(abstract, step=20)  # without data it does not matter


def test_another_process_count_names_the_flag(pristine, monkeypatch):
  checkpoints = Checkpoints(pristine)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(ValueError, match='--num_processes=1, this run has 2'):
    checkpoints._check_topology(checkpoints.facts(20), checkpoints.path(20))


def files_of(folder):
  return sorted(p for p in folder.rglob('*') if p.is_file())


def test_a_checkpoint_cut_at_any_byte_is_never_taken(
  pristine, tmp_path, caplog
):
  """Truncates every file at many places, flips bytes, deletes files."""
  root = tmp_path / 'run'
  shutil.copytree(pristine, root)
  folder = root / '00000020'
  names = [p.relative_to(folder) for p in files_of(folder)]
  assert any(name.name.startswith('manifest_0-of-1') for name in names)
  tried = 0
  for name in names:
    path = folder / name
    whole = path.read_bytes()
    cuts = {0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 1}
    if name.name.startswith('manifest_'):
      cuts = set(range(len(whole)))  # at every byte
    for cut in sorted(c for c in cuts if 0 <= c < len(whole)):
      path.write_bytes(whole[:cut])
      caplog.clear()
      assert Checkpoints(root).latest() == 10, (name, cut)
      assert str(folder) in caplog.text
      tried += 1
    if whole:
      middle = len(whole) // 2
      flipped = bytes([whole[middle] ^ 1])
      path.write_bytes(whole[:middle] + flipped + whole[middle + 1 :])
      assert Checkpoints(root).latest() == 10, name
    path.unlink()
    assert Checkpoints(root).latest() == 10, name
    path.write_bytes(whole)
  assert tried > 100
  assert Checkpoints(root).latest() == 20


def test_the_warning_names_the_file(pristine, tmp_path, caplog):
  root = tmp_path / 'run'
  shutil.copytree(pristine, root)
  os.truncate(root / '00000020' / '_CHECKPOINT_METADATA', 7)
  with caplog.at_level(logging.WARNING):
    assert Checkpoints(root).latest() == 10
  assert '_CHECKPOINT_METADATA has 7 bytes, expected' in caplog.text


def test_when_none_is_good_each_is_named(pristine, tmp_path):
  root = tmp_path / 'run'
  shutil.copytree(pristine, root)
  os.truncate(root / '00000010' / '_CHECKPOINT_METADATA', 7)
  (root / '00000020' / 'manifest_0-of-1.json').unlink()
  with pytest.raises(NoGoodCheckpoint) as error:
    Checkpoints(root).latest()
  assert '00000010: _CHECKPOINT_METADATA has 7 bytes' in str(error.value)
  assert '00000020: it was never finished' in str(error.value)


def test_restore_refuses_a_damaged_step(pristine, tmp_path, mesh):
  root = tmp_path / 'run'
  shutil.copytree(pristine, root)
  (root / '00000020' / '_CHECKPOINT_METADATA').unlink()
  with pytest.raises(manifest.Damaged, match='METADATA is missing'):
    Checkpoints(root).restore(abstract_of(make_state(0, mesh)), step=20)


def test_a_first_save_that_was_killed_means_a_fresh_start(tmp_path, mesh):
  (tmp_path / '00000010').mkdir()
  (tmp_path / '00000010' / 'half').write_text('x')
  (tmp_path / '00000010.orbax-checkpoint-tmp').mkdir()
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest() is None
  checkpoints.save(5, make_state(5, mesh))
  checkpoints.close()
  assert [p.name for p in tmp_path.iterdir()] == ['00000005']


def test_a_damaged_step_is_written_again(pristine, tmp_path, mesh):
  root = tmp_path / 'run'
  shutil.copytree(pristine, root)
  os.truncate(root / '00000020' / '_CHECKPOINT_METADATA', 7)
  checkpoints = Checkpoints(root)
  abstract = abstract_of(make_state(0, mesh))
  checkpoints.restore(abstract, step=checkpoints.latest())
  checkpoints.save(20, make_state(20, mesh))
  checkpoints.close()
  again = Checkpoints(root)
  assert again.latest() == 20
  restored, _ = again.restore(abstract, step=20)
  assert int(restored['step']) == 20


def test_keeps_the_last_and_the_best(tmp_path, mesh):
  scores = {1: 0.3, 2: 0.9, 3: 0.5, 4: 0.4}
  for mode, best in (('max', 2), ('min', 1)):
    checkpoints = Checkpoints(
      tmp_path / mode, keep_last=1, keep_best='eval/a', best_mode=mode
    )
    for step, score in scores.items():
      checkpoints.save(step, make_state(step, mesh), metrics={'eval/a': score})
    checkpoints.wait()
    assert checkpoints.best() == best
    assert checkpoints.steps() == [best, 4]


def test_a_missing_metric_is_said(tmp_path, mesh, caplog):
  checkpoints = Checkpoints(tmp_path, keep_best='eval/delta1')
  checkpoints.save(1, make_state(1, mesh), metrics={'loss': 2.0})
  checkpoints.close()
  assert "keep_best='eval/delta1' is not among" in caplog.text
  assert 'loss' in caplog.text


def test_a_save_is_not_disturbed_by_donation(tmp_path, mesh):
  """The arrays have left the devices when save returns."""
  bump = jax.jit(
    lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0
  )
  state = make_state(7, mesh)
  abstract = abstract_of(state)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(7, state)
  for _ in range(20):
    state = bump(state)
  checkpoints.close()
  restored, _ = Checkpoints(tmp_path).restore(abstract, step=7)
  jax.tree.map(np.testing.assert_array_equal, restored, make_state(7, mesh))


def test_an_error_in_the_background_surfaces(tmp_path, mesh, monkeypatch):
  def fail(*args, **kwargs):
    raise OSError('No space left on device')

  monkeypatch.setattr(manifest, 'write', fail)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, make_state(1, mesh))
  with pytest.raises(OSError, match='No space left'):
    checkpoints.wait()
  assert checkpoints.steps() == []
