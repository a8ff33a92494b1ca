"""Peak host memory of a load stays under 1.5 x the largest tensor.

The checkpoint (a Qwen2 decoder in bf16, several files) holds one tensor of
32 MiB, the embedding, and stacked parameters of 48 MiB each, so that building a
stacked parameter on the host would break the bound. On CPU devices the finished
parameters are host memory too, hence two measurements in a fresh process:

- resident: growth of the high-water mark of resident memory (VmHWM) during the
  load, less the bytes of the parameters that it leaves behind, which are
  sharded over four devices. Files are read, not mapped, so their pages do not
  count.
- staged: peak of what Python and numpy allocate (tracemalloc; it does not see
  device memory), with buffers that XLA cannot adopt, so that nothing that ends
  up on a device is counted. Measured for one device, and once more with filling
  by layers turned off, which has to break the bound: the measurement works.
"""

import json
import subprocess
import sys

BOUND = 1.5

SCRIPT = r"""
import os, sys, tracemalloc
os.environ['JAX_PLATFORMS'] = 'cpu'
import jax
jax.config.update('jax_num_cpu_devices', 4)
import json
import ml_dtypes
import numpy as np
from vlm.convert import reader
from vlm.convert.tables import nest
from vlm.convert.names import table_for
from vlm.convert.plan import shapes_of
from vlm.convert.writer import save_params
from vlm.models import registry
from vlm.models.functional import Runtime
from vlm.models.qwen2 import Qwen2Config

BF16 = np.dtype(ml_dtypes.bfloat16)


def model_of(vocab, width, ffn, depth):
  config = Qwen2Config(vocab_size=vocab, width=width, depth=depth, heads=4,
                       kv_heads=2, head_dim=16, mlp_width=ffn)
  return registry.build(config, Runtime(param_dtype='bfloat16'))


def write(folder, model):
  params = jax.tree.map(
    lambda leaf: np.full(leaf.shape, 0.5, BF16), model.abstract_params)
  save_params(folder, model, params, {}, max_shard_bytes=40 << 20)
  return params


def sharding_of(model):
  mesh = jax.make_mesh((4,), ('fsdp',), (jax.sharding.AxisType.Auto,))
  def place(leaf):
    spec = [None] * len(leaf.shape)
    spec[-1 if leaf.shape[-1] % 4 == 0 else 0] = 'fsdp'
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
  return jax.tree.map(place, model.abstract_params)


def resident(field):
  with open('/proc/self/status') as status:
    line = next(line for line in status if line.startswith(field))
  return int(line.split()[1]) << 10


def misaligned(shape, dtype):
  size = int(np.prod(shape)) * dtype.itemsize
  raw = np.empty(size + 128, np.uint8)
  offset = 32 - raw.ctypes.data % 64 + 64
  return raw[offset : offset + size].view(dtype).reshape(shape)


def staged(folder, model):
  tracemalloc.start()
  params = reader.load_params(folder, model)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  return peak


folder = sys.argv[1]
if sys.argv[2] == 'write':
  write(folder + '/big', model_of(32768, 512, 8192, 6))
  write(folder + '/small', model_of(64, 32, 64, 6))
  sys.exit()
big, small = model_of(32768, 512, 8192, 6), model_of(64, 32, 64, 6)
# Imports, thread pools and the compiler's first use are not the load's.
kept, reader._SMALL = reader._SMALL, 0
reader.load_params(folder + '/small', small, sharding_of(small))
reader._SMALL = kept

before = resident('VmRSS')
params = reader.load_params(folder + '/big', big, sharding_of(big))
after = resident('VmHWM')
leaves = jax.tree.leaves(params)
assert all((np.asarray(leaf[..., -1]) == 0.5).all() for leaf in leaves)
sizes = [leaf.nbytes for leaf in leaves]
del params, leaves
result = {'resident': after - before - sum(sizes), 'parameters': sum(sizes)}
reader._empty = misaligned
result['staged'] = staged(folder + '/big', big)
reader._SMALL = 1 << 40
result['staged_whole'] = staged(folder + '/big', big)
print(json.dumps(result))
"""


def run(folder, what: str) -> str:
  done = subprocess.run(
    [sys.executable, '-c', SCRIPT, str(folder), what],
    capture_output=True,
    text=True,
    timeout=240,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stdout


def test_peak_host_memory(tmp_path):
  run(tmp_path, 'write')
  assert len(list((tmp_path / 'big').glob('*.safetensors'))) > 3
  seen = json.loads(run(tmp_path, 'load').splitlines()[-1])
  largest = 32768 * 512 * 2
  assert seen['parameters'] > 5 * largest
  assert seen['staged'] < BOUND * largest, seen
  assert seen['resident'] < BOUND * largest, seen
  assert seen['staged_whole'] > BOUND * largest, seen
