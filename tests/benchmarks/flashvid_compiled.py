"""FlashVID compiled for TPUs that are not here: the table of its README.

    PYTHONPATH=. python tests/benchmarks/flashvid_compiled.py

Needs libtpu. Compiles, for one chip of v5e and v6e, the compression with and
without its kernels, and received attention; and for a slice the prefill of
LLaVA-OneVision-7B with 32 frames at several retentions. Nothing runs. The
compiler counts the body of a loop once, and so does this table: plain jnp has
the K1 picks of ADTS and the F frames of TSTM in loops, the kernels have none.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import app, flags

from experiments.flashvid import video
from launch import compile as compiling
from launch.pods import topologies
from vlm.methods.flashvid import FlashVID
from vlm.models.received import received

README = Path(__file__).parents[2] / 'experiments' / 'flashvid' / 'README.md'
BEGIN, END = '<!-- compiled:begin -->', '<!-- compiled:end -->'
SIZES = ((32, 196), (64, 169), (80, 768))
WIDTH, MIB = 3584, 2**20
PREFILLS = flags.DEFINE_list('prefills', ['1.0', '0.25', '0.1'], 'Retentions.')
SLICE = flags.DEFINE_string('slice', 'v5e:2x4', 'Of the prefill.')


def costs(run, topology: str, *shapes) -> tuple[float, float, float]:
  """FLOPs, bytes of HBM traffic and of temporaries of a compiled function."""
  device = topologies.abstract_devices(topologies.parse(topology))[0]
  where = jax.sharding.SingleDeviceSharding(device)
  arguments = [
    jax.ShapeDtypeStruct(shape, dtype, sharding=where)
    for shape, dtype in shapes
  ]
  program = jax.jit(run).lower(*arguments).compile()
  cost = program.cost_analysis()
  temporaries = program.memory_analysis().temp_size_in_bytes
  return cost['flops'], cost['bytes accessed'], temporaries


def compression_rows():
  """Rows of the first table."""
  for topology in ('v5e:2x2', 'v6e:2x2'):
    for frames, tokens in SIZES:
      for kernels in ('jnp', 'pallas'):
        settings = FlashVID(0.1, kernels=kernels)
        shapes = (
          ((1, frames, tokens, WIDTH), jnp.bfloat16),
          ((1, frames, tokens), jnp.float32),
        )
        flops, moved, held = costs(settings.reduce, topology, *shapes)
        print(topology, frames, tokens, kernels, flops, moved, held)
        yield (
          f'| {topology[:3]} | {frames} x {tokens} | {kernels} | {flops:.2e} | '
          f'{moved / 1e9:.2f} | {held / MIB:.0f} |'
        )


def received_rows():
  """Rows of the second table: memory grows with P, not with its square."""
  for patches in (729, 1536, 3072):
    held = []
    for impl in ('xla', 'splash'):
      shape = ((64, patches, 16, 80), jnp.bfloat16)
      run = lambda q, k, impl=impl: received(q, k, impl=impl)
      held.append(costs(run, 'v5e:2x2', shape, shape)[2] / MIB)
    square = 64 * 16 * patches**2 * 4 / MIB
    print('received', patches, *held)
    yield (f'| {patches:,} | {square:,.0f} | {held[0]:,.0f} | {held[1]:,.0f} |')


def prefill_rows():
  """Rows of the third table."""
  full = None
  for text in PREFILLS.value:
    retention = float(text)
    config = video.get_config(f'full,retention={retention}')
    (report,) = compiling.compile_for(
      config, topologies.parse(SLICE.value), ['prefill']
    )
    memory, chip = report.memory, report.slice.chip
    full = full or report.model_flops
    yield (
      f'| {retention:.0%} | {report.model_flops:.2e} | '
      f'{full / report.model_flops:.1f} | '
      f'{memory.temporaries / 2**30:.2f} | {memory.total / 2**30:.2f} of '
      f'{chip.hbm / 2**30:.2f} | {1e3 * report.step_seconds:.0f} ms '
      f'({report.bound}) |'
    )


def tables() -> str:
  """All three, in markdown."""
  lines = [
    'Compression at R = 10 %, D = 3584, bfloat16, one video on one chip '
    '(bodies of loops counted once):',
    '',
    '| chip | frames x tokens | form | FLOPs | HBM traffic, GB | temporaries, '
    'MiB |',
    '| --- | --- | --- | ---: | ---: | ---: |',
    *compression_rows(),
    '',
    'Received attention of 64 frames of P patches, 16 heads of 80, bfloat16, '
    'on one v5e chip:',
    '',
    '| P | all weights would be, MiB | jnp holds, MiB | kernel holds, MiB |',
    '| ---: | ---: | ---: | ---: |',
    *received_rows(),
    '',
    f'Prefill of LLaVA-OneVision-7B on {SLICE.value}: 8 rows of 32 frames '
    '(tower included) and 512 tokens of text, bfloat16:',
    '',
    '| R | FLOPs of a step | fewer | temporaries per chip, GiB | HBM per chip, '
    'GiB | estimated step (bound) |',
    '| ---: | ---: | ---: | ---: | ---: | ---: |',
    *prefill_rows(),
  ]
  return '\n'.join(lines)


def main(argv):
  del argv
  jax.config.update('jax_platforms', 'cpu')
  made = tables()
  print(made)
  text = README.read_text()
  pattern = re.compile(f'{BEGIN}.*{END}', re.DOTALL)
  if not pattern.search(text):
    raise ValueError(f'{README} has no lines {BEGIN} and {END}')
  README.write_text(pattern.sub(lambda _: f'{BEGIN}\n{made}\n{END}', text))


if __name__ == '__main__':
  app.run(main)
