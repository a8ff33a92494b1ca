"""What a decoder does with fewer visual tokens: tokens, FLOPs, compression.

FLOPs are of the prefill of visual tokens alone, by two published formulas. Per
layer, n tokens, width d, heads h, key-value heads g, MLP width m:

  eq. 12 of FlashVID, multiply-accumulates
    2 n d^2 (1 + g / h) + 2 n^2 d + 3 n d m
  what its tables print, FLOPs
    2 (2 n d^2 (1 + g / h) + 4 n^2 d + 3 n d m)

The second doubles the attention term once more. `vlm.models.flops` counts what
a whole model of ours computes.
"""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class DecoderShape:
  """What the formulas need of a decoder.

  Attributes:
    depth: L, layers.
    width: d.
    mlp_width: m.
    heads: h.
    kv_heads: g.
  """

  depth: int
  width: int
  mlp_width: int
  heads: int
  kv_heads: int

  @classmethod
  def of(cls, config: Any) -> 'DecoderShape':
    """Of a decoder's frozen config."""
    names = [field.name for field in dataclasses.fields(cls)]
    return cls(**{name: getattr(config, name) for name in names})


def tokens_per_layer(
  depth: int, entering: int, layer: int | None = None, kept: int = 0
) -> np.ndarray:
  """Visual tokens that each layer sees: M in front of layer K, R_in from it on.

  Args:
    depth: L.
    entering: M, tokens that enter the decoder.
    layer: K, in front of which tokens are left out; None if none are.
    kept: R_in, tokens that stay.

  Returns:
    int64 [L].

  Raises:
    ValueError: a layer outside of the decoder, or more kept than entered.
  """
  found = np.full(depth, entering, np.int64)
  if layer is None:
    return found
  if not 0 < layer < depth or not 0 <= kept <= entering:
    raise ValueError(
      f'{kept} of {entering} tokens kept from layer {layer} of {depth} on; '
      'expected a layer inside the decoder and no more tokens than entered'
    )
  found[layer:] = kept
  return found


def macs(tokens: np.ndarray, shape: DecoderShape) -> float:
  """Multiply-accumulates by eq. 12, summed over layers.

  Args:
    tokens: [L] visual tokens that each layer sees.
    shape: of the decoder.
  """
  projections, attention, mlp = _terms(tokens, shape)
  return float(np.sum(projections + attention + mlp))


def printed_flops(tokens: np.ndarray, shape: DecoderShape) -> float:
  """FLOPs as the published tables count them; see the module's docstring."""
  projections, attention, mlp = _terms(tokens, shape)
  return float(np.sum(2 * (projections + 2 * attention + mlp)))


def _terms(tokens: np.ndarray, shape: DecoderShape):
  n, d = np.asarray(tokens, np.float64), shape.width
  projections = 2 * n * d**2 * (1 + shape.kv_heads / shape.heads)
  return projections, 2 * n**2 * d, 3 * n * d * shape.mlp_width


def compression(tokens: np.ndarray, full: int) -> float:
  """Share of the `full` visual tokens that a layer sees on average.

  Methods are compared at equal shares: those that prune late keep all tokens
  in their first layers.
  """
  return float(np.mean(tokens) / full)
