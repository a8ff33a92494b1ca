"""What the training loop costs over the bare compiled step, side by side.

    JAX_PLATFORMS=cpu PYTHONPATH=. python tests/benchmarks/loop_overhead.py

Alternates a bare `for batch: state, _ = step(state, batch)` over batches which
lie on the device already with `vlm.train.loop.train`, which transfers them,
sums metrics, logs every 10 steps to files and beats a watchdog. Prints step
times, the ratio of their medians, and the spread over rounds; wall clock and
CPU time (the latter is the one to trust on a machine that others use too).
"""

import logging
import statistics
import tempfile
import time

import jax
import numpy as np
from absl import app, flags

from vlm.models import registry
from vlm.models.qwen2 import Qwen2Config
from vlm.sharding.batch import to_global
from vlm.sharding.mesh import make_mesh
from vlm.train import loop
from vlm.train import state as states
from vlm.train.metrics import Throughput
from vlm.train.optimizer import make_optimizer
from vlm.train.scalars import ScalarLog
from vlm.train.sft import sft
from vlm.train.step import make_step
from vlm.train.watchdog import Watchdog

ROUNDS = flags.DEFINE_integer('rounds', 10, 'Pairs of measurements.')
STEPS = flags.DEFINE_integer('steps', 50, 'Steps per measurement.')
ROWS, LENGTH = 4, 48
MODEL = Qwen2Config(
  vocab_size=256,
  width=128,
  depth=4,
  heads=4,
  kv_heads=2,
  head_dim=32,
  mlp_width=512,
  tied_head=True,
)


def make_batch(seed):
  """The tiny VLM's batch: text, and tiles as heavy as an image's."""
  rng = np.random.default_rng(seed)
  shape = (ROWS, LENGTH)
  return {
    'tokens': rng.integers(1, 256, shape).astype(np.int32),
    'segment_ids': np.ones(shape, np.int32),
    'positions': np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1)),
    'loss_mask': np.ones(shape, np.float32),
    'pixels': rng.integers(0, 256, (ROWS, 2, 48, 48, 3)).astype(np.uint8),
    '_record': np.arange(ROWS),
  }


def timed(run):
  wall, cpu = time.perf_counter(), time.process_time()
  run()
  return time.perf_counter() - wall, time.process_time() - cpu


def main(argv):
  del argv
  steps = STEPS.value
  mesh = make_mesh({'data': 1, 'fsdp': 1, 'tensor': 1}, jax.devices()[:1])
  model = registry.build(MODEL)
  optimizer = make_optimizer(
    {'lr': 1e-3, 'schedule': 'constant'}, model.abstract_params, steps
  )
  abstract = states.abstract_state(model.abstract_params, optimizer, mesh)
  step_fn = make_step(
    sft(model),
    optimizer,
    mesh=mesh,
    state_shardings=states.state_shardings(abstract),
  )
  host = [make_batch(seed) for seed in range(4)]
  device = [to_global(batch, mesh) for batch in host]
  draw = lambda: states.init_state(
    model.init, optimizer, mesh, key=jax.random.key(0)
  )

  scalars = ScalarLog(tempfile.mkdtemp())

  def bare(state):
    for i in range(steps):
      state, metrics = step_fn(state, device[i % 4])
    jax.block_until_ready((state, metrics))

  def looped(state):
    batches = (host[i % 4] for i in range(steps))
    state = loop.train(
      state,
      step_fn,
      batches,
      steps=steps,
      mesh=mesh,
      log_every=10,
      scalars=scalars,
      throughput=Throughput(tokens=ROWS * LENGTH),
      watchdog=Watchdog(),
    )
    jax.block_until_ready(state)

  for run in (bare, looped):
    run(draw())
  pairs = []
  for number in range(ROUNDS.value):
    order = (bare, looped) if number % 2 == 0 else (looped, bare)
    times = {}
    for run in order:
      state = jax.block_until_ready(draw())
      times[run] = timed(lambda run=run, state=state: run(state))
    pairs.append((times[bare], times[looped]))
  for index, name in enumerate(('wall', 'cpu')):
    bare_ms = 1e3 / steps * statistics.median(b[index] for b, _ in pairs)
    loop_ms = 1e3 / steps * statistics.median(t[index] for _, t in pairs)
    ratios = sorted(t[index] / b[index] - 1 for b, t in pairs)
    print(
      f'{name}: bare {bare_ms:.2f} ms/step, loop {loop_ms:.2f} ms/step,'
      f' overhead of medians {loop_ms / bare_ms - 1:+.2%}; neighbouring rounds'
      f' {ratios[0]:+.2%} .. {ratios[-1]:+.2%}'
    )


if __name__ == '__main__':
  logging.disable(logging.INFO)
  app.run(main)
