"""Which pixels of which pictures are asked about, before any is opened.

Two protocols (spec 4.3, 8.1):
  all       every label, image by image, label by label
  sampled   a number of labels per set, the same number of every image but for
            one; which labels of an image is drawn without repetition

Upstream draws with repetition, puts the next index in the place of a label that
cannot be asked, and counts the labels of the first row only. Here what cannot
be asked is left out, counted and named.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data.image import MAX_PIXELS
from data.records import BadRecord
from vlm.methods.depthlm import sample
from vlm.methods.depthlm.rectify import rectified
from vlm.methods.depthlm.sample import SampleSettings

SAMPLES = 8192  # per set, as published
UNFIT = 'the arrow does not fit'
EXHAUSTED = 'the image has no further label'


@dataclasses.dataclass(frozen=True)
class Query:
  """A question about a picture that nobody has opened yet.

  Attributes:
    id: set, row and label: 'ibims1/12/3'.
    source: number of the set.
    row, label: in it.
    dataset: the row's own word for it, else the set's name.
    task: a key of `tasks.TASKS`.
    question: its words.
    pixels: (x, y) of the markers in the picture that is shown.
    size: (width, height) of that picture.
    source_pixel: of the label, in the row's picture.
    depth: true distance to the camera centre, metres.
    z: true depth along the axis, metres.
    value: what is asked for: `depth`, or the task's quantity.
    focal: fx of the row's camera, pixels.
  """

  id: str
  source: int
  row: int
  label: int
  dataset: str
  task: str
  question: str
  pixels: tuple[tuple[int, int], ...]
  size: tuple[int, int]
  source_pixel: tuple[int, int]
  depth: float
  z: float
  value: float
  focal: float


@dataclasses.dataclass(frozen=True)
class Set:
  """Rows that are evaluated together.

  Attributes:
    name: for reports.
    rows: `len`, `[i]` and `facts(i)`, as of `data.sources.depth.DepthRows`.
  """

  name: str
  rows: Any


@dataclasses.dataclass
class Found:
  """What can be asked, and what cannot.

  Attributes:
    queries: image by image.
    skipped: {data set: labels left out, by reason}.
    bad_rows: rows that could not be read: 'id' and 'problem'.
  """

  queries: list[Query] = dataclasses.field(default_factory=list)
  skipped: dict[str, Counter] = dataclasses.field(default_factory=dict)
  bad_rows: list[dict[str, str]] = dataclasses.field(default_factory=list)

  def skip(self, dataset: str, reason: str, count: int = 1) -> None:
    """Counts labels that are not asked about."""
    self.skipped.setdefault(dataset, Counter())[reason] += count


def find(
  sets: Sequence[Set],
  settings: SampleSettings,
  samples: int = 0,
  seed: int = 0,
  task: str = 'distance',
) -> Found:
  """The queries of all sets.

  Args:
    sets: what is evaluated.
    settings: how rows become queries.
    samples: of each set; 0 for every label.
    seed: of the choice of samples, and of what a task states.
    task: of one image; see `tasks.TASKS`.

  Raises:
    ValueError: nothing can be asked.
  """
  found = Found()
  for number, part in enumerate(sets):
    for row, wanted in _rows(len(part.rows), samples):
      try:
        _add(found, part, (number, row), wanted, settings, seed, task)
      except BadRecord as bad:
        problem = f'{bad.reason}: {bad.detail}'
        found.bad_rows.append({'id': f'{part.name}/{row}', 'problem': problem})
  if not found.queries:
    said = [bad['problem'] for bad in found.bad_rows[:3]]
    raise ValueError(
      'no label can be asked about; left out '
      f'{ {k: dict(v) for k, v in found.skipped.items()} }, '
      f'{len(found.bad_rows)} bad rows: {said}'
    )
  return found


def _rows(rows: int, samples: int) -> Iterator[tuple[int, int | None]]:
  """(row, how many of its labels), None for all of them."""
  if not samples:
    yield from ((row, None) for row in range(rows))
    return
  if samples < rows:  # spread over the set, whose rows come scene by scene
    yield from ((number * rows // samples, 1) for number in range(samples))
    return
  for row in range(rows):
    yield row, samples // rows + (row < samples % rows)


def _add(found, part, place, wanted, settings, seed, task) -> None:
  source, number = place
  facts = part.rows.facts(number)
  dataset = facts.get('dataset', part.name)
  pixels = facts['pixel_coords']  # before undistortion
  check_enlargement(facts['intrinsics'], settings)
  row = rectified(facts)
  labels = np.arange(len(pixels))
  if wanted is not None:
    rng = np.random.default_rng([seed, source, number])
    labels = np.sort(rng.permutation(labels)[:wanted])
    if wanted > len(labels):
      found.skip(dataset, EXHAUSTED, wanted - len(labels))
  for label in labels.tolist():
    asked = sample.make_query(row, label, settings, task, seed + number)
    if asked is None:
      found.skip(dataset, UNFIT)
      continue
    found.queries.append(
      Query(
        id=f'{part.name}/{number}/{label}',
        source=source,
        row=number,
        label=label,
        dataset=dataset,
        source_pixel=tuple(pixels[label].tolist()),
        pixels=tuple(asked['pixels']),
        size=tuple(map(int, asked['intrinsics'][4:])),
        focal=float(facts['intrinsics'].fx),
        **{k: asked[k] for k in ('task', 'question', 'depth', 'z', 'value')},
      )
    )


def check_enlargement(intrinsics: Any, settings: SampleSettings) -> None:
  """Refuses a camera whose picture the rescale would blow up.

  Raises:
    BadRecord: 'bad intrinsics', also where nothing would be left of it.
  """
  try:
    target = sample.geometry(intrinsics, settings).resized
  except ValueError as error:
    raise BadRecord('bad intrinsics', str(error)) from error
  if target[0] * target[1] > MAX_PIXELS:
    raise BadRecord(
      'bad intrinsics',
      f'fx {intrinsics[0]:g}, fy {intrinsics[1]:g} px of a {intrinsics[4]} x '
      f'{intrinsics[5]} image: rescaled to {settings.focal:g} px it would have '
      f'{target[0]} x {target[1]} pixels, at most {MAX_PIXELS}; are they in '
      'pixels of this very picture?',
    )


def spread(queries: Sequence[Query], limit: int) -> list[Query]:
  """At most so many, evenly spread; 0 for all."""
  total = len(queries)
  if not 0 < limit < total:
    return list(queries)
  return [queries[number * total // limit] for number in range(limit)]
