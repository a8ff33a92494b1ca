r"""A metric depth map and a point cloud from one photograph, by DepthLM.

  python -m launch.depthmap --model=DIR_OR_HUB_ID --image=kitchen.jpg \
    --output=runs/kitchen
  python -m launch.depthmap --model=DIR --focal=750 --image=hall.png \
    --fx=1108.5 --grid=64 --output=runs/hall
  python -m launch.depthmap --config=experiments/depthlm/depthlm.py:tiny \
    --checkpoint=runs/depthlm/tiny-marker-0 --image=room.png --fov=70 \
    --output=runs/room

Asks about a grid of pixels, `--grid` along the longer side. The camera's focal
length is `--fx` (pixels of this very picture), `--fov` (degrees across), or
what EXIF says; the focal length of the model is read from its depthlm.json.
Writes what experiments/depthlm/dense_files.py lists, and depth_colours.png.
"""

import numpy as np
from absl import app, flags
from etils import epath
from matplotlib.figure import Figure
from ml_collections import config_flags

from data import focal as focals
from data.assistant import Assistant
from data.image import open_image
from data.sources.depth_fields import DEPTH_KINDS
from experiments.asking.ask import Batches
from experiments.depthlm import dense_files, inference
from experiments.depthlm.ask import MAX_NEW_TOKENS
from experiments.depthlm.dense import map_depth
from experiments.depthlm.task import Task
from launch import console, evaluate, job
from vlm.convert import folder as folders
from vlm.methods.depthlm import camera
from vlm.methods.depthlm.settings import SampleSettings
from vlm.sharding import mesh as mesh_lib

FLAGS = flags.FLAGS
BATCH = 16  # questions at once, of each device


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  flags.DEFINE_string('model', '', 'Folder or hub id; or --config.')
  config_flags.DEFINE_config_file('config', lock_config=True)
  flags.DEFINE_string('checkpoint', '', 'Of --config: workdir or safetensors.')
  flags.DEFINE_string('image', None, 'The photograph.', required=True)
  flags.DEFINE_string('output', None, 'Folder of results.', required=True)
  flags.DEFINE_float('fx', 0.0, 'Focal length of the camera, pixels.')
  flags.DEFINE_float('fy', 0.0, 'The same vertically; fx if it is not given.')
  flags.DEFINE_float('cx', None, 'Principal point; the centre by default.')
  flags.DEFINE_float('cy', None, 'Principal point; the centre by default.')
  flags.DEFINE_float('fov', 0.0, 'Horizontal field of view, degrees.')
  flags.DEFINE_integer('grid', 32, 'Cells along the longer side.')
  flags.DEFINE_float('focal', 0.0, 'The focal length of a model without one.')
  flags.DEFINE_string('settings', '', 'A file in the place of depthlm.json.')
  flags.DEFINE_enum('answers', 'range', DEPTH_KINDS, 'What it answers in.')
  flags.DEFINE_integer('batch_size', BATCH, 'Questions at once, per device.')
  flags.DEFINE_integer('max_new_tokens', MAX_NEW_TOKENS, 'Longest answer.')


