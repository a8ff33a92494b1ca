"""Images with their captions, as retrieval asks for them.

  dataset_*.json   Karpathy's splits of Flickr30K and COCO
  *_caps.txt       SCAN's: a caption a line, five for each image in turn

Whatever an image has beyond `CAPTIONS` captions is left out and counted: a few
of COCO have six or seven, and protocols know of five.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from data.words.captions import Tagged

CAPTIONS = 5
SPLITS = ('train', 'val', 'test', 'restval')
# What COCO's training set is in Karpathy's splits.
TRAIN = ('train', 'restval')


@dataclasses.dataclass(frozen=True)
class Captioned:
  """Images and their captions.

  Attributes:
    images: n ids, all different: COCO's or, without, the name of the file.
    files: name of each image's file; empty where none is known.
    captions: m captions, those of an image together.
    owners: int64 [m], number of each caption's image.
    skipped: what is not among them, counted by reason.
  """

  images: tuple[str, ...]
  files: tuple[str, ...]
  captions: tuple[str, ...]
  owners: np.ndarray
  skipped: Mapping[str, int]


def open_captions(path: epath.PathLike, split: str = 'test') -> Captioned:
  """Reads either layout by the name of the file.

  Args:
    path: local or gs://.
    split: of Karpathy's; 'train' is with 'restval'.

  Raises:
    FileNotFoundError: no such file.
    ValueError: for a file of another form, or a split without an image.
  """
  path = epath.Path(path)
  if not path.exists():
    raise FileNotFoundError(f'--data={path} does not exist')
  if path.name.endswith('.json'):
    return _karpathy(path, split)
  if path.name.endswith('.txt'):
    return _scan(path)
  raise ValueError(
    f"--data={path}: expected Karpathy's dataset_*.json or SCAN's *_caps.txt"
  )


def coco_ids(path: epath.PathLike, split: str = 'test') -> frozenset[int]:
  """COCO ids of a split: what knowledge must not have seen.

  Raises:
    ValueError: for a data set without COCO ids.
  """
  entries = _images_of(epath.Path(path), split)
  found = {entry.get('cocoid') for entry in entries}
  if None in found:
    raise ValueError(f'{path}: images of {split!r} have no cocoid')
  return frozenset(int(one) for one in found)


def _images_of(path: epath.Path, split: str) -> list[dict[str, Any]]:
  if split not in SPLITS:
    raise ValueError(f'--split={split!r}, expected one of {SPLITS}')
  try:
    images = json.loads(path.read_text())['images']
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path}: expected an object with images, as dataset_coco.json has'
    ) from error
  wanted = TRAIN if split == 'train' else (split,)
  found = [image for image in images if image.get('split') in wanted]
  if not found:
    has = dict(Counter(str(image.get('split')) for image in images))
    raise ValueError(f'{path}: no image of --split={split}; it has {has}')
  return found


def _karpathy(path: epath.Path, split: str) -> Captioned:
  ids, files, captions, owners = [], [], [], []
  skipped: Counter[str] = Counter()
  for entry in _images_of(path, split):
    said = [sentence.get('raw') for sentence in entry.get('sentences', ())]
    if not said or not all(isinstance(one, str) for one in said):
      raise ValueError(
        f'{path}: image {entry.get("filename")!r} has sentences '
        f'{said!r:.80}, expected texts under "raw"'
      )
    file = str(entry.get('filename', ''))
    ids.append(str(entry.get('cocoid', file.rpartition('.')[0])))
    # COCO's two folders are told from each other by this field.
    folder = entry.get('filepath', '')
    files.append(f'{folder}/{file}' if folder else file)
    skipped['caption beyond the first five'] += max(len(said) - CAPTIONS, 0)
    captions += said[:CAPTIONS]
    owners += [len(ids) - 1] * len(said[:CAPTIONS])
  if len(set(ids)) < len(ids):
    raise ValueError(
      f'{path}: image {Counter(ids).most_common(1)[0][0]!r} is there twice'
    )
  return _captioned(ids, files, captions, owners, skipped)


def _scan(path: epath.Path) -> Captioned:
  captions = path.read_text().split('\n')
  if captions and not captions[-1]:
    captions.pop()  # the file ends with a line's end
  if not captions or len(captions) % CAPTIONS:
    raise ValueError(
      f'{path}: {len(captions)} captions, expected a multiple of {CAPTIONS}: '
      'those of an image in turn, empty ones as empty lines'
    )
  images = len(captions) // CAPTIONS
  owners = np.repeat(np.arange(images), CAPTIONS).tolist()
  ids = [str(number) for number in range(images)]
  return _captioned(ids, [''] * images, captions, owners, Counter())


def _captioned(ids, files, captions, owners, skipped) -> Captioned:
  captions = [caption.strip() for caption in captions]
  return Captioned(
    tuple(ids),
    tuple(files),
    tuple(captions),
    np.array(owners, np.int64),
    {reason: count for reason, count in skipped.items() if count},
  )


def read_tags(path: epath.PathLike, captions: int) -> tuple[Tagged, ...]:
  """Penn Treebank tags of every caption: [[["a", "DT"], ["dog", "NN"]]].

  MACK publishes this as a pickle, which is not opened: it could run code.

  Raises:
    FileNotFoundError: no such file.
    ValueError: for a pickle, another form, or another number of captions.
  """
  rows = _rows_of('--tags', path, captions)
  pairs = lambda row: (
    isinstance(row, list)
    and all(
      isinstance(one, list) and len(one) == 2 and _texts(one) for one in row
    )
  )
  _check_rows('--tags', path, rows, pairs, '[token, tag] pairs')
  return tuple(tuple((token, tag) for token, tag in row) for row in rows)


Dependency = tuple[tuple[str, str], str, tuple[str, str]]


def read_parses(
  path: epath.PathLike, captions: int
) -> tuple[tuple[Dependency, ...], ...]:
  """Dependencies of every caption: [[[[head, tag], relation, [word, tag]]]].

  Raises:
    FileNotFoundError, ValueError: as `read_tags`.
  """
  rows = _rows_of('--parses', path, captions)
  ends = lambda one: isinstance(one, list) and len(one) == 2 and _texts(one)
  fits = lambda row: (
    isinstance(row, list)
    and all(
      isinstance(one, list)
      and len(one) == 3
      and ends(one[0])
      and _texts(one[1:2])
      and ends(one[2])
      for one in row
    )
  )
  _check_rows('--parses', path, rows, fits, '[[head, tag], relation, [...]]')
  return tuple(
    tuple((tuple(head), relation, tuple(word)) for head, relation, word in row)
    for row in rows
  )


def _rows_of(flag: str, path: epath.PathLike, captions: int) -> list[Any]:
  path = epath.Path(path)
  if not path.exists():
    raise FileNotFoundError(f'{flag}={path} does not exist')
  content = path.read_bytes()
  if content.lstrip()[:1] != b'[':
    raise ValueError(
      f'{flag}={path}: expected a JSON list; pickles are not opened, they '
      'could run code; where you trust a file, write its lists as json: '
      'json.dump(pickle.load(open(path, "rb")), open("out.json", "w"))'
    )
  try:
    rows = json.loads(content)
  except ValueError as error:
    raise ValueError(f'{flag}={path} is not JSON: {error}') from error
  if len(rows) != captions:
    raise ValueError(
      f'{flag}={path} has {len(rows)} rows, expected one for each of the '
      f'{captions} captions'
    )
  return rows


def _texts(values: list[Any]) -> bool:
  return all(isinstance(value, str) for value in values)


def _check_rows(flag, path, rows, fits, expected: str) -> None:
  bad = [number for number, row in enumerate(rows) if not fits(row)]
  if bad:
    raise ValueError(
      f'{flag}={path}: row {bad[0]} is {rows[bad[0]]!r:.60}, expected a list '
      f'of {expected} ({len(bad)} rows are no such list)'
    )
