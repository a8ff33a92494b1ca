"""Answers about clips that a tower saw once, whatever is left of their tokens.

The tower is the dear part, and the same for every method and every question.
What comes behind it is the path of any user: reduction, prompt, decoder.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data.chat import Chat
from data.visual import Expansion
from data.worlds.clip_questions import Question
from vlm.methods.flashvid.transform import VideoReduction
from vlm.models import plan as plans
from vlm.models.llava_onevision import LlavaOnevision
from vlm.models.prune import Prune
from vlm.models.visual import VisualTokens

CLIPS = 16  # reduced or encoded at a time
ROWS = 64  # questions asked at a time
TEXT = 8  # tokens of a question, most
ROOM = 32  # what is left fills multiples of it: most methods share a shape


class Encoded(LlavaOnevision):
  """The model behind its tower: `pixels` are the visual tokens themselves."""

  def encode_visual(self, params, pixels, plan, with_received=False):
    return pixels


@dataclasses.dataclass(frozen=True)
class Left:
  """What a method left is all that a decoder needs to know of it.

  A `vlm.models.visual.VisualTransform` of tokens that are reduced already;
  methods that leave equally many share a compilation.
  """

  tokens: int
  pruned: Prune | None
  needs_attention: bool = False

  def __call__(self, visual: VisualTokens, plan: Any) -> VisualTokens:
    return visual

  def room(self, frames: int, tokens: int) -> int:
    return self.tokens

  def prune(self, depth: int) -> Prune | None:
    return self.pruned


class Asked(NamedTuple):
  """A question about clip number `clip` of a set."""

  clip: int
  question: Question


class Answering:
  """Asks a model about clips of F frames.

  Args:
    model: trained on full tokens.
    params: its parameters.
    chat: the tokenizer and template.
    frames: F.
  """

  def __init__(self, model: Any, params: Any, chat: Chat, frames: int):
    self.model, self._params, self._chat = model, params, chat
    layout = model.config.layout
    self.frames, self.side = frames, layout.pooled
    count = self.side**2
    self._row = plans.plan_row(layout, [plans.Clip(frames)])
    self._layout = layout
    self.length = len(self._row.index)
    video = np.arange(frames * count, dtype=np.int32)
    self.plan = {
      'frames': video.reshape(1, frames, count),
      'prunable': np.arange(self.length) < frames * count,
    }

  def encode(self, pixels: np.ndarray) -> VisualTokens:
    """Visual tokens of clips, uint8 [C, F, S, S, 3], with their attention."""
    return _in_parts(self._encode, pixels)

  @functools.cached_property
  def _encode(self):
    rows = [self._row] * CLIPS
    plan = plans.pack_plans(rows, self._layout, self.frames, self.length, 1)
    plan = jax.tree.map(jnp.asarray, plan)
    return jax.jit(
      lambda pixels: self.model.encode_visual(
        self._params, pixels, plan, with_received=True
      )
    )

  def reduce(self, visual: VisualTokens, reducer: Any) -> VisualTokens:
    """What `reducer` leaves of the clips; `kept` says where."""
    frames = jnp.asarray(self.plan['frames'])
    frames = jnp.broadcast_to(frames, (CLIPS, *frames.shape))
    reduction = VideoReduction(reducer)
    return _in_parts(
      jax.jit(lambda part: reduction(part, {'frames': frames})), visual
    )

  def left(self, reducer: Any | None) -> Left | None:
    """What the decoder has to know of a method; None for full tokens."""
    if reducer is None:
      return None
    depth = self.model.config.decoder.depth
    _, frames, count = self.plan['frames'].shape
    room = -(-reducer.room(frames, count) // ROOM) * ROOM
    return Left(min(room, frames * count), reducer.prune(depth))

  def share(self, visual: VisualTokens, left: Left | None) -> float:
    """Visual tokens that a decoder layer sees, over those of all frames."""
    if left is None:
      return 1.0
    depth = self.model.config.decoder.depth
    video = self.plan['frames'].size
    entered = np.asarray(visual.kept)[:, :video].sum(axis=1)
    if left.pruned is None:
      return float(entered.mean() / video)
    behind = left.pruned.kept(video)[entered]
    layer = left.pruned.layer
    mean = (layer * entered + (depth - layer) * behind) / depth
    return float(mean.mean() / video)

  def answers(
    self,
    asked: Sequence[Asked],
    visual: VisualTokens | None,
    left: Left | None = None,
  ) -> list[str]:
    """The word the model says to each question; without `visual`, blindly."""
    tokens, segments = self._prompts(asked, visual is not None)
    clips = np.array([a.clip for a in asked])
    answer = _answer_fn(self.model.config, self.model.runtime, left)
    found = []
    for start in range(0, len(asked), ROWS):
      # One static shape: a short last batch repeats its last question.
      rows = np.minimum(np.arange(start, start + ROWS), len(asked) - 1)
      batch = {'tokens': tokens[rows], 'segment_ids': segments[rows]}
      batch['positions'] = np.maximum(np.cumsum(batch['segment_ids'], 1) - 1, 0)
      if visual is not None:
        batch['plan'] = {
          name: np.broadcast_to(value, (ROWS, *value.shape))
          for name, value in self.plan.items()
        }
        part = jax.tree.map(lambda x, c=clips[rows]: x[c], visual)
        batch['pixels'] = part
      found.append(np.asarray(answer(self._params, batch)))
    ids = np.concatenate(found)[: len(asked)]
    return [self._chat.decode([token]) for token in ids]

  def _prompts(self, asked, shown: bool) -> tuple[np.ndarray, np.ndarray]:
    """int32 tokens [Q, T] that end together, and their segment ids."""
    length = TEXT + self.length * shown
    tokens = np.zeros((len(asked), length), np.int32)
    segments = np.zeros_like(tokens)
    for row, (_, question) in enumerate(asked):
      ids = self._prompt(question.text, shown)
      tokens[row, length - len(ids) :] = ids
      segments[row, length - len(ids) :] = 1
    return tokens, segments

  @functools.cached_property
  def _prompt(self):
    expansions = (Expansion('<video>', '<video>', (self.length,)),)

    @functools.lru_cache(None)
    def encode(text: str, shown: bool) -> np.ndarray:
      content = [{'type': 'video'}] * shown + [{'type': 'text', 'text': text}]
      return self._chat.encode_prompt(
        [{'role': 'user', 'content': content}], expansions if shown else ()
      )

    return encode


@functools.lru_cache(None)
def _answer_fn(config: Any, runtime: Any, left: Left | None):
  """Jitted (params, batch) -> ids [B] of the first word of each answer."""
  model = Encoded(config, runtime, () if left is None else (left,))

  @jax.jit
  def answer(params, batch):
    hidden, _ = model.fill(params, model.inputs(params, batch))
    return jnp.argmax(model.logits(params, hidden[:, -1:])[:, 0], axis=-1)

  return answer


def _in_parts(function: Any, arrays: Any) -> VisualTokens:
  """`function` of `CLIPS` clips at a time; the last part is filled up."""
  count = len(jax.tree.leaves(arrays)[0])
  found = []
  for start in range(0, count, CLIPS):
    rows = np.minimum(np.arange(start, start + CLIPS), count - 1)
    part = jax.tree.map(lambda x, rows=rows: x[rows], arrays)
    found.append(jax.device_get(function(part)))
  whole = jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *found)
  return whole
