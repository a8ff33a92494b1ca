"""Text of one sample while it is being drawn.

for piece in stream(model, params, prompt, settings, detokenize=chat.decode):
  print(piece, end='', flush=True)
"""

from collections.abc import Iterator
from typing import Any

from vlm.models.functional import Params
from vlm.rollout.sampler import Decoding, Weights
from vlm.rollout.settings import Buckets, Sampling
from vlm.rollout.stops import Detokenize, held_back

# What a decoder writes for bytes that are not (yet) a character.
REPLACEMENT = '\ufffd'


def stream(
  model: Any,
  params: Params | Weights,
  prompts: dict[str, Any],
  settings: Sampling,
  *,
  detokenize: Detokenize,
  seed: int | None = None,
  constraint: Any = None,
  buckets: Buckets = Buckets(),
  every: int = 4,
) -> Iterator[str]:
  """Yields pieces whose concatenation is the text `sample` gives.

  A piece is held back while it may still change: bytes that do not make up a
  character yet, and what may be the beginning of a stop string.

  Args:
    model, params, prompts, settings, constraint, buckets: as of `sample`, for
      one prompt.
    detokenize: token ids to text.
    seed: needed where temperature > 0.
    every: tokens between two pieces.

  Raises:
    ValueError: more than one prompt; and as `sample`.
  """
  rows = prompts['tokens'].shape[0]
  if rows != 1:
    raise ValueError(f'stream takes one prompt, got {rows}')
  seeds = None if seed is None else [seed]
  run = Decoding(
    model, params, prompts, settings, 1, seeds, constraint, buckets
  )
  watch = run.stop_watch(detokenize)
  sent = ''
  while not run.finished:
    run.advance(every, watch)
    tokens, lengths = run.spoken()
    if not run.finished:
      text = detokenize(tokens[0, 0, : lengths[0, 0]].tolist())
      piece = _settled(text, settings.stop)[len(sent) :]
      if piece:
        yield piece
      sent += piece
  whole = run.result(watch, detokenize).texts[0][0]
  if whole[len(sent) :]:
    yield whole[len(sent) :]


def _settled(text: str, stop: tuple[str, ...]) -> str:
  """The part of a text that later tokens cannot change."""
  text = text.rstrip(REPLACEMENT)
  return text[: len(text) - held_back(text, stop)]
