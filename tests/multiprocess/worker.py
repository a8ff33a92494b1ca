"""One process of a tiny two-process job; started by test_two_processes.py.

    python worker.py WORKDIR STEPS [--process_id=0 --num_processes=2 ...]

Trains on 2 devices in all, whatever the number of processes, and writes
WORKDIR/final.npz from process 0.
"""

import pathlib
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax.experimental import multihost_utils

from launch.pods import distributed
from vlm.sharding.mesh import make_mesh
from vlm.train import loop
from vlm.train import state as states
from vlm.train.checkpoint import Checkpoints
from vlm.train.optimizer import make_optimizer
from vlm.train.scalars import ScalarLog
from vlm.train.step import make_step

PACE = flags.DEFINE_float('pace', 0.0, 'Seconds per batch.')
DEVICES, ROWS = 2, 8


def init(key):
  return {'dense': {'kernel': jax.random.normal(key, (4, 6))}}


def objective(params, batch, key):
  error = batch['x'] @ params['dense']['kernel'] - batch['x'][:, :1]
  loss = jnp.sum(error**2 * batch['weight'][:, None])
  return loss, {'loss': (loss, jnp.sum(batch['weight']))}


class Batches:
  """This process's rows of the global batches."""

  def __init__(self):
    rank, count = jax.process_index(), jax.process_count()

    def rows(block):
      rng = np.random.default_rng(block)
      rows = {
        'x': rng.normal(size=(ROWS, 4)).astype(np.float32),
        'weight': rng.integers(0, 3, ROWS).astype(np.float32),
      }
      size = ROWS // count
      mine = slice(rank * size, (rank + 1) * size)
      return {name: value[mine] for name, value in rows.items()}

    self._data = iter(
      grain.MapDataset.range(1000).seed(2).shuffle().map(rows).to_iter_dataset()
    )
    self.get_state, self.set_state = self._data.get_state, self._data.set_state

  def __next__(self):
    time.sleep(PACE.value)
    return next(self._data)


def main(argv):
  workdir, steps = pathlib.Path(argv[1]), int(argv[2])
  jax.config.update('jax_platforms', 'cpu')
  job = distributed.initialize_from_flags()
  jax.config.update('jax_num_cpu_devices', DEVICES // (job.count if job else 1))
  mesh = make_mesh({'data': 1, 'fsdp': DEVICES, 'tensor': 1})
  abstract_params = jax.eval_shape(init, jax.random.key(0))
  optimizer = make_optimizer(
    {'lr': 1e-2, 'schedule': 'constant'}, abstract_params, steps
  )
  # the kernel is split over the processes, so that saving has to gather
  rules = ((r'dense/kernel', ('fsdp', None)),)
  abstract = states.abstract_state(abstract_params, optimizer, mesh, rules)
  step_fn = make_step(
    objective,
    optimizer,
    mesh=mesh,
    state_shardings=states.state_shardings(abstract),
  )
  batches = Batches()
  checkpoints = Checkpoints(workdir / 'checkpoints', keep_last=2)
  progress, step = None, checkpoints.latest()
  if step is None:
    state = states.init_state(
      init, optimizer, mesh, rules, key=jax.random.key(1)
    )
  else:
    state, facts = checkpoints.restore(abstract, step=step, data=batches)
    progress = facts.progress
  scalars = ScalarLog(workdir, step=step or 0)
  print('ready', step, flush=True)
  state = loop.train(
    state,
    step_fn,
    batches,
    steps=steps,
    mesh=mesh,
    log_every=5,
    scalars=scalars,
    checkpoints=checkpoints,
    checkpoint_every=4,
    progress=progress,
  )
  scalars.close()
  checkpoints.close()
  whole = multihost_utils.process_allgather(state, tiled=True)
  if jax.process_index() == 0:
    leaves = jax.tree_util.tree_leaves_with_path(whole)
    np.savez(
      workdir / 'final.npz',
      **{jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves},
    )


if __name__ == '__main__':
  app.run(main)
