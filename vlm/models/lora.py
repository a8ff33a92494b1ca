"""Low-rank adapters (LoRA, arXiv 2106.09685) as an overlay on the parameters.

Beside a kernel W of the base model stand `lora_a` [inputs, r] and `lora_b`
[r, outputs], both float32; the layer then computes x W + (alpha / r) (x A) B.
B starts at zero, so a fresh overlay changes nothing. Base weights load as ever,
`merge` gives back a tree of the base model, and one optimiser rule freezes it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

NAMES = ('lora_a', 'lora_b')

# Optimiser rule that leaves only adapters to train.
FREEZE_BASE = (r'(?!.*/lora_[ab]$).*', {'freeze': True})


@dataclasses.dataclass(frozen=True)
class Lora:
  """Which kernels get adapters.

  Attributes:
    rank: r.
    alpha: the adapters' output is scaled by alpha / r.
    targets: regex of whole module paths, without '/kernel'.
  """

  rank: int = 16
  alpha: float = 32.0
  targets: str = r'decoder/layers/(attn|mlp)/.*'

  def __post_init__(self):
    if self.rank < 1:
      raise ValueError(
        f'lora rank {self.rank}, expected at least 1; set '
        '--config.model.lora.rank'
      )

  @property
  def scale(self) -> float:
    """alpha / r."""
    return self.alpha / self.rank


def merge(params: dict[str, Any], lora: Lora) -> dict[str, Any]:
  """The base model's parameters with the adapters added to their kernels.

  The sum is taken in float32 and rounded once.
  """
  merged = {}
  for name, value in params.items():
    if isinstance(value, dict):
      merged[name] = merge(value, lora)
    elif name == 'kernel' and 'lora_a' in params:
      low, high = params['lora_a'], params['lora_b']
      merged[name] = add(value, low, high, lora.scale)
    elif name not in NAMES:
      merged[name] = value
  return merged


def adapters(params: dict[str, Any]) -> dict[str, Any]:
  """The tree of the adapters alone; branches without any vanish."""
  found = {}
  for name, value in params.items():
    if isinstance(value, dict):
      value = adapters(value)
    elif name not in NAMES:
      continue
    if not isinstance(value, dict) or value:
      found[name] = value
  return found


def strip(params: dict[str, Any]) -> dict[str, Any]:
  """The tree of the base model alone."""
  return {
    name: strip(value) if isinstance(value, dict) else value
    for name, value in params.items()
    if name not in NAMES
  }


def overlay(base: dict[str, Any], laid: dict[str, Any]) -> dict[str, Any]:
  """The base model's parameters with the tree of adapters laid over them."""
  merged = dict(base)
  for name, value in laid.items():
    nested = isinstance(value, dict)
    merged[name] = overlay(base[name], value) if nested else value
  return merged


def draw(model: Any, key: jax.Array, shardings: Any = None) -> dict[str, Any]:
  """Fresh adapters of a model; its other parameters are never made.

  Args:
    model: built with `Runtime(lora=...)`.
    key: of the draw.
    shardings: tree like `model.abstract_params`, or None.
  """
  only = lambda key: adapters(model.init(key))
  where = None if shardings is None else adapters(shardings)
  return jax.jit(only, out_shardings=where)(key)


def add(kernel, a, b, scale: float) -> jax.Array:
  """kernel [L.., inputs, outputs] + scale * a [L.., inputs, r] b [L.., r, ..].

  How many axes are layers, inputs and outputs follows from the three ranks.
  """
  outputs = kernel.ndim - (a.ndim - 1)
  lead = b.ndim - 1 - outputs
  shape = kernel.shape[:lead]
  a = a.reshape(*shape, -1, a.shape[-1]).astype(jnp.float32)
  b = b.reshape(*shape, b.shape[lead], -1).astype(jnp.float32)
  added = (scale * (a @ b)).reshape(kernel.shape)
  return (kernel.astype(jnp.float32) + added).astype(kernel.dtype)
