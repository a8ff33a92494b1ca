"""Constraints: what a sample may say next.

A constraint is a pytree (its tables are data, its class is code) with three
pure functions, called inside the decode loop:

    init(rows, samples) -> state           a pytree of arrays [B, n, ...]
    allowed(state, step) -> bool [B, n, V]
    advance(state, tokens [B, n]) -> state

`TokenAutomaton` is the one that forces a format: a table over token ids, built
on the host from a format over characters, so that a tokenizer's long tokens
('12', '.5') are permitted wherever their characters are.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

FORBIDDEN = -1
DIGITS = '0123456789'


class Constraint(Protocol):
  """See the module's docstring; implementations are registered pytrees."""

  def init(self, rows: int, samples: int) -> Any: ...

  def allowed(self, state: Any, step: jax.Array) -> jax.Array: ...

  def advance(self, state: Any, tokens: jax.Array) -> Any: ...


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=('next_state',), meta_fields=()
)
@dataclasses.dataclass(frozen=True, eq=False)
class TokenAutomaton:
  """A deterministic automaton over token ids; samples begin in state 0.

  Attributes:
    next_state: int32 [states, V], FORBIDDEN where a token may not stand. A
      final state permits the EOS ids.
  """

  next_state: Any

  def init(self, rows: int, samples: int) -> jax.Array:
    return jnp.zeros((rows, samples), jnp.int32)

  def allowed(self, state: jax.Array, step: jax.Array) -> jax.Array:
    del step
    return jnp.asarray(self.next_state)[state] >= 0

  def advance(self, state: jax.Array, tokens: jax.Array) -> jax.Array:
    # A sample that has ended goes on with EOS, wherever it stands.
    return jnp.maximum(jnp.asarray(self.next_state)[state, tokens], 0)


@dataclasses.dataclass(frozen=True)
class Run:
  """Between `least` and `most` characters, each one of `characters`."""

  characters: str
  least: int = 1
  most: int = 1

  def __post_init__(self):
    if not self.characters or not 0 <= self.least <= self.most > 0:
      raise ValueError(
        f'{self}: expected characters and 0 <= least <= most > 0'
      )


def compile_format(
  runs: Sequence[Run], vocabulary: Sequence[str | None], eos_ids: Sequence[int]
) -> TokenAutomaton:
  """Builds the automaton of a format, e.g. a number such as '12.34'.

      [Run(DIGITS, 1, 3), Run('.'), Run(DIGITS, 2, 2)]

  Args:
    runs: the format, one run of characters after another.
    vocabulary: text of every token id; None or '' for what may never be said
      (special tokens, incomplete bytes).
    eos_ids: permitted where the format is complete, and only there.

  Raises:
    ValueError: the tokens cannot spell the format.
  """
  edges = _Characters(runs)
  eos = set(eos_ids)
  texts = {
    token: text
    for token, text in enumerate(vocabulary)
    if text and token not in eos and edges.alphabet.issuperset(text)
  }
  numbers, found = {edges.start: 0}, []
  queue = [edges.start]
  for state in queue:  # grows while it is read
    row = np.full(len(vocabulary), FORBIDDEN, np.int32)
    for token, text in texts.items():
      after = edges.read(state, text)
      if after:
        if after not in numbers:
          numbers[after] = len(queue)
          queue.append(after)
        row[token] = numbers[after]
    found.append(row)
  table = np.stack(found)
  final = np.array([edges.is_final(state) for state in queue])
  live = _live(table, final)
  table[(table >= 0) & ~live[np.maximum(table, 0)]] = FORBIDDEN
  for token in eos:
    table[final, token] = np.flatnonzero(final)
  if not live[0]:
    raise ValueError(f'no sequence of tokens spells the format {list(runs)}')
  return TokenAutomaton(table)


class _Characters:
  """The format over characters; a state is a set of (run, characters read)."""

  def __init__(self, runs: Sequence[Run]):
    self.runs = tuple(runs)
    self.alphabet = set().union(*(run.characters for run in runs))
    self.start = self._closed({(0, 0)})

  def _closed(self, places: set[tuple[int, int]]) -> frozenset:
    """Adds the next run wherever this one may end."""
    todo, seen = list(places), set(places)
    while todo:
      run, count = todo.pop()
      ended = run < len(self.runs) and count >= self.runs[run].least
      if ended and (run + 1, 0) not in seen:
        seen.add((run + 1, 0))
        todo.append((run + 1, 0))
    return frozenset(seen)

  def read(self, state: frozenset, text: str) -> frozenset:
    """The state after a text; empty if the format forbids it."""
    for character in text:
      state = self._closed(
        {
          (run, count + 1)
          for run, count in state
          if run < len(self.runs)
          and count < self.runs[run].most
          and character in self.runs[run].characters
        }
      )
    return state

  def is_final(self, state: frozenset) -> bool:
    return any(run == len(self.runs) for run, _ in state)


def _live(table: np.ndarray, final: np.ndarray) -> np.ndarray:
  """bool [states]: from where a final state can be reached by tokens."""
  live = final.copy()
  while True:
    more = live | ((table >= 0) & live[np.maximum(table, 0)]).any(axis=1)
    if (more == live).all():
      return live
    live = more
