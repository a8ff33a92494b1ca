"""Losses over all pairs of a batch that never hold all pairs' logits.

Images and texts are unit vectors, row a of one belonging to row a of the other;
l_ab = scale <image_a, text_b> + bias. Logits exist one [block, block] tile at a
time. Where the rows are spread over a mesh, the texts, and what is known of
their columns, go once around the ring of devices; the backward pass makes the
same round and computes the tiles again.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

Kind = Literal['softmax', 'sigmoid']
# Finite, because differences of it are taken where nothing was seen yet.
FLOOR = -1e30


class PairScores(NamedTuple):
  """What each row of a batch is worth; all [B], 0 or False in padding.

  Attributes:
    image_loss: float32 nats, of finding the texts of each image.
    text_loss: float32 nats, of finding the images of each text.
    image_right: whether one of its texts scores above all others; not in a tie.
    text_right: whether one of its images scores above all others.
  """

  image_loss: jax.Array
  text_loss: jax.Array
  image_right: jax.Array
  text_right: jax.Array


def info_nce(
  images: Float[Array, 'B D'],
  texts: Float[Array, 'B D'],
  scale: Float[Array, ''],
  ids: Int[Array, 'B'],
  *,
  block: int = 1024,
  axes: tuple[str, ...] = (),
) -> PairScores:
  """Symmetric InfoNCE (CLIP, arXiv 2103.00020, figure 3).

  image_loss[a] = logsumexp_b l_ab - mean of l_ab over b with ids[b] = ids[a]:
  cross-entropy with a target that all rows of one id share. The loss of a batch
  is the mean of (image_loss + text_loss) / 2.

  Args:
    images: unit vectors.
    texts: unit vectors.
    scale: the inverse temperature; see `clamped_scale`.
    ids: what rows are of, from 1; rows of 0 are padding and nobody's negative.
    block: memory bound, a side of the largest tile of logits.
    axes: mesh axes of the mesh in context over which rows are spread evenly.

  Returns:
    PairScores; losses are differentiable in images, texts and scale (reverse
    mode, first order).
  """
  bias = jnp.zeros((), jnp.float32)
  return _scores(images, texts, scale, bias, ids, 'softmax', block, axes)


def sigmoid(
  images: Float[Array, 'B D'],
  texts: Float[Array, 'B D'],
  scale: Float[Array, ''],
  bias: Float[Array, ''],
  ids: Int[Array, 'B'],
  *,
  block: int = 1024,
  axes: tuple[str, ...] = (),
) -> PairScores:
  """SigLIP's loss (arXiv 2303.15343, section 3.2): every pair on its own.

  image_loss[a] = sum_b -log sigmoid(z_ab l_ab), z_ab = 1 where ids[a] = ids[b]
  and else -1; text_loss sums over a, so that the mean of either is SigLIP's
  loss, and of (image_loss + text_loss) / 2 as well.

  Args:
    images, texts, scale, ids, block, axes: see `info_nce`.
    bias: added to every logit.

  Returns:
    PairScores; losses are differentiable in bias too.
  """
  return _scores(images, texts, scale, bias, ids, 'sigmoid', block, axes)


@jax.custom_vjp
def clamped_scale(
  log_scale: Float[Array, ''], limit: Float[Array, ''] | float = 100.0
) -> Float[Array, '']:
  """min(exp(log_scale), limit), float32; the limit is CLIP's.

  Above the limit only gradients that lower log_scale pass, as if the parameter
  itself were clipped after every step.
  """
  return jnp.minimum(jnp.exp(log_scale.astype(jnp.float32)), limit)


def _clamped_forward(log_scale, limit=100.0):
  return clamped_scale(log_scale, limit), (log_scale, limit)


def _clamped_backward(kept, grad):
  log_scale, limit = kept
  scale = clamped_scale(log_scale, limit)
  grad = jnp.where(scale >= limit, jnp.maximum(grad, 0), grad) * scale
  return grad.astype(log_scale.dtype), jnp.zeros_like(limit)


clamped_scale.defvjp(_clamped_forward, _clamped_backward)


class _Side(NamedTuple):
  """Rows of one tower in blocks: x [N, K, D] float32, ids [N, K]."""

  x: jax.Array
  ids: jax.Array


class _Seen(NamedTuple):
  """What a row has seen of the other tower so far; all float32 [..., K].

  Attributes:
    own: its best positive logit.
    other: its best negative logit.
    total: sum of exp(logit - max(own, other)); of pair losses for sigmoid.
    chosen: sum of its positives' logits.
    count: number of its positives.
  """

  own: jax.Array
  other: jax.Array
  total: jax.Array
  chosen: jax.Array
  count: jax.Array

  @property
  def top(self) -> jax.Array:
    return jnp.maximum(self.own, self.other)


class _Tile(NamedTuple):
  """A tile of logits [K, K], and which pairs are positive or there at all."""

  cosine: jax.Array
  logits: jax.Array
  positive: jax.Array
  present: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _scores(images, texts, scale, bias, ids, kind: Kind, block: int, axes):
  return _forward(images, texts, scale, bias, ids, kind, block, axes)[0]


def _forward(images, texts, scale, bias, ids, kind, block, axes):
  if block < 1:
    raise ValueError(f'block of {block} rows, expected a positive number')
  scale, bias = scale.astype(jnp.float32), bias.astype(jnp.float32)
  local = functools.partial(_local_seen, kind, block, axes)
  seen = _spread(local, axes, 'rrssr', 'rr')(images, texts, scale, bias, ids)
  scores = PairScores(
    *(_loss(kind, side, ids) for side in seen),
    *((ids > 0) & (side.own > side.other) for side in seen),
  )
  logsumexp = tuple(side.top + jnp.log(side.total) for side in seen)
  count = seen[0].count
  return scores, (images, texts, scale, bias, ids, logsumexp, count)


def _backward(kind, block, axes, kept, grads: PairScores):
  images, texts, scale, bias, ids, logsumexp, count = kept
  weights = tuple(
    jnp.where(ids > 0, grad, 0) for grad in (grads.image_loss, grads.text_loss)
  )
  local = functools.partial(_local_gradients, kind, block, axes)
  spread = _spread(local, axes, 'rrssrrrr', 'rrss')
  d_images, d_texts, d_scale, d_bias = spread(
    images, texts, scale, bias, ids, logsumexp, weights, count
  )
  return (
    d_images.astype(images.dtype),
    d_texts.astype(texts.dtype),
    d_scale,
    d_bias,
    None,
  )


_scores.defvjp(_forward, _backward)


def _spread(local: Callable, axes: tuple[str, ...], takes: str, gives: str):
  """`local` on every device's (r)ows; (s)calars are the same everywhere."""
  if not axes:
    return local
  specs = {'r': P(axes), 's': P()}
  return jax.shard_map(
    local,
    in_specs=tuple(specs[kind] for kind in takes),
    out_specs=tuple(specs[kind] for kind in gives),
    check_vma=False,
  )


