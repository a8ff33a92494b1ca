"""Qwen2 decoder; also the Llama, SmolLM2 and Mistral shape (no biases), and
Qwen3's (no biases, normalised queries and keys).

RMSNorm, grouped-query attention with rotary positions, gated SiLU MLP; layers
run under one `lax.scan`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vlm.models import branches, functional, layers, unstacked
from vlm.models.attention import attention, last_row
from vlm.models.functional import Params, Runtime
from vlm.models.inputs import Inputs, taken
from vlm.models.layers import FEW_ROWS
from vlm.models.ntk import DynamicNTK
from vlm.models.partition import constrain
from vlm.models.prune import Prune, Pruning

# Arrays, or tuples of one array per layer (branches.py).
Cache = dict[str, Any]

# What a key that is missing from `config.json` means: nested configurations
# written by transformers 4 leave out every default of their class.
_SHARED = dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32)
HF_DEFAULTS = {
  'qwen2': _SHARED
  | dict(
    vocab_size=151936,
    intermediate_size=22016,
    num_key_value_heads=32,
    max_position_embeddings=32768,
  ),
  'llama': _SHARED
  | dict(
    vocab_size=32000, intermediate_size=11008, max_position_embeddings=2048
  ),
  'mistral': _SHARED
  | dict(
    vocab_size=32000,
    intermediate_size=14336,
    num_key_value_heads=8,
    max_position_embeddings=131072,
    sliding_window=4096,
  ),
}
HF_DEFAULTS['qwen3'] = HF_DEFAULTS['qwen2'] | dict(head_dim=128)
# The decoder inside Qwen3-VL.
HF_DEFAULTS['qwen3_vl_text'] = HF_DEFAULTS['qwen3'] | dict(rope_theta=5e5)
# The decoders inside Qwen2-VL and Qwen2.5-VL: Qwen2 with M-RoPE. Their classes
# have Qwen2-VL-72B's sizes as defaults.
HF_DEFAULTS['qwen2_5_vl_text'] = HF_DEFAULTS['qwen2_5_vl'] = dict(
  vocab_size=152064,
  hidden_size=8192,
  intermediate_size=29568,
  num_hidden_layers=80,
  num_attention_heads=64,
  num_key_value_heads=8,
  rms_norm_eps=1e-5,
)


@dataclasses.dataclass(frozen=True)
class Qwen2Config:
  """Facts of a checkpoint of the Qwen2, Qwen3, Llama or Mistral family."""

  vocab_size: int = 151936
  width: int = 896
  depth: int = 24
  heads: int = 14
  kv_heads: int = 2
  head_dim: int = 64
  mlp_width: int = 4864
  rope_theta: float = 1e6
  norm_eps: float = 1e-6
  qkv_bias: bool = True
  tied_head: bool = True
  mrope_section: tuple[int, ...] = ()
  mrope_interleaved: bool = False
  qk_norm: bool = False
  rope_scaling: DynamicNTK | None = None
  model_type: str = 'qwen2'

  @classmethod
  def from_hf(cls, config: dict[str, Any]) -> 'Qwen2Config':
    """Reads HF's `config.json` (model_type qwen2, qwen3, llama or mistral).

    Raises:
      ValueError: for features this decoder does not have, by name.
    """
    kind = config.get('model_type')
    if kind not in HF_DEFAULTS:
      raise ValueError(
        f'config.json: model_type {kind!r} of the decoder is not supported; '
        f'known: {sorted(HF_DEFAULTS)}'
      )
    config = HF_DEFAULTS[kind] | config
    rope = config.get('rope_parameters') or config.get('rope_scaling') or {}
    scaling = rope.get('rope_type', rope.get('type', 'default'))
    # 'mrope' is the old name of the default with sections.
    supported = 'default', 'mrope'
    if 'mrope_section' not in rope:
      supported = 'default', 'dynamic'
    if scaling not in supported:
      raise ValueError(
        f'config.json: rope type {scaling!r} is not supported by qwen2.py'
      )
    for switch in ('use_sliding_window', 'attention_bias', 'mlp_bias'):
      if config.get(switch):
        raise ValueError(f'config.json: {switch} is not supported')
    if config.get('hidden_act', 'silu') != 'silu':
      raise ValueError(
        f'config.json: hidden_act {config["hidden_act"]!r}, supported: silu'
      )
    # Qwen2 has a switch for its window, Mistral has none.
    window = config.get('sliding_window') if kind == 'mistral' else None
    longest = config.get('max_position_embeddings')
    if window is not None and window < longest:
      raise ValueError(
        f'config.json: sliding_window {window} is not supported, expected null '
        f'or at least max_position_embeddings ({longest})'
      )
    heads = config['num_attention_heads']
    # Qwen3-VL's decoder has these when its config names none.
    sections = (24, 20, 20) if kind == 'qwen3_vl_text' else ()
    theta = rope.get('rope_theta', config.get('rope_theta', 10000.0))
    return cls(
      vocab_size=config['vocab_size'],
      width=config['hidden_size'],
      depth=config['num_hidden_layers'],
      heads=heads,
      kv_heads=config.get('num_key_value_heads') or heads,
      head_dim=config.get('head_dim') or config['hidden_size'] // heads,
      mlp_width=config['intermediate_size'],
      rope_theta=float(theta),
      norm_eps=config.get('rms_norm_eps', 1e-6),
      qkv_bias=kind.startswith('qwen2'),
      tied_head=bool(config.get('tie_word_embeddings', False)),
      mrope_section=tuple(rope.get('mrope_section') or sections),
      mrope_interleaved=kind == 'qwen3_vl_text',
      qk_norm=kind.startswith('qwen3'),
      rope_scaling=(
        DynamicNTK(float(rope['factor']), longest)
        if scaling == 'dynamic'
        else None
      ),
      model_type=kind,
    )


class Attention(nnx.Module):
  """Grouped-query attention with rotary positions."""

  def __init__(self, config: Qwen2Config, runtime: Runtime, rngs: nnx.Rngs):
    d, n, k, h = config.width, config.heads, config.kv_heads, config.head_dim
    make = dict(rngs=rngs, runtime=runtime)
    project = lambda heads: layers.Einsum(
      'BTD,DNH->BTNH',
      (d, heads, h),
      bias=(heads, h) if config.qkv_bias else (),
      **make,
    )
    self.impl = runtime.attention
    self.q, self.k, self.v = project(n), project(k), project(k)
    self.o = layers.Einsum('BTNH,NHD->BTD', (n, h, d), **make)
    if config.qk_norm:
      norm = lambda: layers.RMSNorm(h, config.norm_eps, runtime=runtime)
      self.q_norm, self.k_norm = norm(), norm()
    self.qk_norm = config.qk_norm

  def __call__(self, x, rope, segment_ids, cache):
    q = constrain(self.q(x), 'batch', None, 'heads', None)
    k = constrain(self.k(x), 'batch', None, 'heads', None)
    v = constrain(self.v(x), 'batch', None, 'heads', None)
    if self.qk_norm:
      q, k = self.q_norm(q), self.k_norm(k)
    q, k = layers.apply_rope(q, *rope), layers.apply_rope(k, *rope)
    if branches.is_branched(cache):
      out = branches.attend(q, k, v, segment_ids, cache)
      return self.o(out), (q, k, v)
    ids, kv_ids, index = segment_ids, segment_ids, 0
    if cache is not None:
      index, kv_ids = cache['index'], cache['segment_ids']
      write = jax.lax.dynamic_update_slice_in_dim
      k = write(cache['k'], k.astype(cache['k'].dtype), index, axis=1)
      v = write(cache['v'], v.astype(cache['v'].dtype), index, axis=1)
    out = attention(
      q,
      k,
      v,
      segment_ids=(ids, kv_ids),
      causal=True,
      q_offset=index,
      impl=self.impl,
    )
    return self.o(out), (q, k, v)


class Block(nnx.Module):
  """Pre-norm attention and MLP with residuals."""

  def __init__(self, config: Qwen2Config, runtime: Runtime, rngs: nnx.Rngs):
    norm = lambda: layers.RMSNorm(
      config.width, config.norm_eps, runtime=runtime
    )
    self.attn_norm, self.mlp_norm = norm(), norm()
    self.attn = Attention(config, runtime, rngs)
    self.mlp = layers.GatedMLP(
      config.width, config.mlp_width, rngs=rngs, runtime=runtime
    )

  def __call__(self, x, rope, segment_ids, cache):
    with jax.named_scope('attn'):
      out, qkv = self.attn(self.attn_norm(x), rope, segment_ids, cache)
      x = constrain(x + out, 'batch', None, None)
    with jax.named_scope('mlp'):
      x = constrain(x + self.mlp(self.mlp_norm(x)), 'batch', None, None)
    return x, qkv


class Decoder(nnx.Module):
  """Token embedding, layers, final norm, head."""

  def __init__(self, config: Qwen2Config, runtime: Runtime, rngs: nnx.Rngs):
    self.config, self.runtime = config, runtime
    make = dict(rngs=rngs, runtime=runtime)
    self.embed = layers.Embedding(config.vocab_size, config.width, **make)
    self.layers = functional.stack(
      lambda rngs: Block(config, runtime, rngs), config.depth, rngs
    )
    self.norm = layers.RMSNorm(config.width, config.norm_eps, runtime=runtime)
    if not config.tied_head:
      self.head = layers.Einsum(
        'BTD,DV->BTV', (config.width, config.vocab_size), **make
      )

  def __call__(
    self,
    x: Float[Array, 'B T D'],
    positions: Int[Array, 'B T ...'],
    segment_ids: Int[Array, 'B T'],
    cache: Cache | None = None,
    deepstack: Float[Array, 'L B T D'] | None = None,
    pruning: Pruning | None = None,
  ) -> tuple[Float[Array, 'B S D'], Cache | None]:
    rope = self._rope(positions, segment_ids, cache)
    early, late = branches.staged(cache)
    if pruning is not None and late is None:
      raise ValueError('pruning fills a cache in two parts; use `fill`')
    if late is None:
      x, cache = self._run(x, rope, segment_ids, cache, deepstack)
      return self.norm(x), cache
    cut, depth = branches.depth(early), self.config.depth
    x, early = self._run(x, rope, segment_ids, early, deepstack, (0, cut))
    if pruning is not None:
      q, k = early.pop('q')[-1], early['k'][-1]
      order, segment_ids = pruning.survivors(q, k, segment_ids)
      # Phases stay those of the whole row.
      x, *rope = (taken(part, order) for part in (x, *rope))
      if deepstack is not None:
        deepstack = taken(deepstack, order, axis=2)
    x, late = self._run(x, rope, segment_ids, late, deepstack, (cut, depth))
    return self.norm(x), early | {'late': late}

  def _rope(self, positions, segment_ids, cache):
    """Cosines and sines of every slot."""
    config = self.config
    theta = config.rope_theta
    if config.rope_scaling is not None:
      slots = branches.capacity(cache) if cache else segment_ids.shape[1]
      theta = config.rope_scaling.theta(
        theta, config.head_dim, positions, segment_ids, slots
      )
    return layers.rope_angles(
      positions,
      config.head_dim,
      theta,
      config.mrope_section,
      config.mrope_interleaved,
    )

  def _run(self, x, rope, segment_ids, cache, deepstack, part=None):
    """Runs all layers, or those of `part`, and extends their cache."""
    shared, per_layer = None, None
    if branches.is_branched(cache):
      shared, per_layer = cache, branches.per_layer(cache)
    elif cache is not None:
      ids = jax.lax.dynamic_update_slice_in_dim(
        cache['segment_ids'], segment_ids, cache['index'], axis=1
      )
      shared = {'segment_ids': ids, 'index': cache['index']}
      # A cache with a 'q' asks each layer for its last query as well.
      per_layer = {name: cache[name] for name in 'kvq' if name in cache}

    def apply(block, x, inputs):
      kv, layer = inputs['kv'], inputs['number']
      layer_cache = None if kv is None else shared | kv
      x, (q, k, v) = block(x, rope, segment_ids, layer_cache)
      if deepstack is not None:
        x = x + _of_layer(deepstack, layer).astype(x.dtype)
      if kv is None:
        return x, None
      last = {'q': q[:, -1:]} if 'q' in kv else {}
      return x, {'k': k, 'v': v} | last

    # One loop for all layers: cutting the stack in two would copy it.
    number = None
    if deepstack is not None:
      number = jnp.arange(*(part or (0, self.config.depth)))
    xs = {'kv': per_layer, 'number': number}
    x, kv = functional.scan(self.layers, apply, x, xs, self.runtime, part)
    if branches.is_branched(cache):
      cache = branches.extended(cache, kv)
    elif cache is not None:
      cache = kv | shared | {'index': cache['index'] + x.shape[1]}
    return x, cache

  def head_kernel(self) -> Float[Array, 'D V']:
    if self.config.tied_head:
      return self.embed.embedding[...].T
    return self.head.merged_kernel()


def _of_layer(
  deepstack: Float[Array, 'L B T D'], layer: Int[Array, '']
) -> Float[Array, 'B T D']:
  """What is added after layer 0, 1, ... L - 1; zeros after later layers."""
  count = len(deepstack)
  added = deepstack[jnp.minimum(layer, count - 1)]
  return jnp.where(layer < count, added, 0)


def init_cache(
  config: Qwen2Config, batch: int, length: int, dtype: str, depth: int = 0
) -> Cache:
  """An empty static KV cache of `length` slots per row, for `depth` layers."""
  depth = depth or config.depth
  shape = (depth, batch, length, config.kv_heads, config.head_dim)
  return {
    'k': jnp.zeros(shape, dtype),
    'v': jnp.zeros(shape, dtype),
    'segment_ids': jnp.zeros((batch, length), jnp.int32),
    'index': jnp.zeros((), jnp.int32),
  }


class _Holder(nnx.Module):
  """Gives the decoder its place in the parameter tree."""

  def __init__(self, config: Qwen2Config, runtime: Runtime, rngs: nnx.Rngs):
    self.decoder = Decoder(config, runtime, rngs)


class LanguageModel(functional.Model):
  """The decoder as pure functions of its parameters.

  Args:
    config: facts of the checkpoint; a whole VLM passes its own.
    runtime: execution choices.
    transforms: of visual tokens; see `visual.VisualTransform`.

  Raises:
    ValueError: transforms for a model that only reads.
  """

  modules = _Holder

  def __init__(
    self, config: Any, runtime: Runtime, transforms: tuple[Any, ...] = ()
  ):
    super().__init__(config, runtime)
    self.transforms = self._checked(transforms)

  def _checked(self, transforms: tuple[Any, ...]) -> tuple[Any, ...]:
    if transforms:
      raise ValueError(
        f'{self.config.model_type} reads text only: it has no visual tokens '
        f'for {transforms}'
      )
    return ()

  @property
  def decoder_config(self) -> Qwen2Config:
    """The text decoder's facts; here the whole config."""
    return self.config

  def _decoder(self, params: Params) -> Decoder:
    return self._description.bind(params).decoder

  def embed(
    self, params: Params, tokens: Int[Array, 'B T'], visual=None
  ) -> Float[Array, 'B T D']:
    """Token embeddings."""
    del visual  # Text only: nothing to place.
    x = self._decoder(params).embed(tokens)
    # The table lies over fsdp by width: let the lookup come out that way, or
    # the compiler gathers whole rows and all-reduces the table's gradient.
    x = constrain(x, 'rows', None, 'width')
    return constrain(x, 'batch', None, None)

  def is_placeholder(self, tokens: Int[Array, 'B T']) -> Bool[Array, 'B T']:
    """Where a visual token stands; here nowhere."""
    return jnp.zeros(tokens.shape, bool)

  def said_ids(self, tokens: Int[Array, '... T']) -> Int[Array, '... T']:
    """Segment ids of tokens said behind a prompt; see `attention.sees`."""
    return jnp.ones_like(tokens)

  def decode(
    self,
    params: Params,
    x: Float[Array, 'B T D'],
    positions: Int[Array, 'B T ...'],
    segment_ids: Int[Array, 'B T'],
    cache: Cache | None = None,
    deepstack: Float[Array, 'L B T D'] | None = None,
    pruning: Pruning | None = None,
  ) -> tuple[Float[Array, 'B S D'], Cache | None]:
    """Runs the layers; with a cache, appends at its index.

    With a cache of `branches.begin`, the second axis counts samples of a
    prompt instead of tokens. Positions are [B, T], or [B, T, 3] where the
    checkpoint has M-RoPE. Of `deepstack`, entry l is added to what leaves layer
    l (arXiv 2406.04334). `pruning` needs the cache that `fill` makes, and the
    S tokens that survive it come out; else all T do.
    """
    return self._decoder(params)(
      x, positions, segment_ids, cache, deepstack, pruning
    )

  def unstacked(self, params: Params) -> Params:
    """Parameters with the layers laid out for decoding; see unstacked.py."""
    layers = unstacked.unstack(
      self._decoder(params).layers, self.decoder_config.depth
    )
    return params | {'decoder': params['decoder'] | {'layers': layers}}

  def head_kernel(self, params: Params) -> Float[Array, 'D V']:
    """The output head, tied or not."""
    return self._decoder(params).head_kernel()

  def logits(
    self, params: Params, hidden: Float[Array, 'B T D']
  ) -> Float[Array, 'B T V']:
    """float32 logits; training uses the chunked losses instead."""
    config = self.decoder_config
    if config.tied_head and hidden.shape[0] * hidden.shape[1] <= FEW_ROWS:
      table = self._decoder(params).embed.embedding[...]
      head = layers.OutputsFirst(table, 1, (config.vocab_size,))
      return head(hidden, jnp.float32)
    return jnp.einsum(
      'BTD,DV->BTV',
      hidden,
      self.head_kernel(params).astype(hidden.dtype),
      preferred_element_type=jnp.float32,
    )

  @property
  def prune(self) -> Prune | None:
    """What a transform wants pruned inside the decoder."""
    return None

  def init_cache(self, batch: int, length: int) -> Cache:
    """An empty cache in the compute dtype."""
    return init_cache(self.decoder_config, batch, length, self.runtime.dtype)

  def lengths(self, batch: dict[str, Any]) -> tuple[int, int]:
    """Tokens per row in the decoder's first and in its last layers."""
    return (batch['tokens'].shape[1],) * 2

  def inputs(self, params: Params, batch: dict) -> Inputs:
    """What enters the first layer.

    Args:
      params: the parameters.
      batch: tokens, positions, segment_ids, and pixels and plan for a model
        that sees (see data/pipeline.py).
    """
    x = self.embed(params, batch['tokens'])
    return Inputs(x, batch['positions'], batch['segment_ids'])

  def run(self, params: Params, inputs: Inputs) -> Float[Array, 'B T D']:
    """Hidden states of whole rows, as training needs them.

    Nothing is pruned: packed samples have no last token that could say what.
    """
    return self.decode(params, *inputs[:3], deepstack=inputs.deepstack)[0]

  def fill(
    self, params: Params, inputs: Inputs, with_queries: bool = False
  ) -> tuple[Float[Array, 'B T D'], Cache]:
    """Hidden states of prompts that end together, and the cache they fill.

    Where the model's transforms prune, later layers see fewer tokens: the
    hidden states are those of the survivors, and the cache has a part 'late'.

    Args:
      params: the parameters.
      inputs: of `inputs`.
      with_queries: also keep each row's last query of every layer, as 'q'.
    """
    config, (rows, length) = self.decoder_config, inputs.segment_ids.shape
    make = lambda slots, depth: init_cache(
      config, rows, slots, self.runtime.dtype, depth
    )
    ask = lambda depth: {'q': jnp.zeros(depth)}
    pruning = None
    cache = make(length, config.depth)
    if with_queries:
      cache |= ask(config.depth)
    elif inputs.prunable is not None:
      pruning = Pruning(self.prune, inputs.prunable)
      cut = pruning.prune.layer
      late = make(pruning.length(length), config.depth - cut)
      cache = make(length, cut) | ask(cut) | {'late': late}
    deepstack = inputs.deepstack
    return self.decode(params, *inputs[:3], cache, deepstack, pruning)

  def hidden(self, params: Params, batch: dict) -> Float[Array, 'B T D']:
    """Hidden states of a batch; of what is left of it after transforms."""
    return self.run(params, self.inputs(params, batch))

  def attention_of(
    self, params: Params, batch: dict
  ) -> Float[Array, 'L B N T']:
    """How each row's last token attends, in every layer and head.

    Args:
      params: the parameters.
      batch: as of `inputs`; its rows end together, as prompts do.

    Returns:
      float32 weights over the row's tokens that sum to 1; 0 on padding. Nothing
      is pruned.
    """
    inputs = self.inputs(params, batch)
    filled = self.fill(params, inputs, with_queries=True)[1]
    rows = lambda q, k: last_row(q, k, inputs.segment_ids)
    return jax.vmap(rows)(filled['q'], filled['k'])
