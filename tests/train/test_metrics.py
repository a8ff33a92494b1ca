"""Windows of pairs, the log line, and files that survive a resume."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.train import metrics
from vlm.train.scalars import ScalarLog


def pairs(loss, tokens, norm=1.0):
  return {
    'loss': (jnp.float32(loss), jnp.float32(tokens)),
    'grad_norm': (jnp.float32(norm), jnp.float32(1)),
  }


def window_of(*steps):
  window = metrics.start_window(steps[0], np.int32(1))
  for step in steps[1:]:
    window = metrics.add_to_window(window, step)
  return jax.device_get(window)


def test_a_mean_weighs_by_the_denominator():
  window = window_of(pairs(6.0, 3, 1.0), pairs(1.0, 1, 4.0))
  assert metrics.means(window) == {'loss': 7 / 4, 'grad_norm': 2.5}
  assert window['bad'] == {'loss': 0, 'grad_norm': 0}


def test_nothing_counted_has_no_mean():
  assert metrics.means(window_of(pairs(0.0, 0)))['loss'] is None


def test_the_first_bad_step_is_remembered():
  window = window_of(
    pairs(1, 1),
    pairs(1, 1, np.inf),
    pairs(np.nan, 1, np.nan),
    pairs(2, 1),
  )
  assert window['bad'] == {'loss': 3, 'grad_norm': 2}


def test_an_open_window_continues_exactly():
  first = window_of(pairs(0.1, 3), pairs(0.2, 5))
  text = json.dumps(metrics.window_to_json(first))
  resumed = metrics.window_from_json(json.loads(text), 2)
  more = pairs(1 / 3, 7)
  straight = metrics.add_to_window(first, more)
  again = metrics.add_to_window(resumed, more)
  jax.tree.map(np.testing.assert_array_equal, straight, again)


def test_all_finite_looks_at_floats():
  good = {'a': jnp.ones(3), 'n': jnp.int32(4), 'b': jnp.ones(2, jnp.bfloat16)}
  assert metrics.all_finite(good)
  assert not metrics.all_finite(good | {'a': jnp.array([1.0, np.inf])})
  assert metrics.all_finite({'n': jnp.int32(1)})


def test_mfu_only_where_the_peak_is_known():
  chips = [types.SimpleNamespace(device_kind='TPU v5 lite')] * 4
  assert metrics.peak_flops(chips) == 4 * 197e12
  assert metrics.peak_flops(jax.devices()) is None
  known = metrics.Throughput(tokens=1000, flops=394e12, peak=788e12)
  row = known.row(2.0)
  assert row == {'tokens_per_s': 500, 'flops_per_s': 197e12, 'mfu': 0.25}
  assert 'mfu' not in metrics.Throughput(flops=1.0).row(2.0)


def test_the_log_line():
  row = {
    'step': 20,
    'steps': 100,
    'accuracy': None,
    'loss': 2.3126,
    'learning_rate': 1e-3,
    'grad_norm': 0.912,
    'step_time': 0.0123,
    'tokens_per_s': 41600.0,
    'data_wait': 0.012,
    'flops_per_s': 3.1e12,
    'mfu': 0.41,
    'eta': 3725.4,
  }
  assert metrics.format_row(row) == (
    'step 20/100 loss 2.3126 lr 1.00e-03 grad_norm 0.912 12.3 ms/step'
    ' 41.6k tok/s wait 1.2% 3.1 TFLOP/s mfu 41.0% eta 1:02:05 accuracy -'
  )
  assert metrics.format_row({'step': 3, 'eval/a': 0.5}) == 'step 3 eval/a 0.5'


def events(folder):
  """What TensorBoard would show: step -> value of `loss`, purges applied."""
  from tensorboardX.proto.event_pb2 import Event

  shown = {}
  for path in sorted(folder.iterdir(), key=lambda p: p.name):
    data = path.read_bytes()
    while data:
      size = int.from_bytes(data[:8], 'little')
      event = Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]
      if event.HasField('session_log'):
        shown = {s: v for s, v in shown.items() if s < event.step}
      for value in event.summary.value:
        assert value.tag == 'loss'
        assert event.step not in shown, 'a doubled row'
        shown[event.step] = value.simple_value
  return shown


def test_a_resumed_log_neither_doubles_nor_loses_rows(tmp_path):
  log = ScalarLog(tmp_path)
  for step in (10, 20, 30, 40):
    log.write({'step': step, 'steps': 50, 'loss': step / 10})
  log.close()
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 50, "lo')  # torn by a kill
  log = ScalarLog(tmp_path, step=20)
  for step in (30, 40, 50):
    log.write({'step': step, 'steps': 50, 'loss': step / 100})
  log.close()
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['loss'] for line in lines] == [
    *(1.0, 2.0),
    *(0.3, 0.4, 0.5),
  ]
  shown = events(tmp_path / 'tensorboard')
  assert shown == pytest.approx({10: 1, 20: 2, 30: 0.3, 40: 0.4, 50: 0.5})


def test_a_fresh_start_drops_an_older_run(tmp_path):
  log = ScalarLog(tmp_path)
  log.write({'step': 10, 'loss': 1.0})
  log.close()
  log = ScalarLog(tmp_path)
  log.write({'step': 10, 'loss': 2.0})
  log.close()
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['loss'] for line in lines] == [2.0]
  assert events(tmp_path / 'tensorboard') == {10: 2.0}


def test_only_process_0_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  log = ScalarLog(tmp_path / 'run')
  log.write({'step': 1, 'loss': 1.0})
  log.flush()
  log.close()
  assert not (tmp_path / 'run').exists()
