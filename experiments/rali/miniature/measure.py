"""What the miniature measures on a trained model; all of it is JSON.

drawn        {set: scores} of the mean rating of some draws
bound        {set: SRCC} of the latent quality with the noisy opinions: what
             no scorer can beat
photographs  falling rates of real photographs, see SeverityRows; a
             photograph's rating is the mean over crops of the world's size
reasoning    of a model that reasons: see reasoning.py
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from data import dct
from data.chunks import filled
from data.sources.photographs import SeverityRows
from data.worlds import photos
from experiments.rali.miniature import reasoning
from experiments.rali.score import plain, set_scores
from vlm.methods.rali.readers import CONSTANT, read_score
from vlm.metrics import correlation, monotonicity
from vlm.rollout.sampler import prepare, sample
from vlm.rollout.settings import Buckets, Sampling


class Rater:
  """Rates pictures of the world's size.

  Args:
    job: with the model, the chat and the encoder.
    params: of the model.
    config: the task's.
  """

  def __init__(self, job: Any, params: Any, config: Any):
    self._job, self._config = job, config
    self._weights = prepare(job.model, params)
    self._asked = job.task.messages('score')
    stop = job.chat.tokenizer.token_to_id(job.chat.variables['eos_token'])
    self._stop = (stop,)

  def rate(self, images: Sequence[np.ndarray], draws: int = 0) -> np.ndarray:
    """Ratings [N, max(draws, 1)]; greedy at 0 draws, and NaN where unread."""
    size = self._config.eval.batch_size
    found = []
    for start in range(0, len(images), size):
      chunk = list(images[start : start + size])
      texts = self.said(filled(chunk, size), draws, start)[: len(chunk)]
      found += [[self._read(text) for text in row] for row in texts]
    return np.array(found, np.float64)

  def said(
    self, images: Sequence[np.ndarray], draws: int, start: int
  ) -> list[list[str]]:
    """Texts [N][max(draws, 1)] of one batch, drawn by seeds from `start`."""
    job, limit = self._job, self._config.eval.max_new_tokens
    examples = [
      {'images': [dct.feature_picture(image)], 'messages': self._asked}
      for image in images
    ]
    batch = job.encoder.prompts(examples, job.prompt_spec)
    out = sample(
      job.model,
      self._weights,
      batch,
      Sampling(limit, self._stop, temperature=float(draws > 0)),
      samples=max(draws, 1),
      seeds=range(start, start + len(images)) if draws else None,
      detokenize=job.chat.decode,
      buckets=Buckets(prompt=(batch['tokens'].shape[1],), new=(limit,)),
    )
    return out.texts

  def _read(self, text: str) -> float:
    score, _ = read_score(text, self._config.iqa.reader)
    return np.nan if score is None else score


def measure(
  job: Any, params: Any, config: Any, rater: Any = None
) -> dict[str, Any]:
  """Everything, for one trained model of the world of photographs.

  Args:
    job: with the task.
    params: of the model.
    config: the task's.
    rater: rates pictures as `Rater` does, where the model does not speak.
  """
  if 'photos' not in config:
    return {}
  # Where the model was trained; one device is enough for what is left.
  params = jax.device_get(params)
  rater = rater or Rater(job, params, config)
  sets = job.task.eval_sets()
  rate = lambda params, images: Rater(job, params, config).rate(images)[:, 0]
  found = {}
  if reasoning.reasons(config):
    found['reasoning'] = reasoning.measure(job, params, config, rate)
  return plain(
    found
    | {
      'drawn': {
        name: _drawn(rater, rows, config.measure.draws)
        for name, rows in sets.items()
      },
      'bound': {
        name: correlation.srcc(
          [row['quality'] for row in rows],
          [row['gt_score_norm'] for row in rows],
        )
        for name, rows in sets.items()
      },
      'photographs': photograph_rates(rater, config.measure.crops),
    }
  )


def _drawn(rater: Rater, rows: Sequence[Any], draws: int) -> dict[str, Any]:
  ratings = rater.rate([row['image'] for row in rows], draws)
  filled = np.where(np.isnan(ratings), CONSTANT, ratings)
  mos = [row['gt_score_norm'] for row in rows]
  found = set_scores(filled.mean(1), mos, [row['id'] for row in rows])
  return found | {'unread': int(np.isnan(ratings).sum())}


def photograph_rates(rater: Rater, crops: int) -> dict[str, Any]:
  """Falling rates by kind of degradation, and of all together.

  Args:
    rater: of crops.
    crops: of each photograph, the same at all levels.
  """
  rows = [
    {key: row[key] for key in ('photograph', 'kind', 'level')}
    | {'crops': crops_of(row['image'], crops)}
    for row in SeverityRows()
  ]
  images = [image for row in rows for image in row['crops']]
  ratings = rater.rate(images)[:, 0].reshape(len(rows), crops)
  scores = np.where(np.isnan(ratings), CONSTANT, ratings).mean(1)
  return falling_rates(rows, scores)


def falling_rates(
  rows: Sequence[Mapping[str, Any]], scores: np.ndarray
) -> dict[str, Any]:
  """Falling rates by kind and of all together, of rows of `SeverityRows`."""
  levels = np.array([row['level'] for row in rows])
  kinds = np.array([row['kind'] for row in rows])
  series = np.array([f'{row["photograph"]}/{row["kind"]}' for row in rows])
  rates = lambda keep: monotonicity.falling_rate(
    scores[keep], levels[keep], series[keep].tolist()
  )
  found = {kind: rates(kinds == kind) for kind in dict.fromkeys(kinds.tolist())}
  return found | {'all': rates(np.ones(len(rows), bool))}


def crops_of(image: np.ndarray, count: int) -> list[np.ndarray]:
  """Squares of the world's size, at places that only depend on the size."""
  height, width, _ = image.shape
  rng = np.random.default_rng((height, width))
  size = photos.SIZE
  tops = rng.integers(height - size, size=count)
  lefts = rng.integers(width - size, size=count)
  return [image[t : t + size, l : l + size] for t, l in zip(tops, lefts)]
