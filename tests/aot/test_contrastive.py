"""The contrastive step for a TPU slice: its ring, and what it never holds."""

import pytest

from experiments.contrastive import contrastive
from launch import compile
from launch.aot import programs
from launch.pods import topologies

pytestmark = pytest.mark.aot
pytest.importorskip('libtpu')

QUICK = {'exec_time_optimization_effort': -1.0}
ROWS, CHIPS = 64, 4


def test_the_step_compiles_and_goes_round_the_ring_twice():
  config = contrastive.get_config('smoke')
  config.batch_size, config.accumulate = ROWS, 2
  config.runtime.update({'dtype': 'bfloat16', 'remat': 'block'})
  config.mesh.data, config.mesh.fsdp = -1, 1
  work = compile.work_of(config)
  report = programs.compile_train(
    work, topologies.parse('v5e:2x2'), options=QUICK
  )
  assert report.fits and report.images == '1 image' and report.accumulate == 2
  hops = [one for one in report.collectives if one.kind == 'collective-permute']
  # Embeddings of 16 rows of a chip, and in the backward pass their gradients.
  size = ROWS // CHIPS * config.model.embedding * 4
  assert [one.sent for one in hops if one.sent >= size] == [size] * 3
  assert all(one.times == CHIPS and one.group == CHIPS for one in hops)
  assert report.hardware_flops > 1.3 * report.model_flops  # embedded again
