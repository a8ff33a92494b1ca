"""How many tokens a share is: host tables in double, and equal averages.

Products of a share and a count are rounded on the host in double precision;
what is traced only reads the tables.
"""

import jax
import jax.numpy as jnp
import numpy as np

PUBLISHED_DEPTH = 28  # Qwen2-7B; the layers papers name are layers out of 28.


def shared(share: float, counts):
  """round(share * count), at least 1 where count is; int32 like `counts`."""
  counts = np.asarray(counts)
  rounded = np.rint(share * counts)
  return np.maximum(rounded, np.minimum(counts, 1)).astype(np.int32)


def floored(share: float, counts):
  """int(share * count), int32; forgives the last bits of a double."""
  return np.floor(share * np.asarray(counts) + 1e-9).astype(np.int32)


def places(frames: int, tokens: int) -> np.ndarray:
  """int64 [frames + 1, tokens + 1]: tokens of a video of f x n."""
  return np.outer(np.arange(frames + 1), np.arange(tokens + 1))


def at(table: np.ndarray, *counts) -> jax.Array:
  """An entry of a host table, at traced counts."""
  return jnp.asarray(table)[counts]


def scaled_layer(layer: int, depth: int) -> int:
  """A layer out of 28 in a decoder of `depth` layers, in 1 .. depth - 1."""
  if depth < 2:
    raise ValueError(
      f'depth: a prune inside the decoder needs at least 2 layers, got {depth}'
    )
  return min(max(1, round(layer * depth / PUBLISHED_DEPTH)), depth - 1)


def expansion(layer: int, share: float, depth: int) -> float:
  """M / (R F N) for which the average over layers is R.

  `layer` layers see M tokens and the others share * M, so (K M + (L - K) r M) /
  L = R F N.
  """
  return depth / (layer + (depth - layer) * share)


def share_after(retention: float, layer: int, depth: int) -> float:
  """r for which K layers of all tokens and L - K of r of them average to R.

  Raises:
    ValueError: when the first K layers alone cost more than R.
  """
  if retention * depth <= layer:
    raise ValueError(
      f'retention {retention} averaged over {depth} layers is spent by the '
      f'{layer} that see every token: expected more than {layer / depth:.3f}, '
      + ('or layer=1' if layer > 1 else 'or a method that acts before it')
    )
  return (retention * depth - layer) / (depth - layer)
