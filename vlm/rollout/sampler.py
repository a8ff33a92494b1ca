"""Samples from a model: `sample` for batches, for RL and for evaluation.

prompts = encoder.prompts(examples)
settings = Sampling(max_new_tokens=256, eos_ids=(eos,), stop=('</answer>',))
out = sample(model, params, prompts, settings, samples=8, seeds=seeds,
             detokenize=chat.decode)
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vlm.models.functional import Params
from vlm.rollout import decoding
from vlm.rollout.samples import Samples, check_finite
from vlm.rollout.settings import Buckets, Sampling, seeds_of
from vlm.rollout.stops import EVERY, Detokenize, StopWatch, cut


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
  """Parameters ready for sampling; see `prepare`."""

  prefill: Params
  decode: Params
  unstacked: bool


def prepare(model: Any, params: Params | Weights) -> Weights:
  """Lays parameters out for decoding; worth it once for several calls.

  Under `Runtime(unroll=True)` the decoder's layers are held a second time, one
  array per layer; else nothing is copied.
  """
  if isinstance(params, Weights):
    return params
  if not model.runtime.unroll:
    return Weights(params, params, False)
  layers = _unstacked(model, params)
  decoder = params['decoder'] | {'layers': layers}
  return Weights(params, params | {'decoder': decoder}, True)


def sample(
  model: Any,
  params: Params | Weights,
  prompts: dict[str, Any],
  settings: Sampling,
  *,
  samples: int = 1,
  seeds: Sequence[int] | Any = None,
  detokenize: Detokenize | None = None,
  constraint: Any = None,
  buckets: Buckets = Buckets(),
) -> Samples:
  """Draws n continuations of each prompt, which is encoded once.

  A sample's tokens depend on its prompt, its prompt's seed and its number
  among the n, but not on the batch, the bucket or the mesh (up to rounding,
  which can tip a draw between two tokens that are as good as equal). The
  placeholders of images and videos are never drawn.

  Args:
    model: a description from `registry.build`.
    params: its parameters, maybe from `prepare`.
    prompts: tokens, segment_ids [B, T] padded on the left, as of
      `data.examples.Encoder.prompts`; maybe positions [B, T] or [B, T, 3]
      (counted where missing), pixels and plan. Under `jax.set_mesh`, arrays of
      `vlm.sharding.batch.to_global`.
    settings: how to draw and when to end.
    samples: n.
    seeds: one integer per prompt; needed where temperature > 0.
    detokenize: token ids to text, for texts and stop strings.
    constraint: what may be said, e.g. `automaton.TokenAutomaton`.
    buckets: the static lengths.

  Returns:
    The samples, on the host; on several hosts all of them everywhere.

  Raises:
    ValueError: seeds or detokenize missing where they are needed, a prompt
      beyond the largest bucket, or a constraint that leaves no token.
    FloatingPointError: NaN or infinite logits. Both name the row.
  """
  run = Decoding(
    model, params, prompts, settings, samples, seeds, constraint, buckets
  )
  watch = run.stop_watch(detokenize)
  run.advance(EVERY if settings.stop else settings.max_new_tokens, watch)
  while not run.finished:
    run.advance(EVERY, watch)
  return run.result(watch, detokenize)


class Decoding:
  """Samples in the making, advanced some tokens at a time.

  Args: as of `sample`.

  Attributes:
    finished: whether every sample has ended.
  """

  def __init__(
    self,
    model: Any,
    params: Params | Weights,
    prompts: dict[str, Any],
    settings: Sampling,
    samples: int = 1,
    seeds: Sequence[int] | Any = None,
    constraint: Any = None,
    buckets: Buckets = Buckets(),
  ):
    weights = prepare(model, params)
    self.settings, self.finished = settings, False
    compiled = settings.compiled()
    prompts = {k: v for k, v in prompts.items() if v is not None}
    rows = prompts['tokens'].shape[0]
    prefix, self._state = decoding.prefill(
      model,
      weights.prefill,
      buckets.fit(prompts),
      seeds_of(seeds, rows, settings.temperature > 0),
      constraint,
      settings=compiled,
      samples=samples,
      length=buckets.length(settings.max_new_tokens),
      unstacked=weights.unstacked,
    )
    self._run = lambda state, halted, limit: decoding.decode(
      model,
      weights.decode,
      prefix,
      state,
      halted,
      np.int32(limit),
      constraint,
      settings=compiled,
    )
    self._halted = np.zeros((rows, samples), bool)
    self._limit = 1

  def stop_watch(self, detokenize: Detokenize | None) -> StopWatch | None:
    """A watch over the stop strings of the settings, if they have any.

    Raises:
      ValueError: there are stop strings and no way to make text.
    """
    if not self.settings.stop:
      return None
    if detokenize is None:
      raise ValueError('stop strings are matched on text: pass detokenize')
    ends = np.zeros(self._halted.shape, np.int64)
    return StopWatch(self.settings.stop, detokenize, ends)

  def advance(self, count: int, watch: StopWatch | None = None) -> None:
    """Draws up to `count` more tokens a sample; looks for stop strings."""
    longest = self.settings.max_new_tokens
    self._limit = min(self._limit + count, longest)
    self._state = self._run(self._state, self._halted, self._limit)
    done = self._fetch('done')
    if watch is not None:
      self._halted = watch.look(*self.spoken())
    self.finished = self._limit >= longest or bool((done | self._halted).all())

  def spoken(self) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [B, n, G] and their number [B, n] without a closing EOS."""
    tokens, lengths = self._fetch('tokens'), self._fetch('lengths')
    return tokens, lengths - self._closed(tokens, lengths)

  def result(
    self, watch: StopWatch | None, detokenize: Detokenize | None
  ) -> Samples:
    """The samples, cut where they ended; see `sample`."""
    longest = self.settings.max_new_tokens
    tokens, lengths = self._fetch('tokens'), self._fetch('lengths')
    closed = self._closed(tokens, lengths)
    stopped = np.zeros_like(closed) if watch is None else watch.ends > 0
    if watch is not None:
      lengths = np.where(stopped, watch.ends, lengths).astype(np.int32)
    behind = np.arange(longest) >= lengths[..., None]
    tokens = np.where(behind, self.settings.eos_ids[0], tokens[..., :longest])
    model_logprobs, sampler_logprobs = (
      np.where(behind, 0, self._fetch(name)[..., :longest])
      for name in ('model_logprobs', 'sampler_logprobs')
    )
    check_finite(model_logprobs, sampler_logprobs)
    reasons = np.where(stopped, 'stop', np.where(closed, 'eos', 'length'))
    said = np.where(stopped, lengths, lengths - closed)
    texts = None
    if detokenize is not None:
      texts = [
        [
          cut(detokenize(ids[:count].tolist()), self.settings.stop)
          for ids, count in zip(*row)
        ]
        for row in zip(tokens, said)
      ]
    return Samples(
      tokens,
      lengths,
      reasons.tolist(),
      model_logprobs,
      sampler_logprobs,
      texts,
    )

  def _closed(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    last = np.take_along_axis(tokens, lengths[..., None] - 1, axis=2)
    return np.isin(last[..., 0], self.settings.eos_ids)

  def _fetch(self, name: str) -> np.ndarray:
    array = self._state[name]
    if array.is_fully_addressable:
      return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


@functools.partial(jax.jit, static_argnames='model')
def _unstacked(model: Any, params: Params) -> Params:
  return model.unstacked(params)['decoder']['layers']
