"""Opinions in a csv file, joined with scores by the names of images."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from vlm.metrics import correlation


class Agreement(NamedTuple):
  """How scores agree with opinions.

  Attributes:
    scores: of `correlation.scores`; NaN where there is nothing to correlate.
    images: how many have both.
    without_score: opinions of images that are missing or could not be read.
    without_opinion: scores of images that the file does not name.
  """

  scores: dict[str, float]
  images: int
  without_score: int
  without_opinion: int


def read_opinions(
  path: epath.PathLike, image: str = 'image', opinion: str = 'mos'
) -> dict[str, float]:
  """Opinions by the name of the image.

  Args:
    path: csv with a header.
    image: column of names.
    opinion: column of numbers, larger for better.

  Raises:
    ValueError: naming the file, and the column or line that is wrong.
  """
  rows = csv.DictReader(io.StringIO(epath.Path(path).read_text()))
  missing = sorted({image, opinion} - set(rows.fieldnames or ()))
  if missing:
    raise ValueError(
      f'{path}: no column {missing}; it has {rows.fieldnames}; set '
      '--reference_columns=IMAGE,MOS'
    )
  found = {}
  for row in rows:
    where = f'{path}, line {rows.line_num}'
    try:
      value = float(row[opinion])
    except (TypeError, ValueError):
      value = math.nan
    if not math.isfinite(value):
      raise ValueError(f'{where}: {opinion} is {row[opinion]!r}, no number')
    if row[image] in found:
      raise ValueError(f'{where}: {row[image]!r} for the second time')
    found[row[image]] = value
  return found


def agreement(
  records: Sequence[Mapping[str, Any]], opinions: Mapping[str, float]
) -> Agreement:
  """Correlations over the images that have a score and an opinion.

  An opinion belongs to the image of its name, a path below the folder of
  images; where there is none, to the one of the same base name, if only one
  image and one opinion have it.

  Raises:
    ValueError: no image has both.
  """
  scored = {r['image']: r['score'] for r in records if 'score' in r}
  by_base, named = _unique_bases(scored), _unique_bases(opinions)
  pairs = {}
  for name in opinions:
    base = epath.Path(name).name
    other = by_base.get(base) if base in named else None
    found = name if name in scored else other
    if found is not None:
      pairs[name] = found
  if not pairs:
    raise ValueError(
      f'--references: none of its {len(opinions)} images is among the scores; '
      f'it has {next(iter(opinions), "nothing")!r}, scored was '
      f'{next(iter(scored), "nothing")!r}'
    )
  predicted = np.array([scored[name] for name in pairs.values()])
  truth = np.array([opinions[name] for name in pairs])
  return Agreement(
    correlation.scores(predicted, truth),
    len(pairs),
    len(opinions) - len(pairs),
    len(scored) - len(pairs),
  )


def _unique_bases(names: Iterable[str]) -> dict[str, str]:
  """Names by their base names, of those whose base name no other has."""
  bases = [epath.Path(name).name for name in names]
  counts = Counter(bases)
  return {base: name for base, name in zip(bases, names) if counts[base] == 1}
