"""What enters a decoder's first layer, and what is left when tokens leave.

A transform of visual tokens may drop some (`VisualTokens.kept`). Their
placeholders then leave the row, the rest moves together and ends where the row
ends. How long rows become is static: every video of the batch gives room for as
many tokens as its static size allows, and the host has checked each row.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prunable:
  """Visual tokens that a prune inside the decoder may take.

  Attributes:
    slots: bool [B, T].
    most: how many of a row can be, a host int.
  """

  slots: jax.Array
  most: int = dataclasses.field(metadata={'static': True})


class Inputs(NamedTuple):
  """What enters the first layer.

  Attributes:
    x: [B, T, D], embeddings.
    positions: int32 [B, T] or [B, T, 3].
    segment_ids: int32 [B, T].
    deepstack: [L, B, T, D] or None; see `VisualTokens`.
    order: int32 [B, T], the slot of the batch that each came from; None where
      nothing left.
    prunable: None where nothing will be pruned.
  """

  x: jax.Array
  positions: jax.Array
  segment_ids: jax.Array
  deepstack: jax.Array | None = None
  order: jax.Array | None = None
  prunable: Prunable | None = None

  def of(self, array: Array) -> Array:
    """Values [B, T0, ...] over the batch's slots, for the slots here."""
    return array if self.order is None else taken(array, self.order)


def taken(array: Array, order: Int[Array, 'B S'], axis: int = 1) -> Array:
  """Entries `order` of axis `axis`, whose neighbour on the left is B."""
  shape = [1] * array.ndim
  shape[axis - 1 : axis + 1] = order.shape
  return jnp.take_along_axis(array, order.reshape(shape), axis=axis)


def last_that_stay(stay: Bool[Array, 'B T'], length: int) -> Int[Array, 'B S']:
  """Slots of the tokens that stay, in their order, at the end of `length`.

  In front of them stand slots of tokens that do not.
  """
  return jnp.argsort(stay, axis=1, stable=True)[:, stay.shape[1] - length :]


def shortened(inputs: Inputs, stay: Bool[Array, 'B T'], length: int) -> Inputs:
  """The inputs without the tokens that do not stay.

  Positions in one axis are counted anew; those of M-RoPE say where a token
  stands in its video and stay as they are, and so does the time after it.

  Args:
    inputs: of whole rows.
    stay: which tokens do; padding goes as well.
    length: S, of the rows that come out.
  """
  stay = stay & (inputs.segment_ids != 0)
  order = last_that_stay(stay, length)
  segment_ids = jnp.where(
    taken(stay, order), taken(inputs.segment_ids, order), 0
  )
  positions = _recounted(segment_ids)
  if inputs.positions.ndim == 3:
    positions = taken(inputs.positions, order)
  deepstack, prunable = inputs.deepstack, inputs.prunable
  if deepstack is not None:
    deepstack = taken(deepstack, order, axis=2)
  if prunable is not None:
    slots = taken(prunable.slots & stay, order)
    prunable = dataclasses.replace(prunable, slots=slots)
  return Inputs(
    taken(inputs.x, order), positions, segment_ids, deepstack, order, prunable
  )


def _recounted(segment_ids: Int[Array, 'B T']) -> Int[Array, 'B T']:
  """The number of each token in its sample, from 0; 0 for padding."""
  slots = jnp.arange(segment_ids.shape[1])
  first = jnp.diff(segment_ids, axis=1, prepend=0) != 0
  start = jax.lax.cummax(jnp.where(first, slots, 0), axis=1)
  return jnp.where(segment_ids != 0, slots - start, 0)
