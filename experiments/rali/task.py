"""Q-Insight and its peers as a task: rows to questions, answers to ratings.

Files (data/sources/iqa.py) or the world of photographs (data/worlds/photos.py)
alike; `config.iqa` says what is asked and rewarded, see q_insight.py.
"""

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from data import dct
from data.chat import Chat
from data.checkpoint import load_chat_of
from data.image import open_image
from data.processors.limits import capped
from data.records import BadRecord, require
from data.sources.iqa_meta import ANSWER
from experiments.rali import answers, sets
from experiments.rali.miniature import describing, measure, raters, vocabulary
from experiments.rali.score import set_scores
from vlm.methods.rali import completion, rank_reward, soft_labels
from vlm.methods.rali.answer_format import format_reward
from vlm.methods.rali.bottleneck import bottleneck
from vlm.methods.rali.degradation_reward import degradation_reward
from vlm.methods.rali.prompts import Wording
from vlm.methods.rali.readers import CONSTANT, read_score
from vlm.methods.rali.score_reward import score_reward
from vlm.rollout.rewards import GroupReward, Reward

REWARDS = ('score', 'rank')
_KEPT = ('task', 'dataset', 'id', 'reference')
_TRUTHS = ('gt_score_norm', 'distortion_class', 'severity')


class Task:
  """See experiments/task.py.

  Args:
    config: with the sections `iqa`, `wording` and `sets`; see q_insight.py.
  """

  def __init__(self, config: Any):
    self._config = config
    self._wording = Wording(**dict(config.wording))
    self.skipped = Counter()
    if config.iqa.reward not in REWARDS:
      raise ValueError(
        f'--config.iqa.reward={config.iqa.reward!r}, expected one of {REWARDS}'
      )

  @property
  def _small(self) -> bool:
    return 'photos' in self._config

  def chat(self) -> Chat:
    """The checkpoint's tokenizer, or the words of the miniature."""
    if self._small:
      return vocabulary.chat()
    return load_chat_of(self._config.model.init_from)

  def processor(self, processor: Any) -> Any:
    """One that shrinks pictures which a row has no room for."""
    return capped(processor, self._config.iqa.max_pixels)

  def model(self, model: Any) -> Any:
    """One whose answers see no image, where the config wants it.

    Raises:
      ValueError: an answer's tag is several tokens, as published models have
        it.
    """
    if not self._config.iqa.bottleneck:
      return model
    if not self._small:
      raise ValueError(
        '--config.iqa.bottleneck=True is for the miniature, whose answers '
        'begin with one token'
      )
    to_id = self.chat().tokenizer.token_to_id
    return bottleneck(model, tuple(to_id(t) for t in vocabulary.OPENINGS))

  def train_rows(self) -> tuple[list[Any], None]:
    """Every set once, one after another: a permutation of all their rows."""
    return sets.train_rows(self._config), None

  def messages(self, task: str) -> list[dict[str, Any]]:
    """What is said before the answer."""
    think = self._config.iqa.think
    return completion.messages(self._wording, task, think)

  def example(
    self, row: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """A row with the answer of `config.iqa.target`.

    Raises:
      BadRecord: a row without what the answer needs.
    """
    del rng  # Nothing is drawn.
    said = {
      'role': 'assistant',
      'content': answers.answer_of(row, self._config),
    }
    return {
      'images': [self._shown(row['image'])],
      'messages': [*self.messages(row['task']), said],
    }

  def prompt(
    self, row: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """A row as a question whose answers are rewarded."""
    del rng
    return {
      'images': [self._shown(row['image'])],
      'messages': self.messages(row['task']),
      'record': record_of(row),
    }

  def target(self, row: Mapping[str, Any]) -> float:
    """The opinion that a regression learns.

    Raises:
      BadRecord: a row without one.
    """
    return float(require(row, 'gt_score_norm', (int, float)))

  def level_answer(self, level: str) -> str:
    """The sentence that names one of five levels."""
    return ANSWER.format(level=level)

  def opinion(self, row: Mapping[str, Any]) -> soft_labels.Opinion:
    """The published soft label of a row, or what its opinion makes of it.

    Raises:
      BadRecord: a row without an opinion.
    """
    mean, name = self.target(row), row['dataset']
    std = float(row.get('std_norm', 0))
    label = row.get('level_probs')
    if label is None:
      density = soft_labels.PUBLISHED.get(name, 'pdf')
      label = soft_labels.soft_label(mean, std, density).probs
    group = zlib.crc32(name.encode()) >> 1  # an int32, the same everywhere
    return soft_labels.Opinion(label, mean, std, group)

  def rewards(self) -> list[Reward | GroupReward]:
    """The format and the answer, each counting 1."""
    iqa = self._config.iqa
    shape = Reward('format', format_reward(iqa.format))
    if iqa.reward == 'rank':
      return [shape, GroupReward('rank', rank_reward.rank_reward)]
    score = score_reward(iqa.threshold)

    def answer(text: str, record: Mapping[str, Any]) -> float:
      if record['task'] == 'degradation':
        return degradation_reward(text, record)
      return score(text, record)

    return [shape, Reward('answer', answer)]

  def specimen(self, record: Mapping[str, Any]) -> str:
    """The example that the prompt gives."""
    shown = completion.specimen(record['task'], self._config.iqa.think)
    if not self._small:
      return shown
    # The miniature's vocabulary has no such thoughts, nor needs to be shown.
    return shown.replace(completion.EXAMPLE_THOUGHT, answers.spoken(()))

  def eval_sets(self) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Sets that are tested on."""
    return sets.eval_sets(self._config)

  def queries(self, rows: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """A rating of every image; what cannot be shown is counted."""
    for number in range(len(rows)):
      try:
        row = rows[number]
        shown = self._shown(row['image'])
        if not self._small:
          shown = open_image(shown)
      except BadRecord as bad:
        self.skipped[bad.reason] += 1
        continue
      yield {
        'images': [shown],
        'messages': self.messages(row['task']),
        'record': record_of(row),
      }

  def score(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """PLCC and SRCC with 95 % intervals, the other scores, and unread answers.

    Of a set whose degradations are known: the mean reward.
    """
    if records[0]['task'] == 'degradation':
      earned = [degradation_reward(r['prediction'], r) for r in records]
      return {'degradation_reward': float(np.mean(earned))}
    reader = self._config.iqa.reader
    read = [_read(r['prediction'], reader) for r in records]
    found = set_scores(
      [CONSTANT if s is None else s for s in read],
      [r['gt_score_norm'] for r in records],
      [r['reference'] for r in records],
    )
    intervals = found.pop('intervals')
    for name, bounds in intervals.items():
      found[name] = [found[name], *bounds]
    return found | {'unread': sum(s is None for s in read)}

  def measure(self, job: Any, params: Any) -> dict[str, Any]:
    """What the miniature's report shows beside greedy scores."""
    if not self._small:
      return {}
    params = jax.device_get(params)
    rater = raters.rater_of(job, params, self._config)
    pictures = raters.some_pictures(self.eval_sets(), self._config)
    return (
      measure.measure(job, params, self._config, rater)
      | {'cost': raters.cost(rater, pictures, raters.count(params))}
      | {'described': describing.write(self._config, rater)}
    )

  def _shown(self, image: Any) -> Any:
    """A path as it is; a world's photograph as its features."""
    return dct.feature_picture(image) if self._small else image


def _read(said: str | float, reader: str) -> float | None:
  """The rating in a text; a regression says nothing but it."""
  return said if isinstance(said, float) else read_score(said, reader)[0]


def record_of(row: Mapping[str, Any]) -> dict[str, Any]:
  """What rewards and scores need of a row, as JSON."""
  return {name: row[name] for name in (*_KEPT, *_TRUTHS) if name in row}
