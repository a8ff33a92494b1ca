"""Whatever rates pictures of the world, and what a rating costs.

A rater has `rate(images, draws)`: ratings [N, max(draws, 1)], NaN where none
was read. One that speaks is `measure.Rater`; the others say one number, however
often they are asked.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from data import dct
from data.regressor import Regressor, encode_with
from experiments.rali.miniature import measure
from vlm.sharding.mesh import make_mesh
from vlm.train import regression

ROUNDS = 5


class NumberRater:
  """Rates pictures by a model that gives a number instead of an answer.

  Args:
    job: with the encoder, and `prompt_spec` for prompts.
    params: of the model.
    read: (params, batch) -> float32 [B].
    size: pictures at a time.
    messages: the question, for prompts.
  """

  def __init__(
    self,
    job: Any,
    params: Any,
    read: Callable[[Any, Any], jax.Array],
    size: int,
    messages: Sequence[Mapping[str, Any]] = (),
  ):
    self._asked = list(messages)
    encode = encode_with(job.encoder, getattr(job, 'prompt_spec', None))
    mesh = make_mesh({'data': 1, 'fsdp': 1}, jax.devices()[:1])
    self._numbers = Regressor(read, params, encode, mesh, size)

  def rate(self, images: Sequence[np.ndarray], draws: int = 0) -> np.ndarray:
    """Numbers [N, 1]; nothing is drawn."""
    del draws
    examples = (
      {'images': [dct.feature_picture(image)], 'messages': self._asked}
      for image in images
    )
    found = [number for _, number in self._numbers(examples)]
    return np.array(found, np.float64)[:, None]


def rater_of(job: Any, params: Any, config: Any) -> Any:
  """The rater of a trained model, by its objective."""
  if config.objective != 'regression':
    return measure.Rater(job, params, config)
  settings = config.regression
  asked = settings.of == 'prompt'
  return NumberRater(
    job,
    params,
    regression.reader(job.model, settings.column, settings.centre),
    config.eval.batch_size,
    job.task.messages('score') if asked else (),
  )


def some_pictures(
  sets: Mapping[str, Sequence[Mapping[str, Any]]], config: Any
) -> list[np.ndarray]:
  """The first test pictures, as many as `config.measure.timed`."""
  rows = next(iter(sets.values()))
  return [rows[n]['image'] for n in range(min(config.measure.timed, len(rows)))]


def count(params: Any) -> int:
  """Numbers in a tree."""
  return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))


def cost(
  rater: Any, pictures: Sequence[np.ndarray], parameters: int
) -> dict[str, float]:
  """What a rating costs, from pixels to a number, compiled before.

  CPU time, because arms run side by side; on an accelerator it is the host's.

  Returns:
    {'parameters', 'seconds', 'features'}: seconds of CPU time for a picture,
    and how many of them go into its 81 numbers a patch, which any model here
    sees; medians of `ROUNDS`.
  """
  rater.rate(pictures)
  rated = [_seconds(lambda: rater.rate(pictures)) for _ in range(ROUNDS)]
  shown = lambda: [dct.feature_picture(picture) for picture in pictures]
  features = [_seconds(shown) for _ in range(ROUNDS)]
  share = lambda times: statistics.median(times) / len(pictures)
  return {
    'parameters': parameters,
    'seconds': share(rated),
    'features': share(features),
  }


def _seconds(work: Callable[[], Any]) -> float:
  started = time.process_time()
  work()
  return time.process_time() - started
