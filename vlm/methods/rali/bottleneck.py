"""A model whose answers never see the image (spec 9.4, point 4).

From the tag that opens an answer on, no query meets the key of a visual token:
in training, in sampling and in scoring alike. What an answer knows of the
picture has then come to it through the prompt's and the reasoning's tokens. To
hide keys from a model that was trained with them breaks it, and says little.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from vlm.models.attention import BLIND, VISUAL
from vlm.models.functional import Params
from vlm.models.inputs import Inputs
from vlm.models.visual import VisionLanguageModel


class Bottleneck:
  """What `bottleneck` adds to a model's class.

  Attributes:
    tags: ids of the tokens that open answers.
  """

  tags: tuple[int, ...]

  def inputs(self, params: Params, batch: dict) -> Inputs:
    inputs = super().inputs(params, batch)
    tokens, ids = inputs.of(batch['tokens']), inputs.segment_ids
    marked = jnp.where(self.is_placeholder(tokens), ids | VISUAL, ids)
    marked = jnp.where(self._answers(tokens, ids), marked | BLIND, marked)
    return inputs._replace(segment_ids=jnp.where(ids == 0, 0, marked))

  def said_ids(self, tokens: Int[Array, '... T']) -> Int[Array, '... T']:
    ids = super().said_ids(tokens)
    return jnp.where(self._answers(tokens, ids), ids | BLIND, ids)

  def _answers(self, tokens: jax.Array, ids: jax.Array) -> jax.Array:
    """Where a tag stands, and behind it, in each segment of a row."""
    axis = tokens.ndim - 1
    slots = jnp.arange(tokens.shape[-1])
    opens = jnp.isin(tokens, jnp.asarray(self.tags))
    first = jnp.diff(ids, axis=axis, prepend=0) != 0
    latest = lambda where: jax.lax.cummax(
      jnp.broadcast_to(jnp.where(where, slots, -1), tokens.shape), axis
    )
    return latest(opens) >= jnp.maximum(latest(first), 0)


def bottleneck(
  model: VisionLanguageModel, tags: Sequence[int]
) -> VisionLanguageModel:
  """The same model with answers that see no image.

  Args:
    model: a description from `registry.build`.
    tags: ids of the tokens that open answers, each a tag of its own.

  Raises:
    ValueError: attention by the TPU kernel, which cannot hide keys.
  """
  if model.runtime.attention != 'xla':
    raise ValueError(
      f'--config.runtime.attention={model.runtime.attention!r}: a bottleneck '
      "needs 'xla'; the kernel cannot hide an image from answers alone"
    )
  family = type(model)
  kind = type(f'Bottleneck{family.__name__}', (Bottleneck, family), {})
  made = kind(model.config, model.runtime, model.transforms)
  made.tags = tuple(tags)
  return made
