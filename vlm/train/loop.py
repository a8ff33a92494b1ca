"""The one training loop: iterate, transfer, step, log, evaluate, save.

The host never waits for the step it has just started: it waits for the one
AHEAD steps before. The device always has work queued, the number of batches
in flight is bounded, and a log row costs no synchronisation, because it is
read when its step is known to be over.
"""

import collections
import contextlib
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from vlm.sharding.batch import to_global
from vlm.train import metrics as metrics_lib
from vlm.train.checkpoint import Checkpoints
from vlm.train.clock import Clock
from vlm.train.metrics import Throughput
from vlm.train.preemption import Preempted, PreemptionNotice
from vlm.train.profile import StepProfile
from vlm.train.scalars import ScalarLog
from vlm.train.watchdog import Watchdog

AHEAD = 2
NO_COST = Throughput()
NOTHING = types.MappingProxyType({})

State = dict[str, Any]
Row = dict[str, Any]


class NonFinite(FloatingPointError):
  """The loss, the gradient norm or the state is NaN or infinite."""


class DataExhausted(RuntimeError):
  """The data ended before the last step."""


@runtime_checkable
class OnPolicyBatches(Protocol):
  """Batches that the parameters of the moment make."""

  def next_with(self, state: State) -> Mapping:
    """The batch of the step that follows from `state`."""


def train(
  state: State,
  step_fn: Callable[[State, Mapping], tuple[State, Mapping]],
  batches: Iterator[Mapping] | OnPolicyBatches,
  *,
  steps: int,
  mesh: Mesh,
  log_every: int = 50,
  report: Callable[[Row], None] = lambda row: None,
  scalars: ScalarLog | None = None,
  throughput: Throughput = NO_COST,
  evaluate: Callable[[State, int], Mapping[str, float]] | None = None,
  eval_every: int = 0,
  checkpoints: Checkpoints | None = None,
  checkpoint_every: int = 0,
  save_on_preemption: bool = True,
  progress: Mapping[str, Any] | None = None,
  watchdog: Watchdog | None = None,
  profile: StepProfile | None = None,
  renewal: tuple[Callable[[State], State], int] | None = None,
) -> State:
  """Trains from `state['step']` to `steps`.

  Args:
    state: {'params', 'opt_state', 'step', ...} on the devices; donated.
    step_fn: Jitted (state, batch) -> (state, {name: (num, den)}).
    batches: Host batches of this process (numpy, keys with '_' stay here); an
      iterator with grain's `get_state` is saved with every checkpoint. What a
      batch says in '_metrics', {name: (num, den)} of the whole job, is logged.
    steps: Number of the last step.
    mesh: The job's mesh.
    log_every: Steps per log row; the row holds means over them.
    report: Called with every row on every process.
    scalars: Rows are written here too.
    throughput: Cost of a step, for tokens/s, FLOP/s and MFU.
    evaluate: (state, step) -> scores, logged and known to keep_best.
    eval_every: Steps between evaluations; 0 is never.
    checkpoints: Where to save; None saves nothing.
    checkpoint_every: Steps between saves; 0 saves only at the end.
    save_on_preemption: Save when SIGTERM or the cluster asks to stop.
    progress: `Facts.progress` of the checkpoint that `state` came from.
    watchdog: Gets a beat per step.
    profile: Steps to trace.
    renewal: What changes the state between steps, and every how many it does,
      before step 0 first. It is run on a quiet device, and is no step's time.

  Returns:
    The state after `steps`.

  Raises:
    NonFinite: names step, metric and the last good checkpoint.
    DataExhausted: the data ended early; the state so far is saved.
    Preempted: exit code 75, after saving.
  """
  step = int(state['step'])
  run = _Run(
    step,
    progress or {},
    batches=batches,
    steps=steps,
    log_every=log_every,
    report=report,
    scalars=scalars,
    throughput=throughput,
    evaluate=evaluate,
    checkpoints=checkpoints,
    watchdog=watchdog,
  )
  profile = profile or StepProfile(None, '')
  with PreemptionNotice() as notice, watchdog or contextlib.nullcontext():
    while step < steps:
      if renewal and step % renewal[1] == 0:
        state = run.renew(renewal[0], state)
      batch = run.next_batch(step, state)
      profile.before(step + 1)
      state, metrics = step_fn(state, to_global(batch, mesh))
      step += 1
      run.account(step, metrics, batch.get('_metrics', NOTHING))
      if profile.ends_at(step):
        run.drain()
        profile.stop()
      if eval_every and step % eval_every == 0:
        run.evaluate(step, state)
      if checkpoint_every and step % checkpoint_every == 0:
        run.save(step, state)
      if notice.reached(step) and step < steps:
        raise run.preempted(step, state, save_on_preemption)
    run.drain()
    run.save(step, state)
    run.wait()
  return state


