"""How many tokens go where (spec: budgets; appendix C.3)."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from vlm.methods.flashvid.segments import Segments


class Budget(NamedTuple):
  """Tokens per frame; row n is for frames of n tokens. int32 [N + 1] each.

  Attributes:
    total: b = ceil(n R f_e), at most n.
    selected: K1 = ceil(b alpha).
    merged: K2 = b - K1.
  """

  total: np.ndarray
  selected: np.ndarray
  merged: np.ndarray


@functools.cache
def budget(
  retention: float, expansion: float, alpha: float, tokens: int
) -> Budget:
  """Tables for frames of up to `tokens` tokens, in the host's doubles.

  A product in float32 is not the ceiling of the double's, and a padded video
  has fewer tokens per frame than the batch's shape says.
  """
  total = [
    min(math.ceil(n * retention * expansion), n) for n in range(tokens + 1)
  ]
  selected = [math.ceil(b * alpha) for b in total]
  total, selected = np.int32(total), np.int32(selected)
  return Budget(total, selected, total - selected)


def pruned_share(depth: int, layer: int, expansion: float) -> float | None:
  """r = (L - f_e K) / (f_e (L - K)) (eq. 15); None where nothing is pruned.

  Raises:
    ValueError: r is not between 0 and 1.
  """
  if expansion == 1:
    return None
  share = (depth - expansion * layer) / (expansion * (depth - layer or 1))
  if not 1 <= layer < depth or not 0 < share < 1:
    raise ValueError(
      f'flashvid.layer={layer} in a decoder of {depth} layers, with '
      f'flashvid.expansion={expansion}: expected at least 1 and less than '
      f'{depth / expansion:.4g} (depth / expansion), so that the tokens kept '
      'behind it can make retention the mean over layers; set --flashvid.layer'
    )
  return share


def exact_counts(
  candidates: Int[Array, ' F'], wanted: Int[Array, ' F'], segments: Segments
) -> Int[Array, ' F']:
  """Clusters per frame that add up to `wanted` in every segment.

  One for each frame with candidates, as the released code's ceil gives too, so
  that no tree is lost; the rest in proportion to the remaining candidates, by
  largest remainder, earlier frames first.

  Args:
    candidates: n_f.
    wanted: K2 L_s of each frame's segment; at most the segment's candidates
      and at least its frames, or 0.
    segments: which frames belong together.
  """
  one = ((candidates > 0) & (wanted > 0)).astype(jnp.int32)
  rest = jnp.where(wanted > 0, candidates - one, 0)
  seats = wanted - segments.total(one)
  # Fits: a share of F N tokens times N.
  product = rest.astype(jnp.uint32) * seats.astype(jnp.uint32)
  whole = jnp.maximum(segments.total(rest), 1).astype(jnp.uint32)
  quota = (product // whole).astype(jnp.int32)
  remainder = (product % whole).astype(jnp.int32)
  left = seats - segments.total(quota)
  return one + quota + (segments.rank(-remainder) < left)


def released_counts(
  candidates: Int[Array, ' F'], wanted: Int[Array, ' F'], segments: Segments
) -> Int[Array, ' F']:
  """ceil(n_f rho) with rho = K2 L_s / sum n, as doubles give it."""
  whole = jnp.maximum(segments.total(candidates), 1)
  product = candidates.astype(jnp.uint32) * wanted.astype(jnp.uint32)
  divisor = whole.astype(jnp.uint32)
  quotient, remainder = product // divisor, product % divisor
  above = (remainder > 0) | _double_exceeds(candidates, wanted, whole, quotient)
  count = quotient.astype(jnp.int32) + above
  return jnp.where(wanted < whole, count, candidates)


def _double_exceeds(
  n: Int[Array, ' F'],
  wanted: Int[Array, ' F'],
  whole: Int[Array, ' F'],
  quotient: jax.Array,
) -> jax.Array:
  """Whether n * (wanted / whole) in doubles is above its whole-number value.

  With s such that whole <= wanted 2^s < 2 whole, the double wanted / whole has
  its last bit at 2^-(s + 52). It is rounded up by (whole - r) / whole of that
  bit where r = wanted 2^(s + 52) mod whole is above whole / 2; times n, that
  survives if it is more than half the last bit of the quotient.
  """
  u = lambda x: x.astype(jnp.uint32)
  n, whole = u(n), u(whole)

  def double(_, carry):
    value, shift = carry
    small = value < whole
    return jnp.where(small, 2 * value, value), shift + small

  start = u(jnp.maximum(wanted, 1)), jnp.zeros_like(whole)
  value, shift = jax.lax.fori_loop(0, 31, double, start)
  r = jax.lax.fori_loop(0, 52, lambda _, r: (2 * r) % whole, value % whole)
  bit = 31 - jax.lax.clz(jnp.maximum(quotient, 1))
  half = (jnp.uint32(1) << (bit + shift)) // 2
  return (2 * r > whole) & (n * (whole - r) > whole * half)