def main(argv: list[str]) -> None:
  """Loads, asks, writes."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  if bool(FLAGS.model) == (FLAGS.config is not None):
    raise app.UsageError('expected either --model or --config')
  if FLAGS.config is not None and not FLAGS.checkpoint:
    raise app.UsageError('--config needs --checkpoint')
  console.set_up_logging()
  with console.plain_errors('launch.depthmap'):
    _run()


def _run() -> None:
  picture = open_image(FLAGS.image)
  camera_of_picture, origin = intrinsics_of(FLAGS.image, *picture.size)
  console.say(origin)
  mesh = mesh_lib.make_mesh({'data': 1, 'fsdp': -1})
  assistant, settings = _assistant(mesh)
  console.say(f'asked at a common focal length of {settings.focal:g} pixels')
  image = np.asarray(picture)
  with console.progress_bar() as bar:
    task = bar.add_task('questions', total=None)
    dense = map_depth(
      assistant,
      image,
      camera_of_picture,
      settings,
      FLAGS.grid,
      mesh=mesh,
      batches=Batches(FLAGS.batch_size * mesh_lib.batch_shards(mesh)),
      max_new_tokens=FLAGS.max_new_tokens,
      answered=FLAGS.answers,
      progress=lambda done, total: bar.update(
        task, completed=done, total=total
      ),
    )
  facts = {
    'image': FLAGS.image,
    'model': FLAGS.model or FLAGS.checkpoint,
    'intrinsics': list(camera_of_picture),
    'focal_length': origin,
  }
  folder = epath.Path(FLAGS.output)
  dense_files.write(folder, dense, facts)
  figure = Figure(figsize=(11, 4), layout='constrained')
  dense_files.draw(figure, image, dense)
  with (folder / 'depth_colours.png').open('wb') as file:
    figure.savefig(file, format='png', dpi=120)
  _report(dense)


def intrinsics_of(
  path: str, width: int, height: int
) -> tuple[camera.Intrinsics, str]:
  """The camera of a picture, from flags or EXIF, and a line that says so.

  Args:
    path: of the picture.
    width, height: of the upright picture, pixels.

  Raises:
    ValueError: naming the flags, where nothing says the focal length.
  """
  if FLAGS.fx and FLAGS.fov:
    raise ValueError('--fx and --fov say the same thing; give one of them')
  if FLAGS.fx:
    found = focals.Focal(FLAGS.fx, '--fx')
  elif FLAGS.fov:
    found = focals.from_fov(FLAGS.fov, width)
  else:
    found = focals.from_exif(path)
  if found is None:
    raise ValueError(
      f'{path} does not say its focal length (no EXIF); set --fx (pixels) or '
      '--fov (degrees across): metres are proportional to it'
    )
  cx = width / 2 if FLAGS.cx is None else FLAGS.cx
  cy = height / 2 if FLAGS.cy is None else FLAGS.cy
  intrinsics = camera.repaired(
    [found.pixels, FLAGS.fy or found.pixels, cx, cy, width, height]
  )
  centred = FLAGS.cx is None or FLAGS.cy is None
  assumed = [
    *(() if FLAGS.fy else ('square pixels',)),
    *(('the principal point in the centre',) if centred else ()),
  ]
  line = f'focal length {found.pixels:.1f} pixels, from {found.origin}'
  if assumed:
    line += f'; assumed: {" and ".join(assumed)}'
  return intrinsics, line


def _assistant(mesh) -> tuple[Assistant, SampleSettings]:
  """The model, and how it wants to be asked."""
  if FLAGS.model:
    settings = inference.settings_of(
      folders.resolve(FLAGS.model), FLAGS.focal, FLAGS.settings
    )
    return inference.load(FLAGS.model, mesh), settings
  if FLAGS.focal or FLAGS.settings:
    raise ValueError('--focal and --settings go with --model')
  made = job.prepare(FLAGS.config)
  if not isinstance(made.task, Task):
    raise ValueError(f'--config is of {FLAGS.config.task}, expected a DepthLM')
  made.task.adopt(FLAGS.checkpoint)
  params, _ = evaluate.load_checkpoint(made, FLAGS.checkpoint, mesh)
  return evaluate.assistant_of(made, params, mesh), made.task.settings


def _report(dense) -> None:
  known = dense.z[dense.distance > 0]
  console.say(
    f'{known.size} of {dense.z.size} cells: {known.min():.2f} to '
    f'{known.max():.2f} m along the axis'
  )
  for reason, count in dense.lost.items():
    console.say(f'without an answer: {count}: {reason}')
  console.say(f'depth map, colours and point cloud: {FLAGS.output}')


def run() -> None:
  """Entry point."""
  define_flags()
  app.run(main)


if __name__ == '__main__':
  run()