class _Run:
  """What the loop remembers between steps."""

  def __init__(self, step: int, progress: Mapping, **options: Any):
    self._o = types.SimpleNamespace(**options)
    self._window = metrics_lib.window_from_json(progress.get('window'), step)
    self._told = dict(progress.get('told', {}))  # the host's part of the window
    self._scores = dict(progress.get('scores', {}))
    self._in_flight = collections.deque()  # (step, its metrics)
    self._closed = collections.deque()  # (step, window, told, data wait)
    self._clock = Clock()
    self._waited = 0.0

  def next_batch(self, step: int, state: State) -> Mapping:
    """The next host batch.

    The time spent here is data wait if the device ran out of work meanwhile;
    otherwise it is hidden behind a step.
    """
    start = time.perf_counter()
    try:
      if isinstance(self._o.batches, OnPolicyBatches):
        batch = self._o.batches.next_with(state)
      else:
        batch = next(self._o.batches)
    except StopIteration:
      self.drain()
      self.save(step, state)
      raise DataExhausted(
        f'The data ended after step {step} of {self._o.steps}. Lower'
        ' --config.steps, or let the data repeat (--config.data.epochs).'
      ) from None
    if not self._device_is_busy():
      self._waited += time.perf_counter() - start
    return batch

  def _device_is_busy(self) -> bool:
    if not self._in_flight:
      return False
    _, metrics = self._in_flight[-1]
    return not all(x.is_ready() for x in jax.tree.leaves(metrics))

  def account(
    self, step: int, metrics: Mapping, told: Mapping = NOTHING
  ) -> None:
    """Adds a step to the window; waits for the step AHEAD steps before."""
    for name, (num, den) in told.items():
      old = self._told.get(name, (0.0, 0.0))
      self._told[name] = (old[0] + float(num), old[1] + float(den))
    if self._window is None:
      self._window = metrics_lib.start_window(metrics, np.int32(step))
    else:
      self._window = metrics_lib.add_to_window(self._window, metrics)
    if step % self._o.log_every == 0 or step == self._o.steps:
      jax.tree.map(lambda x: x.copy_to_host_async(), self._window)
      self._closed.append((step, self._window, self._told, self._waited))
      self._window, self._told, self._waited = None, {}, 0.0
    self._in_flight.append((step, metrics))
    first = not self._clock.running
    while len(self._in_flight) > (0 if first else AHEAD):
      self._settle()

  def drain(self) -> None:
    """Waits for every step, and writes every row."""
    while self._in_flight:
      self._settle()

  def evaluate(self, step: int, state: State) -> None:
    """Runs the hook on a quiet device and logs what it returns."""
    self.drain()
    with self._pause():
      scores = dict(self._o.evaluate(state, step))
    self._scores |= scores
    self._emit({'step': step, **scores})

  def renew(self, renewed: Callable[[State], State], state: State) -> State:
    """What `renewed` makes of the state."""
    self.drain()
    with self._pause():
      return renewed(state)

  def save(self, step: int, state: State) -> None:
    """Saves, unless something in the state or the window is not finite."""
    if self._o.checkpoints is None:
      return
    self.drain()
    with self._pause():
      window = jax.device_get(self._window)
      self._check_finite(window)
      if not metrics_lib.all_finite(state):
        raise self._non_finite(step, 'a parameter or optimiser state')
      if self._o.scalars:
        self._o.scalars.flush()
      position = self._o.batches
      self._o.checkpoints.save(
        step,
        state,
        data=position if hasattr(position, 'get_state') else None,
        metrics=self._scores,
        progress={
          'window': metrics_lib.window_to_json(window),
          'told': self._told,
          'scores': self._scores,
        },
      )

  def wait(self) -> None:
    """Waits for the last save; however long it takes, no step hangs."""
    if self._o.checkpoints:
      with self._pause():
        self._o.checkpoints.wait()

  def preempted(self, step: int, state: State, save: bool) -> Preempted:
    """Saves and returns what to raise."""
    self.drain()
    saved = ''
    if save and self._o.checkpoints:
      self.save(step, state)
      self.wait()
      saved = str(self._o.checkpoints.path(step))
    return Preempted(step, saved)

  def _settle(self) -> None:
    step, metrics = self._in_flight.popleft()
    jax.block_until_ready(metrics)
    if self._o.watchdog:
      self._o.watchdog.beat(step)
    if not self._clock.running:
      self._clock.start(step)  # the first step was spent compiling
      self._waited = 0.0
    if self._closed and self._closed[0][0] == step:
      self._write_row(*self._closed.popleft())

  def _write_row(
    self, step: int, window: dict, told: dict, waited: float
  ) -> None:
    window = jax.device_get(window)
    self._check_finite(window)
    means = metrics_lib.means({'sums': window['sums'] | told})
    self._scores |= {k: v for k, v in means.items() if v is not None}
    row = {'step': step, 'steps': self._o.steps, **means}
    if timing := self._clock.lap(step):
      row['step_time'] = timing.step_time
      row['data_wait'] = min(1.0, waited / timing.wall)
      row |= self._o.throughput.row(timing.step_time)
      row['eta'] = (self._o.steps - step) * timing.average
    self._emit(row)
    if self._o.checkpoints:
      self._o.checkpoints.check()

  def _emit(self, row: Row) -> None:
    self._o.report(row)
    if self._o.scalars:
      self._o.scalars.write(row)

  def _check_finite(self, window: dict | None) -> None:
    bad = [
      (int(step), name)
      for name, step in (window or {}).get('bad', {}).items()
      if step
    ]
    if bad:
      order = metrics_lib.WATCHED.index
      first = min(bad, key=lambda found: (found[0], order(found[1])))
      raise self._non_finite(*first)

  def _non_finite(self, step: int, what: str) -> NonFinite:
    saved = 'none'
    if self._o.checkpoints:
      self._o.checkpoints.wait()
      good = self._o.checkpoints.steps()
      saved = str(self._o.checkpoints.path(good[-1])) if good else 'none yet'
    return NonFinite(
      f'{what} is NaN or infinite at step {step}. Last good checkpoint:'
      f' {saved}. Try a lower --config.optimizer.lr or a stronger'
      ' --config.optimizer.clip.'
    )

  @contextlib.contextmanager
  def _pause(self):
    """Time that is no step's time."""
    with contextlib.ExitStack() as stack:
      if self._o.watchdog:
        stack.enter_context(self._o.watchdog.paused())
      start = time.perf_counter()
      yield
      self._clock.skip(time.perf_counter() - start)
