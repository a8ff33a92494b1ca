"""DepthLM as a task: rows to questions, answers to scores."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data import records
from data.chat import Chat, char_tokenizer, load_chat
from data.sources import middlebury
from data.sources.depth import DepthRows, label_frame
from data.sources.rendered import RenderedRooms
from data.worlds.rooms import RoomSettings
from vlm.methods.depthlm import camera, sample, text
from vlm.methods.depthlm.sample import SampleSettings
from vlm.metrics import bootstrap, depth

TRAIN_SEED, EVAL_SEED = 0, 1_000_003  # other seed, other rooms
PHOTO_LABELS = 400
WORDS = ('how far?', ' ', 'f', *'0123456789.')
TEMPLATE = (
  '{% for m in messages %}'
  "{% if m.role == 'assistant' %}{% generation %}{{ m.content[0].text }}<end>"
  '{% endgeneration %}{% else %}{% for part in m.content %}'
  "{{ '<image>' if part.type == 'image' else part.text }}"
  '{% endfor %}<sep>{% endif %}{% endfor %}'
)


class Task:
  """See experiments/task.py.

  Args:
    config: with the sections `depth` (SampleSettings), and `rooms` for the
      procedural world or `data.path` for files in the row format.
  """

  def __init__(self, config: Any):
    self._config = config
    fields = {k: _plain(v) for k, v in dict(config.depth).items()}
    self.settings = SampleSettings(**fields)
    self.skipped = Counter()

  def chat(self) -> Chat:
    """The checkpoint's tokenizer, or characters for a model made here."""
    if self._config.model.preset:
      names = {'image': '<image>', 'video': '<video>'}
      return load_chat(self._config.model.init_from, names)
    tokenizer = char_tokenizer(
      WORDS, ('<pad>', '<end>', '<sep>', '<image>', '<video>')
    )
    return Chat(
      tokenizer.to_str(),
      TEMPLATE,
      {'image': '<image>', 'video': '<video>'},
      {'eos_token': '<end>'},
    )

  def train_rows(self) -> tuple[list[Any], None]:
    """Training rows: files, or rooms rendered once."""
    config = self._config
    if 'rooms' not in config:
      return [self._rows(config.data.path)], None
    return [self._rooms(TRAIN_SEED, config.rooms.train_images)], None

  def example(
    self, row: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """One training example: a random usable label of the row.

    Raises:
      BadRecord: no label of the row can be asked about.
    """
    query = self.training_query(row, rng)
    if query is None:
      raise records.BadRecord('no usable label', 'the arrow fits nowhere')
    answer = {'role': 'assistant', 'content': query['answer']}
    return {
      'images': [query['image']],
      'messages': [_question(query), answer],
    }

  def training_query(
    self, row: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any] | None:
    """What `sample.make_sample` draws from a row."""
    return sample.make_sample(row, rng, self.settings)

  def eval_sets(self) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Rows of every evaluation set, by name."""
    config = self._config
    if 'rooms' not in config:
      return {'eval': self._rows(config.data.eval_path)}
    low, high = config.rooms.unseen_focals
    count = config.rooms.eval_images
    return {
      'unseen rooms': self._rooms(EVAL_SEED, count, labels=1),
      'wider lenses': self._rooms(EVAL_SEED + 1, count, low, labels=1),
      'longer lenses': self._rooms(EVAL_SEED + 2, count, high, labels=1),
      'photograph (out of domain)': self._photograph(),
    }

  def queries(self, rows: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Image by image, label by label; what cannot be asked is counted."""
    for number in range(len(rows)):
      try:
        row = rows[number]
      except records.BadRecord as bad:
        self.skipped[bad.reason] += 1
        continue
      for label in range(len(row['depth'])):
        query = sample.make_query(row, label, self.settings)
        if query is None:
          self.skipped['the arrow does not fit'] += 1
          continue
        yield {
          'images': [query['image']],
          'messages': [_question(query)],
          'record': {
            'image': number,
            'label': label,
            'pixel': list(query['pixel']),
            'source_pixel': [int(v) for v in _source_pixel(row, label)],
            'depth': query['depth'],
            'focal': float(row['intrinsics'][0]),
          },
        }

  def score(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """delta1, AbsRel with 95 % intervals over images, and the failures.

    The interval of a single photograph is over its pixels, and too narrow.

    Args:
      rows: records with 'prediction' (text), 'depth' (metres), 'image'.
    """
    predicted = depth.as_array(
      [text.parse_metres(row['prediction']) for row in rows]
    )
    truth = np.array([row['depth'] for row in rows])
    images = np.array([row['image'] for row in rows])
    if len(set(images)) == 1:  # one photograph: over its pixels instead
      images = np.arange(len(rows))
    out = dict(depth.scores(predicted, truth))
    correct = depth.within(predicted, truth).astype(float)
    out['delta1'] = list(bootstrap.interval(correct, images))
    parsed = np.isfinite(predicted)
    if parsed.any():
      error = np.abs(predicted - truth)[parsed] / truth[parsed]
      out['abs_rel'] = list(bootstrap.interval(error, images[parsed]))
    return out

  def _rows(self, path: str) -> DepthRows:
    return DepthRows(
      path, self._config.data.images, self._config.data.depth_kind
    )

  def _rooms(self, seed, count, focals=None, labels=None) -> RenderedRooms:
    rooms = self._config.rooms
    settings = RoomSettings(
      width=rooms.size,
      height=rooms.size,
      focals=tuple(focals or rooms.focals),
      **{k: _plain(v) for k, v in rooms.world.items()},
    )
    return RenderedRooms(
      seed,
      count,
      settings,
      labels or rooms.labels,
      self._arms(),
      folder=rooms.cache,
    )

  def _arms(self) -> tuple[SampleSettings, ...]:
    """Labels are usable under every arm, so all arms see the same pixels.

    Only geometry decides, and only geometry names the rooms kept on disk.
    """
    return tuple(
      SampleSettings(
        focal=self.settings.focal, focal_mode=mode, size=self.settings.size
      )
      for mode in ('aniso', 'none')
    )

  def _photograph(self) -> list[dict[str, Any]]:
    """The motorcycle, shrunk to the height of the rooms' sensor first.

    Without normalisation the cut-out of a large photograph would be a few
    centimetres wide; this way every arm sees the same field of view at most.
    """
    photo = middlebury.motorcycle()
    row = label_frame(photo, np.random.default_rng(0), 10 * PHOTO_LABELS)
    focal = photo.intrinsics[1] * self._config.rooms.size / photo.rgb.shape[0]
    small = camera.normalise(row['intrinsics'], focal, 'aniso')
    pixels = small.map_pixels(row['pixel_coords'])
    keep = np.all(
      [sample.usable(pixels, small.target, arm) for arm in self._arms()], axis=0
    )
    keep = np.flatnonzero(keep)[:PHOTO_LABELS]
    return [
      row
      | {
        'image': small.apply(row['image']),
        'intrinsics': small.target,
        'pixel_coords': pixels[keep],
        'source_coords': row['pixel_coords'][keep],
        'depth': row['depth'][keep],
      }
    ]


def _source_pixel(row: Mapping[str, Any], label: int) -> Any:
  """Where the label lies in the picture the row was made from."""
  return row.get('source_coords', row['pixel_coords'])[label]


def _question(query: Mapping[str, Any]) -> dict[str, Any]:
  content = [{'type': 'image'}, {'type': 'text', 'text': query['question']}]
  return {'role': 'user', 'content': content}


def _plain(value: Any) -> Any:
  """Lists back to the tuples that a frozen dataclass holds."""
  return tuple(value) if isinstance(value, list | tuple) else value
