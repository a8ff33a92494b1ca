"""The rows a config names: files by set and weight, rooms, pairs of frames."""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from data.sources import posed_pairs
from data.sources.depth_shards import open_depth_rows
from data.sources.rendered import RenderedRooms
from data.worlds.rooms import RoomSettings
from experiments.depthlm import scan
from vlm.methods.depthlm.sample import SampleSettings

TRAIN_SEED, EVAL_SEED = 0, 1_000_003  # other seed, other rooms
EPOCH = 100  # samples of an image in the nominal epoch (spec 2.6)


def plain(value: Any) -> Any:
  """Lists back to the tuples that a frozen dataclass holds, at every depth."""
  return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def settings_of(config: Any) -> SampleSettings:
  """`config.depth` as settings."""
  return SampleSettings(**{k: plain(v) for k, v in dict(config.depth).items()})


def training_rows(
  config: Any, arms: Sequence[SampleSettings]
) -> tuple[list[Any], list[float] | None]:
  """Sources of the training stream, and their weights in it.

  `data.path`, one file, goes before the mixture of `sets`.

  Raises:
    ValueError: naming the setting, for a mixture that names no set.
  """
  if 'rooms' in config:
    return _room_sources(config, arms)
  data = config.data
  if data.path or 'sets' not in config:
    return [open_depth_rows(data.path, data.images, data.depth_kind)], None
  sources, weights = [], []
  for name, facts in config.sets.items():
    if facts.weight > 0:
      sources.append(_set(name, facts))
      weights.append(float(facts.weight))
  if not sources:
    raise ValueError(
      'no set has a weight; set --config.sets.NAME.weight of one of '
      f'{sorted(config.sets)}'
    )
  _log_mixture(config, sources, weights)
  return sources, weights


class _NamedRows:
  """Rows that say which data set they are of, as its config names it."""

  def __init__(self, rows: Any, dataset: str):
    self._rows, self._dataset = rows, dataset
    self.name = dataset

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Mapping[str, Any]:
    return {'dataset': self._dataset} | self._rows[index]


def _set(name: str, facts: Any) -> Any:
  rows = open_depth_rows(facts.path, facts.images, facts.depth_kind)
  if facts.pairs:
    rows = posed_pairs.PosedPairs(rows, posed_pairs.read(facts.pairs))
  return _NamedRows(rows, name)


def nominal_epoch(sources: Sequence[Any]) -> int:
  """Samples of the nominal epoch: a hundred of every image."""
  return EPOCH * sum(len(source) for source in sources)


def _log_mixture(config, sources, weights) -> None:
  samples, epoch = config.steps * config.batch_size, nominal_epoch(sources)
  logging.info(
    'training mixture: %s; %d samples are %.3g of the nominal epoch of %d '
    'samples per image',
    ', '.join(
      f'{source.name} {len(source):,} images x {weight / sum(weights):.1%}'
      for source, weight in zip(sources, weights, strict=True)
    ),
    samples,
    samples / epoch,
    EPOCH,
  )


def _room_sources(config, arms):
  count = config.rooms.train_images
  rooms = rendered(config, TRAIN_SEED, count, arms)
  share = config.rooms.get('pair_share', 0.0)
  if not share:
    return [rooms], None
  pairs = posed_pairs.PosedPairs(rooms, posed_pairs.find(rooms))
  return [rooms, pairs], [1 - share, share]


def rendered(
  config: Any,
  seed: int,
  count: int,
  arms: Sequence[SampleSettings],
  focals: Sequence[float] | None = None,
  labels: int | None = None,
) -> RenderedRooms:
  """Rooms of the config's world."""
  rooms = config.rooms
  settings = _world(rooms, focals or rooms.focals)
  return RenderedRooms(
    seed, count, settings, labels or rooms.labels, arms, folder=rooms.cache
  )


def _world(rooms: Any, focals: Sequence[float]) -> RoomSettings:
  return RoomSettings(
    width=rooms.size,
    height=rooms.size,
    focals=tuple(focals),
    **{k: plain(v) for k, v in rooms.world.items()},
  )


def scanned(
  config: Any, arms: Sequence[SampleSettings]
) -> list[Mapping[str, Any]]:
  """A few held-out rooms, asked all over."""
  rooms = config.rooms
  world = _world(rooms, rooms.focals)
  return scan.rows(EVAL_SEED, rooms.scanned, world, arms)


def room_sets(config: Any, arms: Sequence[SampleSettings]) -> dict[str, Any]:
  """Held-out rooms, with training, wider and longer lenses."""
  low, high = config.rooms.unseen_focals
  count, single = config.rooms.eval_images, config.rooms.eval_labels
  of = lambda seed, focals=None: rendered(
    config, seed, count, arms, focals, single
  )
  sets = {
    'unseen rooms': of(EVAL_SEED),
    'wider lenses': of(EVAL_SEED + 1, low),
    'longer lenses': of(EVAL_SEED + 2, high),
  }
  if config.rooms.get('pair_share', 0.0):
    rooms = sets['unseen rooms']
    found = posed_pairs.find(rooms)
    sets['unseen walks'] = posed_pairs.PosedPairs(rooms, found)
  return sets
