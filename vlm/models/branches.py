"""Several continuations of each prompt over one prefix.

A prompt is encoded once; its keys and values are kept once, however many
samples continue it. In a decode step the n samples of a prompt stand where the
tokens of a sequence would: hidden states are [B, n, D], and their queries meet

    prefix [B, K, P, H]        shared by the n samples of a row, read only
    own    [B, n, K, G, H]     what each sample has said so far
    the step's own key and value

in one softmax of three parts. Caches are only read inside the layers; the new
keys and values of all layers are written in one place afterwards, so that the
loop around the step updates its buffers instead of copying them.

Where the decoder pruned the prompt, its later layers have a shorter prefix and
a cache of their own under 'late', of the same form.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vlm.models.attention import sees
from vlm.models.partition import constrain

MASKED = -1e30
PER_LAYER = ('prefix_k', 'prefix_v', 'own_k', 'own_v')


def begin(cache: dict, samples: int, length: int, unstacked: bool) -> dict:
  """From the cache that a prompt has filled to a cache for its samples.

  Args:
    cache: of `init_cache`, filled by `forward`: k, v [L, B, P, K, H] and
      segment_ids [B, P]; maybe the same of later layers in 'late'.
    samples: n, per prompt.
    length: G, the most tokens a sample may get.
    unstacked: keep one array per layer, to go with unstacked parameters.

  Returns:
    segment_ids int32 [B, P]; filled int32 scalar, the tokens of each sample
    that are in the cache; prefix_k, prefix_v [L, B, K, P, H] and own_k, own_v
    [L, B, n, K, G, H], or tuples of L arrays; and 'late' where there was one.
  """
  if 'late' in cache:
    late = begin(cache['late'], samples, length, unstacked)
    early, _ = staged(cache)
    return begin(early, samples, length, unstacked) | {'late': late}
  made = {
    'segment_ids': cache['segment_ids'],
    'filled': jnp.zeros((), jnp.int32),
  }
  for name in ('k', 'v'):
    prefix = cache[name].swapaxes(2, 3)
    depth, rows, heads, _, head_dim = prefix.shape
    own = (depth, rows, samples, heads, length, head_dim)
    made[f'prefix_{name}'] = constrain(
      prefix, None, 'batch', 'heads', None, None
    )
    made[f'own_{name}'] = constrain(
      jnp.zeros(own, prefix.dtype), None, 'batch', None, 'heads', None, None
    )
  if unstacked:
    made |= {name: tuple(made[name]) for name in PER_LAYER}
  return made


def capacity(cache: dict) -> int:
  """Slots of a sequence in a cache of `begin` or of `init_cache`."""
  if not is_branched(cache):
    return cache['k'].shape[2]
  # Of the stack or of one layer: the axes counted from the end are the same.
  slots = lambda name: cache[name][0].shape[-2]
  return slots('prefix_k') + slots('own_k')


def depth(cache: dict) -> int:
  """Layers of a cache of `begin` or of `init_cache`."""
  return len(cache['prefix_k'] if is_branched(cache) else cache['k'])


def is_branched(cache: dict | None) -> bool:
  """Whether a cache is one of `begin`."""
  return cache is not None and 'own_k' in cache


def staged(cache: dict | None) -> tuple[dict | None, dict | None]:
  """The cache of the first layers, and that of later ones if it differs."""
  if cache is None or 'late' not in cache:
    return cache, None
  return {k: cache[k] for k in cache if k != 'late'}, cache['late']


def divided(cache: dict) -> tuple[dict, dict]:
  """What a step only reads, and what it changes; see `united`."""
  cache, late = staged(cache)
  fixed = ('segment_ids', 'prefix_k', 'prefix_v')
  read = {name: cache[name] for name in fixed}
  changed = {name: cache[name] for name in cache if name not in fixed}
  if late is not None:
    read['late'], changed['late'] = divided(late)
  return read, changed


def united(read: dict, changed: dict) -> dict:
  """The cache of which `divided` gave the parts."""
  if 'late' not in read:
    return read | changed
  return read | changed | {'late': united(read['late'], changed['late'])}


def per_layer(cache: dict) -> dict:
  """What each layer reads: its slices of the caches."""
  return {name: cache[name] for name in PER_LAYER}


def extended(cache: dict, new: dict) -> dict:
  """The cache with the step's keys and values written behind the others.

  Args:
    cache: of `begin`.
    new: k, v [L, B, n, K, H], or tuples of L arrays.
  """

  def write(own: jax.Array, part: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(
      own, part[..., None, :].astype(own.dtype), cache['filled'], own.ndim - 2
    )

  return cache | {
    'own_k': jax.tree.map(write, cache['own_k'], new['k']),
    'own_v': jax.tree.map(write, cache['own_v'], new['v']),
    'filled': cache['filled'] + 1,
  }


def attend(
  q: Float[Array, 'B n N H'],
  k: Float[Array, 'B n K H'],
  v: Float[Array, 'B n K H'],
  segment_ids: Int[Array, 'B n'],
  cache: dict,
) -> Float[Array, 'B n N H']:
  """Softmax attention of one new token per sample.

  Args:
    q: queries.
    k: the new tokens' keys.
    v: the new tokens' values.
    segment_ids: of the new tokens; they see the prefix of the same segment.
    cache: one layer's prefix_k, prefix_v [B, K, P, H] and own_k, own_v
      [B, n, K, G, H]; and the shared segment_ids [B, P] and filled.

  Returns:
    The attended values, in v's dtype.
  """
  b, n, heads, h = q.shape
  kv_heads = k.shape[2]
  q = q * jnp.asarray(1 / math.sqrt(h), q.dtype)
  q = q.reshape(b, n, kv_heads, heads // kv_heads, h).swapaxes(1, 2)
  dot = lambda equation, *xs: jnp.einsum(
    equation, *xs, preferred_element_type=jnp.float32
  )
  k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)  # [B, K, n, H]
  own_k, own_v = cache['own_k'], cache['own_v']
  seen = sees(segment_ids[:, :, None], cache['segment_ids'][:, None])
  said = jnp.arange(own_k.shape[3]) < cache['filled']
  parts = (
    jnp.where(
      seen[:, None, :, None],
      dot('BKnGH,BKPH->BKnGP', q, cache['prefix_k']),
      MASKED,
    ),
    jnp.where(said, dot('BKnGH,BnKSH->BKnGS', q, own_k), MASKED),
    dot('BKnGH,BKnH->BKnG', q, k)[..., None],
  )
  top = parts[2]
  for part in parts[:2]:
    top = jnp.maximum(top, part.max(axis=-1, keepdims=True))
  prefix, own, new = (jnp.exp(part - top) for part in parts)
  total = sum(w.sum(axis=-1, keepdims=True) for w in (prefix, own, new))
  low = lambda weights: weights.astype(v.dtype)
  out = (
    dot('BKnGP,BKPH->BKnGH', low(prefix), cache['prefix_v'])
    + dot('BKnGS,BnKSH->BKnGH', low(own), own_v)
    + new * v[:, :, :, None].astype(jnp.float32)
  )
  return (out / total).astype(v.dtype).swapaxes(1, 2).reshape(b, n, heads, h)
