"""Visual Genome's boxes and their words, image by image.

  image_data.json  [{image_id, width, height, coco_id}]
  objects.json     [{image_id, objects: [{object_id, x, y, w, h, names}]}]
  attributes.json  [{image_id, attributes: [the same with attributes]}]

Words of a box are made as in MACK: its first name, punctuation replaced by
spaces, split at white space, so that a "hot dog" is both. The files have
hundreds of megabytes; an image is decoded at a time.
"""

import dataclasses
import json
import re
import string
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from data.words import lemmas

IMAGES, OBJECTS, ATTRIBUTES = (
  'image_data.json',
  'objects.json',
  'attributes.json',
)
CHUNK = 1 << 20  # characters read at once
_BETWEEN, _DECODER = re.compile(r'[\s,]*'), json.JSONDecoder()
_SPACES = str.maketrans(dict.fromkeys(string.punctuation, ' '))


@dataclasses.dataclass(frozen=True)
class LabelledImage:
  """An image with boxes and the words of each.

  Attributes:
    image_id: Visual Genome's, also the name of its file.
    coco_id: of the same image in COCO, or None.
    size: width and height, pixels.
    boxes: float32 [I, 4], x1 y1 x2 y2 in pixels, in the order of the file.
    places: int [I], of the boxes among all of the image's in the file, those
      left out counted too.
    words: of each box, all different.
  """

  image_id: int
  coco_id: int | None
  size: tuple[int, int]
  boxes: np.ndarray
  places: np.ndarray
  words: tuple[tuple[str, ...], ...]


class VisualGenome:
  """Images with at least one box that has a word; iterate as often as wanted.

  Attributes:
    skipped: what the last pass left out, counted by reason.

  Args:
    folder: of the published files, unpacked; local or gs://.
    attributes: words of attributes too (then attributes.json is read).
    without: COCO ids of images to leave out: those of a test set.

  Raises:
    FileNotFoundError: naming the file that is not there.
    ValueError: for an image without an id or a size.
  """

  def __init__(
    self,
    folder: epath.PathLike,
    *,
    attributes: bool = False,
    without: Collection[int] = (),
  ):
    self.folder, self._without = epath.Path(folder), frozenset(without)
    self._field = 'attributes' if attributes else 'objects'
    self.path = self.folder / (ATTRIBUTES if attributes else OBJECTS)
    self.skipped: Counter[str] = Counter()
    for path in (self.folder / IMAGES, self.path):
      if not path.exists():
        raise FileNotFoundError(f'--genome={folder}: {path.name} is missing')
    self._images = {}
    for image in items(self.folder / IMAGES):
      absent = {'image_id', 'width', 'height'} - set(image)
      if absent:
        raise ValueError(
          f'{self.folder / IMAGES}: an image without {sorted(absent)}: '
          f'{str(image)[:60]}'
        )
      self._images[image['image_id']] = image

  def __len__(self) -> int:
    """Images of image_data.json."""
    return len(self._images)

  def __iter__(self) -> Iterator[LabelledImage]:
    self.skipped = Counter()
    for entry in items(self.path):
      image = self._images.get(entry.get('image_id'))
      if image is None:
        self.skipped['image of no image_data.json'] += 1
      elif image.get('coco_id') in self._without:
        self.skipped['image of the COCO images left out'] += 1
      else:
        found = self._labelled(image, entry.get(self._field) or [])
        if found is None:
          self.skipped['image without a usable box'] += 1
        else:
          yield found

  def _labelled(self, image, entries) -> LabelledImage | None:
    size = int(image['width']), int(image['height'])
    boxes, places, words = [], [], []
    for place, entry in enumerate(entries):
      box = _box(entry, size)
      its = words_of_box(entry, attributes=self._field == 'attributes')
      if box is None:
        self.skipped['box without an area'] += 1
      elif not its:
        self.skipped['box without a word'] += 1
      else:
        boxes.append(box)
        places.append(place)
        words.append(its)
    if not boxes:
      return None
    return LabelledImage(
      int(image['image_id']),
      image.get('coco_id'),
      size,
      np.array(boxes, np.float32),
      np.array(places),
      tuple(words),
    )


