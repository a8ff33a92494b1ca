"""Regression: one number of a picture, read by a linear map of a last state.

No parameter is added to a checkpoint. A language model reads the number off the
last token of its prompt, by the column of its head that belongs to a token
nobody writes; a tower off one coordinate of its embedding. Either is a linear
map that nothing else needs, and any run can start from any other.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vlm.train.step import Objective

Reader = Callable[[Any, Mapping[str, Any]], Float[Array, 'B']]


def reader(model: Any, column: int, centre: float | int = 0.0) -> Reader:
  """How a model's number is read.

  Args:
    model: see `qwen2.LanguageModel`; or a tower with `encode_image`, see
      `clip.Clip`.
    column: of the head, a token id; or of the embedding.
    centre: what a state of zeros stands for.

  Returns:
    read(params, batch) -> float32 [B]. The batch holds prompts that end
    together, as `data.examples.left_padded` makes them; or `pixels`
    [B, S, S, 3].

  Raises:
    ValueError: there is no such column, or the model prunes its prompts.
  """
  tower = hasattr(model, 'encode_image')
  width = model.config.embedding if tower else model.decoder_config.vocab_size
  if not 0 <= column < width:
    raise ValueError(
      f'--config.regression.column={column}, expected 0 to {width - 1}'
    )
  if not tower:
    check_whole(model)

  def of_picture(params, batch):
    found = model.encode_image(params, batch['pixels']).embedding
    return centre + found[:, column].astype(jnp.float32)

  def of_prompt(params, batch):
    state = model.hidden(params, batch)[:, -1]  # [B, D]
    weight = model.head_kernel(params)[:, column]
    return centre + jnp.einsum(
      'BD,D->B',
      state,
      weight.astype(state.dtype),
      preferred_element_type=jnp.float32,
    )

  return of_picture if tower else of_prompt


def check_whole(model: Any) -> None:
  """Refuses a model that prunes its prompts, with ValueError."""
  if model.prune is not None:
    raise ValueError(
      'the state that is read would be one of a pruned prompt; unset '
      '--config.flashvid.layer'
    )


def regression(read: Reader) -> Objective:
  """The mean squared error of what is read.

  Args:
    read: see `reader`.

  Returns:
    objective(params, batch, key) -> (summed squared error, metrics). The batch
    also holds `target` float32 [B] and `counted` float32 [B], 0 in rows that
    fill it up. Metrics: loss, the mean squared error; absolute_error; and
    prediction, the mean.
  """

  def objective(params, batch, key: jax.Array):
    del key  # nothing is drawn
    found, counted = read(params, batch), batch['counted']
    gap = (found - batch['target']) * counted
    loss, count = jnp.sum(jnp.square(gap)), jnp.sum(counted)
    return loss, {
      'loss': (loss, count),
      'absolute_error': (jnp.sum(jnp.abs(gap)), count),
      'prediction': (jnp.sum(found * counted), count),
    }

  return objective
