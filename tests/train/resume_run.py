"""A tiny job that can be killed at any moment and started again.

    python resume_run.py WORKDIR [--steps=40] [--pace=0.01] [--poison=STEP]

Leaves WORKDIR/metrics.jsonl, order.txt (a line per batch drawn: step, ids) and
final.npz. Not a test itself: test_resume.py starts it.
"""

import argparse
import pathlib
import sys
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np

from vlm.sharding.mesh import make_mesh
from vlm.train import loop
from vlm.train import state as states
from vlm.train.checkpoint import Checkpoints
from vlm.train.optimizer import make_optimizer
from vlm.train.scalars import ScalarLog
from vlm.train.step import make_step


class Batches:
  """A shuffled grain pipeline which notes what it hands out."""

  def __init__(self, workdir, pace, poison):
    self._pace, self._poison = pace, poison
    self._order = (workdir / 'order.txt').open('a')
    self._data = iter(
      grain.MapDataset.range(500)
      .seed(7)
      .shuffle()
      .random_map(lambda i, rng: {'id': i, 'x': rng.normal(size=3)})
      .repeat()
      .to_iter_dataset(grain.ReadOptions(num_threads=2))
      .batch(4)
    )
    self.step = 0

  def __iter__(self):
    return self

  def __next__(self):
    batch = next(self._data)
    self.step += 1
    time.sleep(self._pace)
    self._order.write(f'{self.step} {batch["id"].tolist()}\n')
    self._order.flush()
    x = batch['x'].astype(np.float32)
    if self.step == self._poison:
      x[0, 0] = np.nan
    return {'x': x, '_id': batch['id']}

  def get_state(self):
    return self._data.get_state()

  def set_state(self, state):
    self._data.set_state(state)


def init(key):
  return {
    'dense': {'kernel': jax.random.normal(key, (3, 8))},
    'head': {'kernel': jnp.ones((8, 1))},
  }


def objective(params, batch, key):
  hidden = jnp.tanh(batch['x'] @ params['dense']['kernel'])
  hidden *= jax.random.bernoulli(key, 0.9, hidden.shape)
  error = hidden @ params['head']['kernel'] - batch['x'].sum(1, keepdims=True)
  loss = jnp.sum(error**2)
  return loss, {'loss': (loss, jnp.float32(batch['x'].shape[0]))}


def evaluate(state, step):
  return {'eval/norm': float(jnp.sum(state['params']['dense']['kernel'] ** 2))}


def main(argv):
  parser = argparse.ArgumentParser()
  parser.add_argument('workdir', type=pathlib.Path)
  parser.add_argument('--steps', type=int, default=40)
  parser.add_argument('--pace', type=float, default=0.01)
  parser.add_argument('--poison', type=int, default=0)
  args = parser.parse_args(argv)
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', 2)
  args.workdir.mkdir(parents=True, exist_ok=True)

  mesh = make_mesh({'data': 1, 'fsdp': -1, 'tensor': 1})
  abstract_params = jax.eval_shape(init, jax.random.key(0))
  optimizer = make_optimizer({'lr': 1e-2}, abstract_params, args.steps)
  abstract = states.abstract_state(abstract_params, optimizer, mesh)
  step_fn = make_step(
    objective,
    optimizer,
    mesh=mesh,
    state_shardings=states.state_shardings(abstract),
    seed=3,
  )
  batches = Batches(args.workdir, args.pace, args.poison)
  checkpoints = Checkpoints(
    args.workdir / 'checkpoints',
    keep_last=2,
    keep_best='eval/norm',
    best_mode='min',
  )
  progress = None
  if (step := checkpoints.latest()) is None:
    step = 0
    state = states.init_state(init, optimizer, mesh, key=jax.random.key(1))
  else:
    state, facts = checkpoints.restore(abstract, step=step, data=batches)
    progress = facts.progress
  batches.step = step
  scalars = ScalarLog(args.workdir, step=step)
  print('ready', step, flush=True)
  state = loop.train(
    state,
    step_fn,
    batches,
    steps=args.steps,
    mesh=mesh,
    log_every=3,
    scalars=scalars,
    evaluate=evaluate,
    eval_every=10,
    checkpoints=checkpoints,
    checkpoint_every=4,
    progress=progress,
  )
  scalars.close()
  checkpoints.close()
  leaves = jax.tree_util.tree_leaves_with_path(state)
  np.savez(
    args.workdir / 'final.npz',
    **{jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves},
  )


if __name__ == '__main__':
  main(sys.argv[1:])