def _local_seen(kind, block, axes, images, texts, scale, bias, ids):
  """(_Seen of the images, of the texts), each [B], of this device's rows."""
  rows, columns = _side(images, ids, block), _side(texts, ids, block)
  floor = jnp.full(rows.ids.shape, FLOOR, jnp.float32)
  zero = jnp.zeros_like(floor)
  nothing = _Seen(floor, floor, zero, zero, zero)

  def meet(row, column):
    (x, x_seen), (y, y_seen) = row, column
    tile = _tile(x, y, scale, bias)
    seen = _see(kind, x_seen, tile, 1), _see(kind, y_seen, tile, 0)
    return (x, seen[0]), (y, seen[1])

  visit = lambda home, guest: _all_blocks(meet, home, guest)
  home, guest = _ring(visit, (rows, nothing), (columns, nothing), axes)
  unblock = lambda seen: jax.tree.map(
    lambda leaf: leaf.reshape(-1)[: len(ids)], seen
  )
  return unblock(home[1]), unblock(guest[1])


def _local_gradients(
  kind, block, axes, images, texts, scale, bias, ids, logsumexp, weights, count
):
  """Gradients of images, texts, scale and bias, of this device's rows."""
  rows, columns = _side(images, ids, block), _side(texts, ids, block)
  blocked = lambda values: _blocks(values, block)
  facts = [(blocked(a), blocked(b)) for a, b in zip(logsumexp, weights)]
  count = blocked(count)
  zero = jnp.zeros((len(rows.x),), jnp.float32)

  def meet(row, column):
    (x, (x_lse, x_weight), x_count, d_x, d_scale, d_bias) = row
    (y, (y_lse, y_weight), d_y) = column
    tile = _tile(x, y, scale, bias)
    weight = x_weight[:, None] + y_weight[None]
    if kind == 'softmax':
      slope = (
        x_weight[:, None] * jnp.exp(tile.logits - x_lse[:, None])
        + y_weight[None] * jnp.exp(tile.logits - y_lse[None])
        # Both rows of a positive pair have as many positives.
        - jnp.where(tile.positive, weight / x_count[:, None], 0)
      )
    else:
      sign = jnp.where(tile.positive, 1.0, -1.0)
      slope = -sign * jax.nn.sigmoid(-sign * tile.logits) * weight
    slope = jnp.where(tile.present, slope, 0)
    d_x += scale * _dot('AC,CD->AD', slope, y.x)
    d_y += scale * _dot('AC,AD->CD', slope, x.x)
    d_scale += jnp.sum(slope * tile.cosine)
    d_bias += jnp.sum(slope)
    row = x, (x_lse, x_weight), x_count, d_x, d_scale, d_bias
    return row, (y, (y_lse, y_weight), d_y)

  visit = lambda home, guest: _all_blocks(meet, home, guest)
  home, guest = _ring(
    visit,
    (rows, facts[0], count, jnp.zeros_like(rows.x), zero, zero),
    (columns, facts[1], jnp.zeros_like(columns.x)),
    axes,
  )
  *_, d_images, d_scale, d_bias = home
  whole = lambda leaf: leaf.reshape(-1, leaf.shape[-1])[: len(ids)]
  total = jnp.sum(d_scale), jnp.sum(d_bias)
  if axes:
    total = lax.psum(total, axes)
  return whole(d_images), whole(guest[2]), *total


