"""The loop: rows, saves, stops, and a watchdog."""

import pathlib
import subprocess
import sys
import textwrap
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.sharding.mesh import make_mesh
from vlm.train import loop, metrics
from vlm.train.checkpoint import Checkpoints
from vlm.train.preemption import PreemptionNotice
from vlm.train.profile import StepProfile
from vlm.train.watchdog import Watchdog

ROOT = pathlib.Path(__file__).parents[2]


@jax.jit
def _step(state, batch):
  error = batch['x'] @ state['params']['w'] - 1.0
  grad = 2 * batch['x'].T @ error / error.size
  pairs = {
    'loss': (jnp.sum(error**2), jnp.float32(error.size)),
    'grad_norm': (jnp.linalg.norm(grad), jnp.float32(1)),
  }
  params = {'w': state['params']['w'] - 0.1 * grad}
  return {'params': params, 'step': state['step'] + 1}, pairs


step_fn = jax.jit(_step, donate_argnums=0)


@pytest.fixture(scope='module')
def mesh():
  return make_mesh({'data': 1, 'fsdp': 1, 'tensor': 1}, jax.devices()[:1])


def new_state(mesh, step=0):
  state = {'params': {'w': np.zeros((2, 1), np.float32)}}
  return jax.device_put(
    state | {'step': np.int32(step)}, jax.NamedSharding(mesh, jax.P())
  )


def rows_of(poison=0, length=1000):
  def row(i):
    x = np.float32([1.0, (i % 5) / 5])
    return {'x': x * np.nan if i + 1 == poison else x, '_id': i}

  return iter(
    grain.MapDataset.range(length).map(row).to_iter_dataset().batch(1)
  )


def test_rows_and_hooks(mesh, tmp_path):
  rows = []
  checkpoints = Checkpoints(tmp_path, keep_last=9)
  state = loop.train(
    new_state(mesh),
    step_fn,
    rows_of(),
    steps=10,
    mesh=mesh,
    log_every=4,
    report=rows.append,
    throughput=metrics.Throughput(tokens=8),
    evaluate=lambda state, step: {'eval/step': int(state['step'])},
    eval_every=5,
    checkpoints=checkpoints,
    checkpoint_every=6,
  )
  assert int(state['step']) == 10
  # numpy oracle
  w, losses = np.zeros((2, 1)), []
  for i in range(10):
    x = np.array([[1.0, (i % 5) / 5]])
    error = x @ w - 1
    losses.append(error.item() ** 2)
    w -= 0.1 * 2 * x.T @ error
  np.testing.assert_allclose(state['params']['w'], w, rtol=1e-5)
  logged = {r['step']: r['loss'] for r in rows if 'loss' in r}
  assert logged == pytest.approx(
    {
      4: np.mean(losses[:4]),
      8: np.mean(losses[4:8]),
      10: np.mean(losses[8:]),
    },
    rel=1e-5,
  )
  assert [r['step'] for r in rows] == [4, 5, 8, 10, 10]
  assert [r['eval/step'] for r in rows if 'eval/step' in r] == [5, 10]
  assert rows[2]['tokens_per_s'] == pytest.approx(8 / rows[2]['step_time'])
  assert 0 <= rows[2]['data_wait'] <= 1 and rows[2]['eta'] > 0
  assert rows[-2]['eta'] == 0 and 'mfu' not in rows[2]
  assert checkpoints.steps() == [6, 10]
  assert checkpoints.facts(10).metrics['eval/step'] == 10


def test_data_slower_than_the_device_is_data_wait(mesh):
  def slow():
    for row in rows_of():
      time.sleep(0.02)
      yield row

  rows = []
  loop.train(
    new_state(mesh),
    step_fn,
    slow(),
    steps=8,
    mesh=mesh,
    log_every=4,
    report=rows.append,
  )
  assert rows[-1]['data_wait'] > 0.5


def test_data_hidden_behind_a_step_is_no_data_wait():
  class Pending:
    ready = False

    def is_ready(self):
      return self.ready

  options = dict.fromkeys(('steps', 'log_every', 'scalars', 'checkpoints'))
  run = loop._Run(0, {}, batches=rows_of(), **options)
  loss = Pending()
  run._in_flight.append((1, {'loss': loss}))
  run.next_batch(1, {})
  assert run._waited == 0
  loss.ready = True
  run.next_batch(1, {})
  assert run._waited > 0


def test_the_host_stays_ahead_of_the_device(mesh):
  """The loop asks for batch k + AHEAD before step k has to be over."""
  drawn, finished = [], []

  class Slow:
    """Metrics of a step; only block_until_ready makes it finish."""

    def __init__(self, step):
      self.step = step

    def block_until_ready(self):
      finished.append((self.step, len(drawn)))
      return self

    def is_ready(self):
      return False

  def batches():
    for i in range(20):
      drawn.append(i)
      yield {'x': np.float32([[1.0, 0.0]])}

  run = loop._Run(
    0,
    {},
    batches=batches(),
    steps=20,
    log_every=1000,
    report=None,
    scalars=None,
    throughput=None,
    evaluate=None,
    checkpoints=None,
    watchdog=None,
  )
  run._window = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(metrics, 'add_to_window', lambda window, *_: window)
    for step in range(1, 11):
      run.next_batch(step, {})
      run.account(step, {'loss': Slow(step)})
  assert finished[0] == (1, 1)  # the first compiles, and starts the clock
  assert finished[1:] == [(k, k + loop.AHEAD) for k in range(2, 9)]


