"""Batches that the policy makes itself: what an on-policy run learns from.

    prompts -> groups of completions -> rewards -> the batch of a step

`updates` steps are made with a batch. One step ahead, the completions of the
next batch are drawn before this one's rewards are waited for, so that rewards
are scored while the devices train; they are then `updates` steps stale.

The state holds the place in the prompts and, whole, the batches that are drawn
and not used up: what made them is gone. Their prompts are read again.
"""

import base64
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vlm.rollout import gather
from vlm.rollout.groups import Groups, Roller, Told
from vlm.rollout.sampler import Weights

State = Mapping[str, Any]
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(eq=False)
class Drawn:
  """Completions whose rewards may still be under way.

  Attributes:
    place: state of the prompts before them.
    batches: how many batches of prompts were read.
    rows: (batch, row) of each of this process's prompts.
    begun: steps that had been made.
    prompts: this process's rows of prompts; arrays only.
    wait: for the arrays of the training batch and what to log.
  """

  place: Any
  batches: int
  rows: list[tuple[int, int]]
  begun: int
  prompts: dict[str, Any]
  wait: Callable[[], tuple[Arrays, Told]]

  @functools.cached_property
  def result(self) -> tuple[Arrays, Told]:
    """What `wait` gives; waited for once."""
    return self.wait()