def _ring(visit: Callable, home: Any, guest: Any, axes: tuple[str, ...]):
  """Lets every device's guest visit every home, and come back."""
  if not axes:
    return visit(home, guest)
  size = lax.axis_size(axes)
  onward = [(i, (i + 1) % size) for i in range(size)]

  def hop(carry, _):
    home, guest = visit(*carry)
    # What the visit leaves as it is need not wait for it.
    return (home, lax.ppermute(guest, axes, onward)), None

  return lax.scan(hop, (home, guest), length=size)[0]


def _all_blocks(meet: Callable, rows: Any, columns: Any):
  """`meet(row block, column block) -> both`, for every pair of blocks."""

  def along_rows(columns, row):
    row, columns = lax.scan(meet, row, columns)
    return columns, row

  columns, rows = lax.scan(along_rows, columns, rows)
  return rows, columns


def _blocks(values: jax.Array, block: int) -> jax.Array:
  """[B, ...] -> [N, K, ...] with K <= block; the rest is filled with zeros."""
  number = -(-len(values) // block)
  size = -(-len(values) // number)
  padding = ((0, number * size - len(values)), *((0, 0),) * (values.ndim - 1))
  return jnp.pad(values, padding).reshape(number, size, *values.shape[1:])


def _side(x: jax.Array, ids: jax.Array, block: int) -> _Side:
  return _Side(_blocks(x.astype(jnp.float32), block), _blocks(ids, block))


def _tile(x: _Side, y: _Side, scale, bias) -> _Tile:
  cosine = _dot('AD,CD->AC', x.x, y.x)
  present = (x.ids > 0)[:, None] & (y.ids > 0)
  positive = present & (x.ids[:, None] == y.ids)
  return _Tile(cosine, scale * cosine + bias, positive, present)


def _dot(legend: str, a: jax.Array, b: jax.Array) -> jax.Array:
  # A TPU would round float32 factors to bfloat16: 0.01 nats at scale 100.
  return jnp.einsum(legend, a, b, precision=lax.Precision.HIGHEST)


def _see(kind: Kind, seen: _Seen, tile: _Tile, axis: int) -> _Seen:
  """Adds the tile's columns (axis 1) or rows (axis 0) to what was seen."""
  logits, positive = tile.logits, tile.positive
  best = lambda mask: jnp.max(logits, axis, initial=FLOOR, where=mask)
  own = jnp.maximum(seen.own, best(positive))
  other = jnp.maximum(seen.other, best(tile.present & ~positive))
  top = jnp.maximum(own, other)
  if kind == 'softmax':
    total = seen.total * jnp.exp(seen.top - top)
    terms = jnp.exp(logits - jnp.expand_dims(top, axis))
  else:
    total = seen.total
    terms = jax.nn.softplus(jnp.where(positive, -logits, logits))
  total += jnp.sum(terms, axis, where=tile.present)
  chosen = seen.chosen + jnp.sum(logits, axis, where=positive)
  count = seen.count + jnp.sum(positive, axis, dtype=jnp.float32)
  return _Seen(own, other, total, chosen, count)


def _loss(kind: Kind, seen: _Seen, ids: jax.Array) -> jax.Array:
  if kind == 'sigmoid':
    return jnp.where(ids > 0, seen.total, 0)
  loss = seen.top + jnp.log(seen.total) - seen.chosen / seen.count
  return jnp.where(ids > 0, loss, 0)
