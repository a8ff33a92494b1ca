"""Pictures of a scored folder: a histogram, the best and the worst images."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from data.image import open_image
from experiments.rali.scoring import Files

THUMB = 240  # pixels of the longer side
COLUMNS = 6


def histogram(scores: np.ndarray) -> Figure:
  """How often each score was given."""
  figure = Figure(figsize=(6, 3.2), layout='constrained')
  axes = figure.subplots()
  # Of equal scores there is one bar, at their value.
  spread = float(np.ptp(scores))
  bins = min(40, max(5, len(scores) // 4)) if spread > 1e-6 else 1
  axes.hist(scores, bins=bins, color='#4477aa')
  axes.axvline(np.median(scores), color='#222222', lw=1, ls='--')
  axes.set_xlabel(f'score, median {np.median(scores):.2f}')
  axes.set_ylabel('images')
  return figure


def contact_sheet(
  files: Files, ranked: Sequence[tuple[str, float]], rows: int = 2
) -> Figure:
  """The best images above, the worst below.

  Args:
    files: where they are.
    ranked: (name, score), the best first.
    rows: of the best, and as many of the worst.
  """
  count = min(rows * COLUMNS, -(-len(ranked) // 2))
  parts = (
    ('best', ranked[:count]),
    ('worst', list(reversed(ranked[count:]))[:count]),
  )
  lines = [max(1, -(-len(part) // COLUMNS)) for _, part in parts]
  size = 2.1 * COLUMNS, 2.0 * sum(lines) + 0.8
  figure = Figure(figsize=size, layout='constrained')
  halves = figure.subfigures(2, 1, height_ratios=lines)
  for half, line, (title, part) in zip(halves, lines, parts):
    half.suptitle(title, fontsize=11)
    cells = half.subplots(line, COLUMNS, squeeze=False).ravel()
    for cell in cells:
      cell.axis('off')
    for cell, (name, score) in zip(cells, part):
      cell.imshow(_thumbnail(files, name))
      cell.set_title(f'{score:.2f}\n{_shortened(name)}', fontsize=7)
  return figure


def _thumbnail(files: Files, name: str) -> Image.Image:
  image = open_image(files.path(name))
  image.thumbnail((THUMB, THUMB))
  return image


def _shortened(name: str, longest: int = 28) -> str:
  return name if len(name) <= longest else '…' + name[1 - longest :]
