"""DepthLM as a task: rows to questions, answers to scores."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from data import records
from data.assistant import DEPTH_SIDE
from data.chat import Chat, char_tokenizer, load_chat
from data.processors.limits import unshrinking
from data.sources import real_depth
from data.sources.depth_photo import DepthPhoto
from data.sources.depth_shards import open_depth_rows
from data.sources.room_rows import label_frame
from experiments.depthlm import rows as depth_rows
from experiments.depthlm import scan, score
from vlm.methods.depthlm import camera, facts, sample
from vlm.methods.depthlm.rewards import REWARDS, states_number
from vlm.methods.depthlm.sample import SampleSettings
from vlm.methods.depthlm.tasks import NUMBER
from vlm.rollout.rewards import Reward

PHOTO_LABELS = 400
WORDS = ('how far?', ' ', 'f', *'0123456789.')
SIGNS = ('+', '-')  # of a ray
# Of the sister tasks: 'how fast? t {given:04.1f}' is 'how fast?', ' ', 't'.
MORE_WORDS = (
  *(wording.question.split('?')[0] + '?' for wording in NUMBER.values()),
  't',
  'v',
)
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
    config: with the section `depth` (SampleSettings), and `rooms` for the
      procedural world, `sets` for a mixture of files in the row format, or
      `data.path` for one.
  """

  def __init__(self, config: Any):
    self._config = config
    self.settings = depth_rows.settings_of(config)
    self.skipped = Counter()

  def chat(self) -> Chat:
    """The checkpoint's tokenizer, or characters for a model made here."""
    if self._config.model.preset:
      names = {'image': '<image>', 'video': '<video>'}
      return load_chat(self._config.model.init_from, names)
    tokenizer = char_tokenizer(
      self._words(), ('<pad>', '<end>', '<sep>', '<image>', '<video>')
    )
    return Chat(
      tokenizer.to_str(),
      TEMPLATE,
      {'image': '<image>', 'video': '<video>'},
      {'eos_token': '<end>'},
    )

  def _words(self) -> tuple[str, ...]:
    words = WORDS
    if len(self.settings.tasks) > 1:
      words += MORE_WORDS
    if '{rx' in self.settings.wording.answer:
      words += SIGNS
    return words

  def processor(self, processor: Any) -> Any:
    """One that does not shrink pictures, and their focal length with them."""
    return unshrinking(processor, DEPTH_SIDE)

  def files(self) -> dict[str, str]:
    """depthlm.json, without which nobody knows the common focal length."""
    return {facts.NAME: facts.to_json(self.settings)}

  def adopt(self, folder: Any) -> None:
    """Asks as the checkpoint was trained, where it says how."""
    stored = facts.read(folder)
    if stored is None:
      logging.warning(
        '%s has no %s: asking at --config.depth.focal=%s',
        folder,
        facts.NAME,
        self.settings.focal,
      )
      return
    if stored.focal != self.settings.focal:
      logging.warning(
        'the checkpoint was trained at a focal length of %s pixels, which '
        'is used instead of --config.depth.focal=%s',
        stored.focal,
        self.settings.focal,
      )
    self.settings = facts.at_inference(self.settings, stored)

  def train_rows(self) -> tuple[list[Any], list[float] | None]:
    """Training sources and their weights: files, or rooms rendered once."""
    return depth_rows.training_rows(self._config, self._arms())

  def example(
    self, row: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """One training example: a random usable label of the row.

    Raises:
      BadRecord: no label of the row can be asked about.
    """
    query = self._drawn(row, rng)
    answer = {'role': 'assistant', 'content': query['answer']}
    return {
      'images': query['images'],
      'messages': [_question(query), answer],
      '_replay': query['replay'],
    }

  def prompt(
    self, row: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """The question of a training example, without its answer.

    Raises:
      BadRecord: no label of the row can be asked about.
    """
    query = self._drawn(row, rng)
    facts = ('task', 'value', 'answer', 'replay')
    return {
      'images': query['images'],
      'messages': [_question(query)],
      'record': {name: query[name] for name in facts},
      '_replay': query['replay'],
    }

  def rewards(self) -> tuple[Reward, ...]:
    """That of `config.reward`, and whether there is a number to reward."""
    name = self._config.reward
    return Reward(name, REWARDS[name]), Reward('format', states_number, 0.0)

  def specimen(self, record: Mapping[str, Any]) -> str:
    """The true answer, in the words that a model is taught."""
    return record['answer']

  def _drawn(
    self, row: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    query = self.training_query(row, rng)
    if query is None:
      raise records.BadRecord('no usable label', 'the arrow fits nowhere')
    return query

  def training_query(
    self, row: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any] | None:
    """What `sample.make_sample` draws from a row."""
    return sample.make_sample(row, rng, self.settings)

  def eval_sets(self) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Rows of every evaluation set, by name."""
    config = self._config
    if 'rooms' not in config:
      data = config.data
      return {
        'eval': open_depth_rows(data.eval_path, data.images, data.depth_kind)
      }
    sets = depth_rows.room_sets(config, self._arms())
    for name, photos in real_depth.installed():
      labels = max(1, PHOTO_LABELS // len(photos))
      sets[f'{name} (real)'] = [self._shrunk(p, labels) for p in photos]
    if config.rooms.scanned:
      sets[scan.SCANNED] = depth_rows.scanned(config, self._arms())
    return sets

  def queries(self, rows: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Image by image, label by label; what cannot be asked is counted."""
    for number in range(len(rows)):
      try:
        row = rows[number]
      except records.BadRecord as bad:
        self.skipped[bad.reason] += 1
        continue
      for task, label in self._asked(row):
        query = sample.make_query(row, label, self.settings, task, number)
        if query is None:
          self.skipped['the arrow does not fit'] += 1
          continue
        yield {
          'images': query['images'],
          'messages': [_question(query)],
          'record': _record(row, number, query),
        }

  def _asked(self, row: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    if 'views' in row:
      yield 'pose', 0
      return
    for label in range(len(row['depth'])):
      for task, _ in self.settings.tasks:
        yield task, label

  def score(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """See `score.score`."""
    return score.score(rows, self._config.get('parser', 'strict'))

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

  def _shrunk(self, photo: DepthPhoto, labels: int) -> dict[str, Any]:
    """A real photograph, shrunk to the height of the rooms' sensor first.

    Without normalisation the cut-out of a large photograph would be a few
    centimetres wide; this way every arm sees the same field of view at most.
    """
    row = label_frame(photo, np.random.default_rng(0), 10 * PHOTO_LABELS)
    focal = photo.intrinsics[1] * self._config.rooms.size / photo.rgb.shape[0]
    small = camera.normalise(row['intrinsics'], focal, 'aniso')
    pixels = small.map_pixels(row['pixel_coords'])
    keep = np.all(
      [sample.usable(pixels, small.target, arm) for arm in self._arms()], axis=0
    )
    keep = np.flatnonzero(keep)[:labels]
    return row | {
      'image': small.apply(row['image']),
      'intrinsics': small.target,
      'pixel_coords': pixels[keep],
      'source_coords': row['pixel_coords'][keep],
      'depth': row['depth'][keep],
    }


def _source_pixel(row: Mapping[str, Any], label: int) -> Any:
  """Where the label lies in the picture the row was made from."""
  return row.get('source_coords', row['pixel_coords'])[label]


def _question(query: Mapping[str, Any]) -> dict[str, Any]:
  shown = [{'type': 'image'}] * len(query['images'])
  content = [*shown, {'type': 'text', 'text': query['question']}]
  return {'role': 'user', 'content': content}


def _record(row, number: int, query) -> dict[str, Any]:
  """What scoring needs, as JSON."""
  record = {
    'image': number,
    'task': query['task'],
    'value': query['value'],
    'replay': query['replay'],
  }
  if 'label' not in query:
    return record
  return record | {
    'label': query['label'],
    'pixel': list(query['pixel']),
    'source_pixel': [int(v) for v in _source_pixel(row, query['label'])],
    'depth': query['depth'],
    'z': query['z'],
    'focal': float(row['intrinsics'][0]),
  }
