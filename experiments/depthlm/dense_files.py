"""Depth maps on disk, and as pictures."""

import json
from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

from experiments.depthlm.dense import Dense

MILLIMETRE = 0.001
DEEPEST = 65_535  # what 16 bits hold; 0 is unknown


def write(folder: epath.PathLike, dense: Dense, facts: dict[str, Any]) -> None:
  """Writes everything that a depth map is wanted as.

  distance.npy   float32 [rows, columns], metres to the camera centre, or NaN
  depth.npy      the same along the optical axis
  depth.png      depth in 16 bits; 0 is unknown; `metres_per_unit` of its text
                 and of depth.json is a millimetre unless that is too fine
  cloud.ply      points with colours; metres; x right, y down, z forward
  answers.jsonl  every question and what was said
  depth.json     `facts`, the pixels of the cells, the unit of depth.png

  Args:
    folder: made if it is not there.
    dense: the map.
    facts: what else depth.json shall say.
  """
  folder = epath.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  for name, values in (('distance', dense.distance), ('depth', dense.z)):
    with (folder / f'{name}.npy').open('wb') as file:
      np.save(file, values)
  unit = write_png(folder / 'depth.png', dense.z)
  write_ply(folder / 'cloud.ply', *dense.cloud())
  lines = [json.dumps(record) + '\n' for record in dense.records]
  (folder / 'answers.jsonl').write_text(''.join(lines))
  said = facts | {
    'metres_per_unit': unit,
    'columns_at_x': dense.pixels[0, :, 0].tolist(),
    'rows_at_y': dense.pixels[:, 0, 1].tolist(),
    'cells_lost': dict(dense.lost),
  }
  (folder / 'depth.json').write_text(json.dumps(said, indent=1))


def write_png(path: epath.PathLike, metres: np.ndarray) -> float:
  """Writes [rows, columns] metres in 16 bits; NaN becomes 0.

  Returns:
    Metres of one unit: 0.001, or ten times that as often as it takes until the
    farthest value fits.
  """
  unit, farthest = MILLIMETRE, float(np.nanmax(metres))
  while round(farthest / unit) > DEEPEST:
    unit *= 10
  units = np.nan_to_num(np.rint(metres / unit)).astype(np.uint16)
  # A value nearer than half a unit is still known.
  units[np.isfinite(metres) & (units == 0)] = 1
  text = PngImagePlugin.PngInfo()
  text.add_text('metres_per_unit', f'{unit:g}')
  with epath.Path(path).open('wb') as file:
    Image.fromarray(units).save(file, format='PNG', pnginfo=text)
  return unit


def write_ply(
  path: epath.PathLike, points: np.ndarray, colours: np.ndarray
) -> None:
  """Writes points [N, 3] and colours [N, 3] uint8 as binary PLY."""
  fields = [(axis, '<f4') for axis in 'xyz']
  fields += [(name, 'u1') for name in ('red', 'green', 'blue')]
  rows = np.zeros(len(points), fields)
  for column, axis in enumerate('xyz'):
    rows[axis] = points[:, column]
  for column, name in enumerate(('red', 'green', 'blue')):
    rows[name] = colours[:, column]
  kinds = {'<f4': 'float', 'u1': 'uchar'}
  header = [
    'ply',
    'format binary_little_endian 1.0',
    'comment metres; x right, y down, z forward',
    f'element vertex {len(points)}',
    *(f'property {kinds[kind]} {name}' for name, kind in fields),
    'end_header\n',
  ]
  epath.Path(path).write_bytes('\n'.join(header).encode() + rows.tobytes())


def draw(figure: Figure, image: np.ndarray, dense: Dense) -> None:
  """Draws the photograph beside its depth in colours, with a bar in metres.

  Args:
    figure: about three times as wide as high, layout 'constrained'.
    image: uint8 [H, W, 3].
    dense: its map.
  """
  left, right = figure.subplots(1, 2)
  left.imshow(image)
  height, width = image.shape[:2]
  # Near differences count: a step is a ratio, as in delta1.
  shown = right.imshow(
    dense.z, cmap='turbo_r', norm='log', extent=(0, width, height, 0)
  )
  right.set_facecolor('0.8')  # cells without an answer
  bar = figure.colorbar(shown, ax=right, label='depth along the axis, metres')
  bar.ax.yaxis.set_major_formatter('{x:.3g}')
  bar.ax.yaxis.set_minor_formatter('{x:.3g}')
  for axis in (left, right):
    axis.set(xticks=[], yticks=[])