class OnPolicy:
  """Training batches, made from the state that is to learn from them."""

  def __init__(
    self,
    prompts: Any,
    roller: Roller,
    *,
    publish: Callable[[State], Weights],
    logprobs: Callable[[State, Mapping], dict[str, Any]],
    updates: int = 1,
    ahead: bool = False,
    rounds: int = 0,
    table: Callable[[int, Groups], None] = lambda step, groups: None,
  ):
    """Starts at the beginning of the prompts.

    Args:
      prompts: iterator over batches of this process's prompts, with
        `get_state`, `set_state`, `close` and `stats`.
      roller: draws.
      publish: the state's parameters as the sampler wants them.
      logprobs: log-probabilities [P, G, C] that a step needs and that only this
        state can tell, by their names in the batch; global arrays.
      updates: steps made with one batch.
      ahead: draw one batch ahead.
      rounds: above 0, groups that teach nothing are replaced by those of
        further prompts, at most so many batches of them (arXiv 2503.14476,
        section 3.2).
      table: gets the first step that each batch is for, and its groups.

    Raises:
      ValueError: naming the flag.
    """
    if rounds and jax.process_count() > 1:
      raise ValueError(
        f'--config.rl.rounds={rounds}: prompts cannot move between the '
        f'{jax.process_count()} processes; set it to 0'
      )
    if updates < 1:
      raise ValueError(f'--config.rl.updates={updates}, expected at least 1')
    self._prompts, self._roller = prompts, roller
    self._publish, self._logprobs = publish, logprobs
    self._updates, self._ahead, self._rounds = updates, ahead, rounds
    self._table = table
    self._steps = 0  # batches handed out
    self._number = 0  # batches of prompts read
    self._drawn = 0
    self._uses = 0  # that are left of the current batch
    self._current: Drawn | None = None
    self._waiting: Drawn | None = None

  def next_with(self, state: State) -> dict[str, Any]:
    """The batch of the step that follows from `state`."""
    told: Told = {}
    if not self._uses:
      drawn = self._waiting or self._draw(state)
      if self._ahead:
        self._waiting = self._draw(state)
      _, told = drawn.result
      stale = self._steps - drawn.begun
      told = told | {'rollout/staleness': (float(stale), 1.0)}
      self._current, self._uses = drawn, self._updates
    batch = self._current.prompts | self._current.result[0]
    self._uses -= 1
    self._steps += 1
    return batch | {'_metrics': told}

  def _draw(self, state: State) -> Drawn:
    began = time.perf_counter()
    place, first = self._prompts.get_state(), self._number
    weights = self._publish(state)
    batch, out, groups = self._round(weights)
    rows = [(0, row) for row in range(len(batch['tokens']))]
    if self._rounds:
      batch, rows, found = self._replaced(weights, batch, groups())
      arrays, groups = found.arrays(), lambda: found
    else:
      own = gather.own(len(out.tokens))
      arrays = {'completions': out.tokens, 'lengths': out.lengths}
      arrays = {name: array[own] for name, array in arrays.items()}
    # Begun here, while rewards are scored: only this state can tell them.
    extra = self._logprobs(state, batch | arrays)
    read = self._number - first
    seconds = time.perf_counter() - began
    step, self._drawn = self._drawn * self._updates, self._drawn + 1
    wait = lambda: self._finished(groups(), extra, step, read, seconds)
    return Drawn(place, read, rows, self._steps, batch, wait)

  def _round(self, weights: Weights):
    prompts = next(self._prompts)
    number, self._number = self._number, self._number + 1
    out, groups = self._roller.draw(weights, prompts, number)
    return {k: v for k, v in prompts.items() if k[0] != '_'}, out, groups

  def _replaced(self, weights: Weights, batch, groups: Groups):
    """Groups that teach, as many as there is room for, from several batches."""
    batches, found = [batch], [groups]
    wanted = len(batch['tokens'])
    teaching = lambda: sum(int((~g.degenerate).sum()) for g in found)
    while teaching() < wanted and len(found) <= self._rounds:
      batch, _, groups = self._round(weights)
      batches.append(batch)
      found.append(groups())
    places = [(b, row) for b in range(len(batches)) for row in range(wanted)]
    groups = Groups.joined([g.take(slice(None)) for g in found])
    order = np.argsort(groups.degenerate, kind='stable')[:wanted]
    rows = [places[place] for place in order]
    return _picked(batches, rows), rows, groups.take(order)

  def _finished(
    self, groups: Groups, extra, step: int, read: int, seconds: float
  ) -> tuple[Arrays, Told]:
    own = gather.own(len(groups.lengths))
    arrays = groups.take(own).arrays()
    arrays |= {name: gather.fetched(x)[own] for name, x in extra.items()}
    self._table(step, groups)
    told = self._roller.told(groups)
    told['rollout/batches'] = (float(read), 1.0)
    told['rollout/seconds'] = (seconds, 1.0)
    return arrays, told

  def get_state(self) -> dict[str, Any]:
    """The place in the prompts, and every batch that is not used up, as JSON.

    Waits for rewards that are under way.
    """
    return {
      'prompts': self._prompts.get_state(),
      'steps': self._steps,
      'number': self._number,
      'drawn': self._drawn,
      'uses': self._uses,
      'current': _packed(self._current) if self._uses else None,
      'waiting': _packed(self._waiting),
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues where `state` was taken."""
    self._steps, self._number = state['steps'], state['number']
    self._uses, self._drawn = state['uses'], state['drawn']
    self._current = self._unpacked(state['current'])
    self._waiting = self._unpacked(state['waiting'])
    self._prompts.set_state(state['prompts'])

  def _unpacked(self, packed: Mapping[str, Any] | None) -> Drawn | None:
    if packed is None:
      return None
    self._prompts.set_state(packed['place'])
    batches = [next(self._prompts) for _ in range(packed['batches'])]
    rows = [tuple(row) for row in packed['rows']]
    arrays = {name: _array(x) for name, x in packed['arrays'].items()}
    told = {name: tuple(pair) for name, pair in packed['told'].items()}
    facts = {name: packed[name] for name in ('place', 'batches', 'begun')}
    return Drawn(
      rows=rows,
      prompts=_picked(batches, rows),
      wait=lambda: (arrays, told),
      **facts,
    )

  def close(self) -> None:
    """Stops the workers of the prompts and the threads of the rewards."""
    self._prompts.close()
    self._roller.scorer.close()

  def stats(self) -> dict[str, Any]:
    """What the prompts say of rows read."""
    return self._prompts.stats()


def _picked(batches, rows: list[tuple[int, int]]) -> dict[str, Any]:
  """Rows of several batches of prompts as one batch."""
  picked = {}
  for key, value in batches[0].items():
    if isinstance(value, dict):
      picked[key] = _picked([batch[key] for batch in batches], rows)
    elif not key.startswith('_'):
      picked[key] = np.stack([batches[b][key][row] for b, row in rows])
  return picked


def _packed(drawn: Drawn | None) -> dict[str, Any] | None:
  if drawn is None:
    return None
  arrays, told = drawn.result
  return {
    'place': drawn.place,
    'batches': drawn.batches,
    'rows': [list(row) for row in drawn.rows],
    'begun': drawn.begun,
    'arrays': {name: _text(array) for name, array in arrays.items()},
    'told': told,
  }


def _text(array: np.ndarray) -> list[Any]:
  """An array in JSON, bit for bit."""
  data = base64.b64encode(np.ascontiguousarray(array)).decode()
  return [array.dtype.str, list(array.shape), data]


def _array(text: list[Any]) -> np.ndarray:
  dtype, shape, data = text
  return np.frombuffer(base64.b64decode(data), dtype).reshape(shape)
