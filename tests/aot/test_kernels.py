"""The kernels compile for TPU slices, and what they hold there is bounded."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from launch.pods import topologies
from vlm.methods.flashvid.kernels.links import links
from vlm.methods.flashvid.kernels.max_min import max_min
from vlm.models import partition
from vlm.models.received import received
from vlm.sharding.mesh import make_mesh

pytestmark = pytest.mark.aot
pytest.importorskip('libtpu')

MIB = 1 << 20
# The compiler's own switch for speed over quality; only these tests set it.
QUICK = {'exec_time_optimization_effort': -1.0}


def compiled(run, topology, *shapes, fsdp=1):
  """`run` of arrays of the given shapes and dtypes, rows over fsdp chips."""
  devices = topologies.abstract_devices(topologies.parse(topology))
  mesh = make_mesh({'fsdp': fsdp}, devices[:fsdp])
  rows = NamedSharding(mesh, PartitionSpec('fsdp'))
  args = [jax.ShapeDtypeStruct(*x, sharding=rows) for x in shapes]
  with jax.set_mesh(mesh):
    return jax.jit(run).lower(*args).compile(compiler_options=QUICK)


def both(features, norm, weight, free, follows):
  """What compression computes with the kernels, for one video."""
  return (
    links(features, norm, free, follows),
    max_min(features, norm, weight, free, steps=18, again=True),
  )


def video(batch, frames, tokens, width, dtype):
  of_tokens = (*batch, frames, tokens)
  return (
    ((*of_tokens, width), dtype),
    (of_tokens, jnp.float32),
    (of_tokens, jnp.float32),
    (of_tokens, jnp.bool_),
    ((*batch, frames), jnp.bool_),
  )


@pytest.mark.parametrize(
  'topology,tokens,width,dtype',
  [
    ('v5e:2x2', 169, 3584, jnp.bfloat16),
    ('v5p:2x2x1', 1271, 896, jnp.float32),
    ('v6e:2x2', 196, 3584, jnp.bfloat16),
  ],
)
def test_videos_over_a_slice(topology, tokens, width, dtype):
  """No collective, and no array of all pairs of tokens outside the kernels."""
  run = lambda *x: partition.over_batch(jax.vmap(both), *x)
  shapes = video((4,), 8, tokens, width, dtype)
  text = compiled(run, topology, *shapes, fsdp=4).as_text()
  kernels = re.findall(r'custom_call_target="tpu_custom_call"', text)
  assert len(kernels) == 2
  assert not re.findall(r'all-(gather|reduce|to-all)', text)
  pairs = rf'\b{tokens},{tokens}\]'
  assert re.search(rf'{tokens},{width}\]', text)
  assert not re.search(pairs, text)


def test_256_frames_of_4096_tokens():
  """All pairs of tokens would be 16 GiB; those of one frame are 64 MiB."""
  shapes = video((), 256, 4096, 128, jnp.bfloat16)
  memory = compiled(both, 'v5e:2x2', *shapes).memory_analysis()
  assert memory.temp_size_in_bytes < 160 * MIB


def received_of(patches, impl, topology='v5e:2x2', dtype=jnp.bfloat16):
  shape = (64, patches, 16, 80)
  run = functools.partial(received, impl=impl)
  return compiled(run, topology, (shape, dtype), (shape, dtype))


@pytest.mark.parametrize('impl', ['xla', 'splash'])
def test_memory_of_received_attention_grows_with_patches(impl):
  """64 frames of 16 heads; their weights would take 36 GiB at 3,072 patches."""
  half, whole = (
    received_of(p, impl).memory_analysis().temp_size_in_bytes
    for p in (1536, 3072)
  )
  assert 0 < whole <= 2.1 * half
  assert whole < 1600 * MIB


@pytest.mark.parametrize('topology', ['v5p:2x2x1', 'v6e:2x2'])
def test_received_attention(topology):
  text = received_of(729, 'splash', topology, jnp.float32).as_text()
  assert len(re.findall('custom_call_target="tpu_custom_call"', text)) == 2
