r"""What one host core prepares of DepthLM's largest training picture.

  PYTHONPATH=. python tests/benchmarks/depthlm_host.py \
    --step_seconds=3.2 --batch=1280 --chips=256 --chips_per_host=4 --cores=56

From a decoded picture to patches: resize to the common focal length, crop to
1,400 x 1,200 pixels, draw the arrow, cut into Qwen2.5-VL's patches; each stage
alone, and the whole as training runs it, in seconds of the processor, which a
busy machine does not stretch. JPEG decoding and the undistortion of a real lens
are timed beside it. With the step time of the compile table
(launch.compile's roofline, which no run beats) follow the cores and hosts that
keep the chips fed.
"""

import argparse
import io
import math
import os
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from data.processors.limits import unshrinking
from data.processors.registry import processor_of
from vlm.methods.depthlm import camera, draws, marker, sample
from vlm.methods.depthlm.lens import Lens
from vlm.methods.depthlm.rectify import rectified
from vlm.models import registry

CROP = (1400, 1200)
SOURCE = camera.Intrinsics(900.0, 905.0, 800.0, 640.0, 1600, 1280)
SETTINGS = sample.SampleSettings(
  focal=1000.0,
  multiple=28,
  crop_height=(CROP[1], CROP[1] + 1),
  crop_width=(CROP[0], CROP[0] + 1),
)


def seconds(work: Callable[[], object], least: float) -> float:
  """Median CPU seconds of a call, after a warm one, over at least `least`."""
  work()
  taken = []
  while sum(taken) < least or len(taken) < 5:
    start = time.process_time()
    work()
    taken.append(time.process_time() - start)
  return float(np.median(taken))


def make_row() -> dict:
  """A smooth picture with some texture, as a photograph has."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
  picture = np.asarray(Image.fromarray(coarse).resize(SOURCE[4:]))
  noise = rng.integers(-8, 9, picture.shape)
  return {
    'image': np.clip(picture + noise, 0, 255).astype(np.uint8),
    'intrinsics': SOURCE,
    'pixel_coords': rng.integers(300, 900, (100, 2)),
    'depth': rng.uniform(1, 30, 100),
    'depth_kind': 'z',
  }


def stages(row: dict, processor) -> dict[str, Callable[[], object]]:
  """The stages of a sample, each with its input ready, then the whole."""
  rng = np.random.default_rng(0)
  view = draws.draw_view(row, rng, SETTINGS)
  moved = sample.geometry(SOURCE, SETTINGS, view)
  cut = np.ascontiguousarray(moved.apply(row['image']))
  jpeg = io.BytesIO()
  Image.fromarray(row['image']).save(jpeg, format='JPEG', quality=90)
  bent = row | {'lens': Lens('brown_conrady', (-0.2, 0.05, 0.0, 0.0))}

  def whole():
    made = sample.make_sample(row, rng, SETTINGS)
    return processor.prepare(made['images'])

  return {
    'resize and crop': lambda: moved.apply(row['image']),
    'marker': lambda: marker.ARROW.draw(cut, (700, 600)),
    'patchify': lambda: processor.prepare([cut]),
    'resize + crop + marker + patchify': whole,
    'JPEG decode (beside it)': lambda: np.asarray(
      Image.open(io.BytesIO(jpeg.getvalue())).convert('RGB')
    ),
    'undistort (beside it, real lenses only)': lambda: rectified(bent),
  }


def main() -> None:
  """Prints a table, and the hosts a run needs."""
  arguments = argparse.ArgumentParser(description=__doc__)
  arguments.add_argument('--model', default='qwen2.5-vl-7b')
  arguments.add_argument('--seconds', type=float, default=3.0)
  arguments.add_argument('--step_seconds', type=float, required=True)
  arguments.add_argument('--batch', type=int, default=1280)
  arguments.add_argument('--chips', type=int, default=256)
  arguments.add_argument('--chips_per_host', type=int, default=4)
  arguments.add_argument('--cores', type=int, default=56, help='of a host')
  given = arguments.parse_args()
  facts = registry.preset(given.model)
  processor = unshrinking(processor_of(facts), max(CROP))
  found = {}
  for name, work in stages(make_row(), processor).items():
    found[name] = seconds(work, given.seconds)
    print(f'{name:42s} {1e3 * found[name]:8.1f} ms')
  per_core = 1 / found['resize + crop + marker + patchify']
  with_jpeg = 1 / (1 / per_core + found['JPEG decode (beside it)'])
  wanted = given.batch / given.step_seconds
  print(f'load average here: {os.getloadavg()[0]:.1f}')
  print(f'wanted: {wanted:.0f} images/s ({given.batch} a step)')
  there = given.chips // given.chips_per_host
  for name, rate in (('', per_core), (' with decoding', with_jpeg)):
    cores = math.ceil(wanted / rate)
    hosts = math.ceil(cores / given.cores)
    print(
      f'per core{name}: {rate:.1f} images/s; {cores} cores, {hosts} hosts of '
      f'{given.cores} cores; the slice has {there} hosts, so each needs '
      f'{math.ceil(cores / there)} cores'
    )


if __name__ == '__main__':
  main()