@pytest.mark.parametrize('log_every', [3, 100])
def test_nan_stops_and_names_step_metric_and_checkpoint(
  mesh, tmp_path, log_every
):
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(loop.NonFinite) as error:
    loop.train(
      new_state(mesh),
      step_fn,
      rows_of(poison=11),
      steps=100,
      mesh=mesh,
      log_every=log_every,
      checkpoints=checkpoints,
      checkpoint_every=4,
    )
  told = str(error.value)
  assert 'grad_norm is NaN or infinite at step 11' in told
  assert str(checkpoints.path(8)) in told
  assert checkpoints.latest() == 8


def test_a_state_that_is_not_finite_is_never_saved(mesh, tmp_path):
  @jax.jit
  def overflow(state, batch):
    state, pairs = _step(state, batch)
    return state | {'moment': jnp.exp(1000.0 * state['step'])}, pairs

  checkpoints = Checkpoints(tmp_path)
  state = new_state(mesh) | {'moment': jnp.float32(0)}
  with pytest.raises(loop.NonFinite, match='state is NaN .* at step 2.*none'):
    loop.train(
      state,
      overflow,
      rows_of(),
      steps=9,
      mesh=mesh,
      checkpoints=checkpoints,
      checkpoint_every=2,
    )
  assert checkpoints.steps() == []


def test_data_that_ends_early_is_said_and_the_state_kept(mesh, tmp_path):
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(loop.DataExhausted, match='after step 7 of 20'):
    loop.train(
      new_state(mesh),
      step_fn,
      rows_of(length=7),
      steps=20,
      mesh=mesh,
      checkpoints=checkpoints,
    )
  checkpoints.close()
  assert checkpoints.latest() == 7


def test_a_finished_run_starts_and_ends_at_once(mesh, tmp_path):
  state = new_state(mesh, step=10)
  out = loop.train(state, step_fn, iter(()), steps=10, mesh=mesh)
  assert out is state


def test_the_profiler_traces_the_chosen_steps(mesh, tmp_path):
  loop.train(
    new_state(mesh),
    step_fn,
    rows_of(),
    steps=6,
    mesh=mesh,
    profile=StepProfile((3, 4), tmp_path),
  )
  traces = list(tmp_path.rglob('*.xplane.pb'))
  assert len(traces) == 1 and traces[0].stat().st_size > 0
  with pytest.raises(ValueError, match='first, last'):
    StepProfile((4, 3), tmp_path)


def test_sigterm_is_only_noticed_inside_the_context():
  import signal

  before = signal.getsignal(signal.SIGTERM)
  with PreemptionNotice() as notice:
    assert not notice.reached(1)
    signal.raise_signal(signal.SIGTERM)
    assert notice.reached(2)
  assert signal.getsignal(signal.SIGTERM) is before


def test_the_watchdog_reports_a_hang_once_with_stacks(capfd, caplog):
  with Watchdog(factor=5.0, floor_s=0.2, start_s=60.0) as watchdog:
    for step in range(1, 8):
      watchdog.beat(step)
      time.sleep(0.01)
    with watchdog.paused():
      time.sleep(0.4)  # evaluation is no hang
    assert watchdog.reports == []
    a_step_that_hangs(0.6)
  assert len(watchdog.reports) == 1
  assert 'the step after step 7' in watchdog.reports[0]
  assert 'HANG' in caplog.text
  errors = capfd.readouterr().err
  assert 'HANG' in errors and 'a_step_that_hangs' in errors


def test_a_save_that_failed_in_the_background_stops_the_run_soon(
  mesh, tmp_path, monkeypatch
):
  checkpoints = Checkpoints(tmp_path)

  def fail(*unused):
    raise OSError('the disk is full')

  def report(row):
    rows.append(row)
    time.sleep(0.01)  # a step takes its time

  rows = []
  monkeypatch.setattr(checkpoints, '_finish', fail)
  with pytest.raises(OSError, match='the disk is full'):
    loop.train(
      new_state(mesh),
      step_fn,
      rows_of(),
      steps=1000,
      mesh=mesh,
      log_every=1,
      report=report,
      checkpoints=checkpoints,
      checkpoint_every=100,
    )
  assert rows[-1]['step'] < 200  # the next save would have told, too late


def test_a_slow_last_save_is_not_a_hang(mesh, tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path)
  wait = checkpoints.wait

  def slow_wait():
    time.sleep(0.5)
    wait()

  monkeypatch.setattr(checkpoints, 'wait', slow_wait)
  watchdog = Watchdog(factor=1.0, floor_s=0.2, start_s=60.0)
  loop.train(
    new_state(mesh),
    step_fn,
    rows_of(),
    steps=20,
    mesh=mesh,
    checkpoints=checkpoints,
    watchdog=watchdog,
  )
  assert watchdog.reports == []


def a_step_that_hangs(seconds):
  time.sleep(seconds)


def test_compilation_is_not_a_hang():
  with Watchdog(factor=5.0, floor_s=0.05, start_s=60.0) as watchdog:
    time.sleep(0.3)
  assert watchdog.reports == []


def test_the_watchdog_can_abort():
  script = textwrap.dedent("""
    import time
    from vlm.train.watchdog import Watchdog
    with Watchdog(start_s=0.1, floor_s=0.1, abort=True):
      time.sleep(30)
  """)
  done = subprocess.run(
    [sys.executable, '-c', script],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=20,
  )
  assert done.returncode == 70
  assert 'HangingStep' in done.stderr and 'time.sleep' not in done.stdout
