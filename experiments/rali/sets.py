"""The rows a config names: published sets, files of your own, or a world.

`config.sets` has `train`, `degradations` and `eval`, each a list of names:

  koniq          a published set under `config.data.path`
  own.json       a file, whose images lie under `config.data.images`
  A              a family of the world, where the config has `photos`
  generic        the world's photographs of all families with noisy captions
"""

from collections.abc import Sequence
from typing import Any

from data.sources import iqa
from data.sources.iqa_corpora import CORPORA
from data.sources.photo_rows import GenericRows, PhotoRows
from data.worlds.photos import CROWDS
from experiments.rali.miniature import described

FILES = ('.json', '.jsonl')
GENERIC = 'generic'


def train_rows(config: Any) -> list[Any]:
  """Sources of the training stream, one after another.

  Raises:
    ValueError: no set at all, or an unknown one.
  """
  rows = [open_set(config, name, 'train') for name in config.sets.train]
  rows += [
    open_set(config, name, 'train', 'degradation')
    for name in config.sets.degradations
  ]
  if not rows:
    raise ValueError(
      '--config.sets.train and --config.sets.degradations are empty; name a '
      f'published set ({sorted(CORPORA)}) or a .json file'
    )
  return rows


def eval_sets(config: Any) -> dict[str, Any]:
  """Sets that are tested on, by name."""
  return {
    stem(name): open_set(config, name, 'test') for name in config.sets.eval
  }


def stem(name: str) -> str:
  """A set's name in tables."""
  if not name.endswith(FILES):
    return name
  return name.rpartition('/')[2].rpartition('.')[0]


def open_set(
  config: Any, name: str, split: str, task: str = 'score'
) -> Sequence[Any]:
  """Rows of a set; see `data/sources/iqa.py` for their fields."""
  if name.endswith(FILES):
    return iqa.open_file(name, config.data.images)
  if 'photos' in config:
    return _world(config, name, split, task)
  if not config.data.path:
    raise ValueError(
      f'the set {name!r} is published; set --config.data.path to the folder '
      'that holds KONIQ, SPAQ, ... as Data-DeQA-Score has them'
    )
  return iqa.open_corpus(config.data.path, name, split)


def photographs(
  config: Any, family: str, split: str, task: str = 'score'
) -> PhotoRows:
  """A family's photographs, whether or not a run has described them."""
  world = config.photos
  train, total = world.train, world.train + world.test
  start, count = (0, train) if split == 'train' else (train, world.test)
  return PhotoRows(world.seed, family, start, count, total, task=task)


def _world(config: Any, name: str, split: str, task: str) -> Sequence[Any]:
  if name == GENERIC:
    return GenericRows(config.photos.seed, config.photos.generic, task=task)
  if name not in CROWDS:
    raise ValueError(
      f'the set {name!r}, expected one of {[*CROWDS, GENERIC]} or a .json file'
    )
  rows = photographs(config, name, split, task)
  folder = config.described[name] if split == 'train' else ''
  return described.joined(rows, folder) if folder else rows
