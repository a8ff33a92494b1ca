"""MASK's matcher compiled for TPUs that are not here: a table of its README.

    PYTHONPATH=. python tests/benchmarks/mask_compiled.py

Needs libtpu. COCO 5K: 5,000 images of 36 regions, 25,000 captions, 7,400
distinct words, Z = 512, float32, all images at once. Nothing runs. The compiler
counts the body of a loop once, so FLOPs are left out: what is said is memory.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.sharding import NamedSharding

from launch.pods import topologies
from vlm.methods.mask import matcher
from vlm.sharding.mesh import batch_shards, make_mesh

README = Path(__file__).parents[2] / 'experiments' / 'mask' / 'README.md'
BEGIN, END = '<!-- matcher:begin -->', '<!-- matcher:end -->'
SLICE = flags.DEFINE_string('slice', 'v5e:4x4', 'Compiled for.')
WORDS_OF_A_CAPTION = flags.DEFINE_integer('slots', 20, 'J, of the longest.')
IMAGES, REGIONS, CAPTIONS, WORDS, WIDTH = 5000, 36, 25000, 7400, 512
TILE, BLOCK, MIB = 8, 64, 2**20


def programs(mesh):
  """Yields (name, compiled program)."""

  def array(name, shape, dtype=jnp.float32):
    where = NamedSharding(mesh, matcher.SPECS[name])
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

  up = lambda size, unit: -(-size // unit) * unit
  images = up(IMAGES, batch_shards(mesh) * TILE)
  captions = up(CAPTIONS, mesh.shape[matcher.CAPTION_AXIS] * BLOCK)
  arrays = {
    'codes': array('codes', (images, REGIONS, WIDTH)),
    'valid': array('valid', (images, REGIONS), jnp.bool_),
    'table': array('table', (WORDS + 1, WIDTH)),
    'best': array('best', (WORDS + 1, images)),
  }
  names = ('codes', 'valid', 'table')
  shared = dict(tile=TILE, mesh=mesh)
  yield (
    'best region of each word and image',
    matcher.best_program.lower(*(arrays[n] for n in names), **shared).compile(),
  )
  rows = jax.ShapeDtypeStruct((images,), jnp.int32)
  ids = array('ids', (captions, WORDS_OF_A_CAPTION.value), jnp.int32)
  lengths = array('lengths', (captions,), jnp.int32)
  for pooling in matcher.POOLINGS:
    lowered = matcher.scores_program.lower(
      arrays, rows, ids, lengths, pooling=pooling, block=BLOCK, **shared
    )
    yield f'scores, {pooling}', lowered.compile()


def table() -> str:
  """The table in markdown."""
  parsed = topologies.parse(SLICE.value)
  devices = topologies.abstract_devices(parsed)
  mesh = make_mesh({'fsdp': 4, 'tensor': -1}, devices)
  shape = ' x '.join(f'{n} {name}' for name, n in mesh.shape.items() if n > 1)
  lines = [
    f'The matcher at COCO 5K ({IMAGES:,} images of {REGIONS} regions, '
    f'{CAPTIONS:,} captions, {WORDS:,} words, float32) compiled for '
    f'{SLICE.value} ({shape}); MiB per chip of {parsed.chip.hbm / 2**30:.2f} '
    'GiB. Only compiled: nothing here ran on a TPU. All region-word cosines of '
    f'all captions would be {IMAGES * REGIONS * CAPTIONS * 10 * 4 / 2**40:.1f} '
    'TiB at 10 words each.',
    '',
    '| program | arguments | result | temporaries | together |',
    '| --- | ---: | ---: | ---: | ---: |',
  ]
  for name, program in programs(mesh):
    memory = program.memory_analysis()
    sizes = (
      memory.argument_size_in_bytes,
      memory.output_size_in_bytes,
      memory.temp_size_in_bytes,
    )
    cells = (f'{size / MIB:,.0f}' for size in (*sizes, sum(sizes)))
    lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    print(lines[-1], flush=True)
  return '\n'.join(lines)


def main(argv):
  del argv
  jax.config.update('jax_platforms', 'cpu')
  made = table()
  text = README.read_text()
  pattern = re.compile(f'{BEGIN}.*{END}', re.DOTALL)
  if not pattern.search(text):
    raise ValueError(f'{README} has no lines {BEGIN} and {END}')
  README.write_text(pattern.sub(lambda _: f'{BEGIN}\n{made}\n{END}', text))


if __name__ == '__main__':
  app.run(main)
