"""Measures what answering takes: seconds to the first token, after it, memory.

The first batch of a shape is compiled and therefore not among the figures. As
published, prefill is compression and the decoder's pass over the prompt; the
time to the first token is the tower's time and prefill.
"""

import resource
import statistics
import sys
import time
from typing import Any

import jax

from data.assistant import Assistant
from vlm.rollout.sampler import Decoding, Weights
from vlm.rollout.samples import Samples
from vlm.rollout.settings import Buckets, Sampling


class Clock:
  """Samples batches and keeps the time."""

  def __init__(self):
    self._shapes: set[Any] = set()
    self._warm: list[dict[str, float]] = []
    self._cold = 0.0
    self._vision: float | None = None

  def sample(
    self,
    assistant: Assistant,
    weights: Weights,
    batch: dict[str, Any],
    max_new_tokens: int,
    samples: int = 1,
    seeds: Any = None,
    **drawing: float,
  ) -> Samples:
    """Answers to a batch, like `vlm.rollout.sampler.sample`; greedy by default.

    Args:
      assistant: who answers.
      weights: its parameters.
      batch: the prompts.
      max_new_tokens: longest answer.
      samples: answers to each prompt.
      seeds: one for each prompt, where answers are drawn.
      **drawing: `temperature` and other fields of `Sampling`.
    """
    began = time.perf_counter()
    length = batch['tokens'].shape[1]
    run = Decoding(
      assistant.model,
      weights,
      batch,
      Sampling(max_new_tokens, assistant.stop, **{'temperature': 0} | drawing),
      samples,
      seeds,
      buckets=Buckets(prompt=(length,), new=(max_new_tokens,)),
    )
    run.spoken()  # Waits for the first token.
    first = time.perf_counter()
    run.advance(max_new_tokens)
    out = run.result(None, assistant.chat.decode)
    ended = time.perf_counter()
    shape = str((jax.tree.map(lambda array: array.shape, batch), samples))
    if shape in self._shapes:
      if self._vision is None and 'pixels' in batch:
        self._vision = vision_seconds(assistant, batch)
      steps = max(int(out.lengths.max()) - 1, 1)
      self._warm.append(
        {
          'first_token_seconds': first - began,
          'decode_seconds': ended - first,
          'decode_seconds_per_token': (ended - first) / steps,
        }
      )
    else:
      self._cold += ended - began
    self._shapes.add(shape)
    return out

  def report(self) -> dict[str, Any]:
    """Medians over warm batches, of a batch; what compiling took; memory."""
    names = self._warm[0] if self._warm else ()
    median = lambda name: statistics.median(b[name] for b in self._warm)
    found = {name: median(name) for name in names}
    if self._vision is not None:
      found['vision_seconds'] = self._vision
      found['prefill_seconds'] = found['first_token_seconds'] - self._vision
    return {
      **found,
      'warm_batches': len(self._warm),
      'shapes_compiled': len(self._shapes),
      'first_batches_seconds': self._cold,
      'peak_memory': peak_memory(),
    }


def vision_seconds(assistant: Assistant, batch: dict[str, Any]) -> float:
  """Seconds that the tower takes for a batch, once it is compiled."""
  model = assistant.model
  encode = jax.jit(lambda *given: model.encode_visual(*given).tokens)
  given = assistant.params, batch['pixels'], batch['plan']
  encode(*given).block_until_ready()
  began = time.perf_counter()
  encode(*given).block_until_ready()
  return time.perf_counter() - began


def peak_memory() -> dict[str, Any]:
  """The most bytes one device held, or the process, where no device tells."""
  stats = [device.memory_stats() for device in jax.local_devices()]
  peaks = [
    s['peak_bytes_in_use'] for s in stats if s and 'peak_bytes_in_use' in s
  ]
  if peaks:
    return {'bytes': max(peaks), 'of': 'the fullest device'}
  # Kilobytes on Linux, bytes on a Mac.
  unit = 1 if sys.platform == 'darwin' else 1024
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
  return {'bytes': peak, 'of': 'this process on its host'}