def _box(entry: Mapping[str, Any], size: tuple[int, int]) -> Any:
  """x1 y1 x2 y2 within the image, or None where nothing is left."""
  try:
    x, y, w, h = (float(entry[name]) for name in 'xywh')
  except (KeyError, TypeError, ValueError):
    return None
  x1, y1 = max(x, 0.0), max(y, 0.0)
  x2, y2 = min(x + w, size[0]), min(y + h, size[1])
  return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def words_of_box(
  entry: Mapping[str, Any], *, attributes: bool = False
) -> tuple[str, ...]:
  """Words of a box's first name, and of its attributes, lower case."""
  said = list(entry.get('names') or [])[:1]
  said += (entry.get('attributes') or []) if attributes else []
  pieces = (str(one).translate(_SPACES).lower().split() for one in said)
  return tuple(dict.fromkeys(word for part in pieces for word in part))


def items(path: epath.Path) -> Iterator[dict[str, Any]]:
  """The objects of a file that is one JSON list, one at a time.

  Raises:
    ValueError: for a file of another form, or one that is cut short.
  """
  with path.open('r') as file:
    text = file.read(CHUNK).lstrip()
    if not text.startswith('['):
      raise ValueError(f'{path}: expected a JSON list, got {text[:20]!r}')
    place = 1
    while True:
      place = _BETWEEN.match(text, place).end()
      if text.startswith(']', place):
        return
      try:
        item, place = _DECODER.raw_decode(text, place)
      except ValueError as error:
        # Asked for as much again, so that a large object is not read often.
        more = file.read(max(CHUNK, len(text) - place))
        if not more:
          raise ValueError(
            f'{path}: cut short or broken near {text[place : place + 40]!r}: '
            f'{error}'
          ) from error
        text, place = text[place:] + more, 0
        continue
      if not isinstance(item, dict):
        raise ValueError(f'{path}: expected objects, got {str(item)[:40]}')
      yield item


def count_words(images: VisualGenome) -> Counter[str]:
  """Boxes of every word."""
  return Counter(
    word for image in images for words in image.words for word in words
  )


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """The words that knowledge is built of.

  Attributes:
    words: most frequent first, ties by the alphabet.
    of: the word that each counts as: itself or, lemmatised, its base form.
    counts: boxes of each of `words`.
    left_out: words that are not among them, counted by reason.
  """

  words: tuple[str, ...]
  of: Mapping[str, str]
  counts: tuple[int, ...]
  left_out: Mapping[str, int]


def choose_words(
  counts: Mapping[str, int],
  vectors: Collection[str],
  *,
  minimum: int = 1,
  largest: int = 0,
  lemmatise: bool = False,
) -> Vocabulary:
  """Words that are alphabetic, frequent and have a vector.

  Args:
    counts: boxes of each word.
    vectors: words with a vector, without which a word is nobody's neighbour.
    minimum: boxes a word needs.
    largest: words to keep, the most frequent; 0: all. The paper has 12,385.
    lemmatise: count a word as its base form, where that is more frequent.

  Raises:
    ValueError: when no word is left.
  """
  of, total = {}, Counter()
  for word, count in counts.items():
    forms = lemmas.candidates(word) if lemmatise else ()
    better = [f for f in forms if counts.get(f, 0) > count and f in vectors]
    of[word] = better[0] if better else word
    total[of[word]] += count
  left_out: Counter[str] = Counter()
  kept = {}
  for word, count in total.items():
    if not word.isalpha():
      left_out['not alphabetic'] += 1
    elif word not in vectors:
      left_out['no vector'] += 1
    elif count < minimum:
      left_out[f'fewer than {minimum} boxes'] += 1
    else:
      kept[word] = count
  if not kept:
    raise ValueError(
      f'no word of {len(counts)} is left; left out {dict(left_out)}; see '
      '--minimum and --vectors'
    )
  words = sorted(kept, key=lambda word: (-kept[word], word))
  if largest and len(words) > largest:
    left_out['beyond the most frequent'] = len(words) - largest
    words = words[:largest]
  chosen = frozenset(words)
  return Vocabulary(
    tuple(words),
    {word: base for word, base in of.items() if base in chosen},
    tuple(kept[word] for word in words),
    dict(left_out),
  )
