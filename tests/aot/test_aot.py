"""Ahead-of-time compilation of small steps for TPU slices, without a TPU."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from launch.aot import programs, verdict
from launch.pods import topologies
from vlm.models import llava_onevision, qwen2, registry, siglip
from vlm.models.functional import Runtime
from vlm.train.optimizer import make_optimizer
from vlm.train.sft import sft

pytestmark = pytest.mark.aot
pytest.importorskip('libtpu')

ROWS, LENGTH, WIDTH, DEPTH, VOCAB = 8, 1024, 256, 3, 1024
# The compiler's own switch for speed over quality; only these tests set it.
QUICK = {'exec_time_optimization_effort': -1.0}


def work(**changes) -> programs.Work:
  config = llava_onevision.LlavaOnevisionConfig(
    vision=siglip.SiglipVisionConfig(
      image_size=56, patch=14, width=128, depth=2, heads=2, mlp_width=256
    ),
    decoder=qwen2.Qwen2Config(
      vocab_size=VOCAB,
      width=WIDTH,
      depth=DEPTH,
      heads=4,
      kv_heads=2,
      head_dim=64,
      mlp_width=512,
      tied_head=False,
    ),
    image_token=7,
    video_token=8,
  )
  runtime = Runtime(dtype='bfloat16', remat='block', attention='splash')
  model = registry.build(config, runtime)
  struct = jax.ShapeDtypeStruct
  ids = struct((ROWS, LENGTH), jnp.int32)
  batch = {
    'tokens': ids,
    'segment_ids': ids,
    'positions': ids,
    'loss_mask': struct((ROWS, LENGTH), jnp.float32),
    'pixels': struct((ROWS, 1, 56, 56, 3), jnp.uint8),
    'plan': {
      'index': struct((ROWS, 17, 1), jnp.int32),
      'weight': struct((ROWS, 17, 1), jnp.float32),
      'valid': struct((ROWS, 17), jnp.bool_),
      'grid': struct((ROWS, 17, 3), jnp.int32),
    },
  }
  optimizer = make_optimizer(
    {'lr': 1e-4, 'weight_decay': 0.1}, model.abstract_params, 100
  )
  mesh = {'data': 1, 'fsdp': 2, 'tensor': 2}
  return programs.Work(
    **{
      'model': model,
      'objective': sft(model),
      'optimizer': optimizer,
      'batch': batch,
      'mesh': mesh,
      **changes,
    }
  )


@pytest.fixture(scope='module')
def train() -> verdict.Report:
  v5e = topologies.parse('v5e:2x2')
  return programs.compile_train(work(), v5e, options=QUICK)


def test_train_step_fits_and_donates(train):
  assert train.fits and not train.refusal
  assert train.mesh == {'data': 1, 'fsdp': 2, 'tensor': 2}
  params = sum(
    leaf.size for leaf in jax.tree.leaves(work().model.abstract_params)
  )
  # Parameters and two moments in float32, on four chips; kv heads and norms
  # are not divided by all four.
  share = 3 * 4 * params / 4
  assert share < train.memory.arguments < 1.5 * share
  # The state is donated: what is new is a handful of scalars.
  assert train.memory.outputs - train.memory.aliased < 1 << 16
  assert 0 < train.memory.total < 0.05 * train.slice.chip.hbm


def test_collectives_in_loops_are_counted_per_layer(train):
  """Each layer gathers its q, k, v, o, gate, up, down over fsdp."""
  element = 2  # bfloat16 on the wire
  forward = [
    one
    for one in train.collectives
    if one.kind == 'all-gather'
    and 'jvp()/while' in one.source
    and 'transpose' not in one.source
    and one.times == DEPTH
  ]
  assert len(forward) == 7
  heads = {'q': 4, 'k': 2, 'v': 2, 'o': 4}
  weights = WIDTH * 64 * sum(heads.values()) + 3 * WIDTH * 512
  # Half of each kernel (tensor=2) is gathered by groups of two (fsdp=2).
  assert sum(one.sent for one in forward) == element * weights / 2 / 2


def test_report_reads_and_names_its_bound(train):
  text = train.text()
  assert 'train step on v5e:2x2 (4 chips, data=1 fsdp=2 tensor=2)' in text
  assert 'all-gather over 2' in text and 'DOES NOT FIT' not in text
  assert train.step_seconds == max(train.seconds.values())
  assert f'bound by {train.bound}' in text
  assert 0 < train.mfu < 1
  assert train.hardware_flops > train.model_flops


def test_forward_step_for_v6e():
  report = programs.compile_forward(
    work(), topologies.parse('v6e:2x2'), options=QUICK
  )
  assert report.fits
  assert report.slice.chip.hbm == int(31.25 * verdict.GIB)
  params = sum(
    leaf.size for leaf in jax.tree.leaves(work().model.abstract_params)
  )
  assert params < report.memory.arguments < 2 * params
  assert report.hardware_flops == report.model_flops


def test_forward_step_for_v5p_over_fsdp_alone():
  report = programs.compile_forward(
    work(mesh={'fsdp': -1}), topologies.parse('v5p:2x2x1'), options=QUICK
  )
  assert report.fits and report.mesh['fsdp'] == 4
  assert {one.group for one in report.collectives if one.sent} == {4}


def test_refusal_names_the_largest_buffers():
  """A real refusal: the compiler is given less HBM than the step needs."""
  report = programs.compile_forward(
    work(), topologies.parse('v5e:2x2'), limit=4 << 20, options=QUICK
  )
  assert not report.fits
  assert 'RESOURCE_EXHAUSTED' in report.refusal
  assert report.memory.total > 4 << 20
  text = report.text()
  assert 'DOES NOT FIT' in text
  assert 'params/decoder/layers/mlp/gate/kernel' in text
  assert f'float32[{DEPTH}, {WIDTH // 2}, 256]' in text
  sizes = [buffer.bytes for buffer in report.largest]
  assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1 << 17


def test_indivisible_batch_is_named():
  batch = {'tokens': jax.ShapeDtypeStruct((3, LENGTH), jnp.int32)}
  with pytest.raises(ValueError, match='--config.batch_size=3'):
    programs.compile_train(
      dataclasses.replace(work(), batch=batch), topologies.parse('v5e:2x2')
    )
