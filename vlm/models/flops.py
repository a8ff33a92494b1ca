"""Analytic FLOPs and bytes of a model, per block, from its config and shapes.

XLA's `cost_analysis` counts the body of a scan once, so the layers are counted
here and multiplied. A product [m, k] x [k, n] is 2 m k n FLOPs. Norms,
activations and rotary angles are left out: below 1 % at the sizes of interest.
A test holds these figures against `cost_analysis` of an unrolled model.

Legend: B rows, T tokens, I tiles, P patches, D width, N heads, K kv heads,
H head dim, F ffn, V vocab.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

# Families whose towers have gated MLPs: three matrices instead of two.
GATED = ('llava', 'qwen2_5_vl')


@dataclasses.dataclass(frozen=True)
class Block:
  """One of `count` equal blocks; figures are of one forward pass of one block.

  Attributes:
    part: 'vision', 'projector', 'decoder' or 'head'; of CLIP, 'vision' or
      'text'; of a region encoder, 'regions'.
    count: how many there are.
    products: FLOPs of the products with weights, over the whole batch.
    attention: FLOPs of scores and weighted sums, over the whole batch.
    weights: elements of its weight matrices.
    activations: elements its products read and write, over the whole batch.
    remat: whether `Runtime.remat` covers it; the head is always recomputed.
    first: reads the batch alone, so that no gradient goes further back.
  """

  part: str
  count: int
  products: int
  attention: float | int
  weights: int
  activations: int
  remat: bool = True
  first: bool = False

  @property
  def forward(self) -> float | int:
    """FLOPs of one forward pass of one block."""
    return self.products + self.attention


def blocks(
  config: Any, batch: Mapping[str, Any], *, visible_only: bool = True
) -> list[Block]:
  """Counts the blocks of a model, in the order in which they run.

  Args:
    config: frozen config of a decoder, of a model with `vision` and `decoder`
      (a whole VLM), of a CLIP, or of MASK's region encoder.
    batch: arrays (or anything with `shape`) under 'tokens' [B, T] and, with a
      tower, 'pixels': tiles [B, I, S, S, 3], or patches [B, S, V] and 'plan';
      for a CLIP pictures [B, S, S, 3], and either may be missing. Maybe
      'scored' [B, S], the positions
      the head sees instead of all. The rows of pixels may be fewer: each is
      encoded once. Of regions, 'regions' [B, I, M], and 'words' [B, I] where
      they are trained by their words.
    visible_only: count the half of causal attention that is visible (what the
      TPU kernel computes); otherwise all of it (what plain XLA computes).

  Returns:
    The blocks.

  Raises:
    ValueError: for a model whose tower is not counted.
  """
  if 'regions' in batch:
    return _regions(config, batch)
  if config.model_type == 'clip':
    return _two_towers(config, batch, visible_only)
  decoder = getattr(config, 'decoder', config)
  found = []
  if hasattr(config, 'vision') and 'pixels' in batch:
    found += _tower(config, batch)
  rows, length = batch['tokens'].shape
  keys = (length + 1) / 2 if visible_only else length
  scored = math.prod(batch.get('scored', batch['tokens']).shape)
  return found + _decoder(decoder, rows * length, keys, scored)


def _decoder(config, tokens, keys, scored) -> list[Block]:
  d, f = config.width, config.mlp_width
  queries = config.heads * config.head_dim
  pairs = config.kv_heads * config.head_dim
  weights = 2 * d * queries + 2 * d * pairs + 3 * d * f
  moved = (
    (4 * d + 2 * queries + 2 * pairs)  # q, k, v, o
    + (2 * queries + 2 * pairs)  # attention, scores stay on the chip
    + (3 * d + 3 * f)  # gate, up, down
  )
  layer = Block(
    part='decoder',
    count=config.depth,
    products=2 * tokens * weights,
    attention=4 * tokens * keys * queries,
    weights=weights,
    activations=tokens * moved,
  )
  head = config.width * config.vocab_size
  return [
    layer,
    Block(
      part='head',
      count=1,
      products=2 * scored * head,
      attention=0,
      weights=head,
      activations=scored * (config.width + config.vocab_size),
      remat=False,
    ),
  ]


def _tower(config, batch) -> list[Block]:
  """Patch embedding, blocks and projector, of tiles or of patches in slots.

  A row of patches is one sequence: without the structure of its images, every
  slot sees every slot, which is also what both kernels compute.
  """
  vision, pixels = config.vision, batch['pixels'].shape
  d, f, rows = vision.width, vision.mlp_width, pixels[0]
  if len(pixels) == 3:
    length, sequences, values = pixels[1], rows, pixels[2]
    patches = rows * length
  else:
    length, sequences = vision.length, rows * pixels[1]
    patches, values = sequences * vision.side**2, 3 * vision.patch**2
  matrices = 3 if config.model_type in GATED else 2
  tokens = sequences * length
  weights = 4 * d * d + matrices * d * f
  layer = Block(
    part='vision',
    count=vision.depth,
    products=2 * tokens * weights,
    attention=4 * tokens * _attended(vision, length) * d,
    weights=weights,
    activations=tokens * (12 * d + matrices * (d + f)),
  )

  return [
    _dense('vision', 1, patches, values, d),
    layer,
    _projector(config, batch),
  ]


def _two_towers(config, batch, visible_only: bool) -> list[Block]:
  """CLIP's towers and what projects one vector of each row; maybe just one."""
  found = []
  if 'pixels' in batch:
    rows, vision = batch['pixels'].shape[0], config.vision
    patches, values = vision.side**2, 3 * vision.patch**2
    first = _dense('vision', 1, rows * patches, values, vision.width)
    found += [
      dataclasses.replace(first, first=True),
      _encoder('vision', vision, rows * (1 + patches), 1 + patches),
      _dense('vision', 1, rows, vision.width, config.embedding),
    ]
  if 'tokens' in batch:
    (rows, length), text = batch['tokens'].shape, config.text
    keys = (length + 1) / 2 if visible_only else length
    # What stands before it is a table.
    tower = _encoder('text', text, rows * length, keys)
    found += [
      dataclasses.replace(tower, first=True),
      _dense('text', 1, rows, text.width, config.embedding),
    ]
  return found


def _regions(config, batch) -> list[Block]:
  """The networks of vlm/methods/mask, and the products of their losses."""
  rows, regions, m = batch['regions'].shape
  z, n, tokens = config.latent, config.words, rows * regions
  keys = regions if config.context == 'image' else 1

  def attention(count: int, width: int) -> Block:
    return Block(
      part='regions',
      count=count,
      products=2 * tokens * 4 * width * width,
      attention=4 * tokens * keys * width,
      weights=4 * width * width,
      activations=tokens * 12 * width,
      remat=False,
    )

  dense = lambda *sizes: _dense('regions', 1, tokens, *sizes)
  found = [dense(m, z), attention(config.depth, z)]
  if 'words' not in batch:
    return found
  # Codes with prototypes, and among each other; predicted words likewise.
  compared = Block(
    'regions', 1, 0, 2 * tokens**2 * (2 * z + n), 0, 0, remat=False
  )
  return [
    *found,
    *(dense(z, z), dense(z, z), attention(1, z), dense(z, m)),
    *(dense(z, n), attention(3, n), dense(n, n), dense(n, n)),
    compared,
  ]


def _encoder(part: str, tower, tokens: int, keys: float | int) -> Block:
  """The layers of a plain tower whose tokens see `keys` tokens each."""
  d, f = tower.width, tower.mlp_width
  weights = 4 * d * d + 2 * d * f
  return Block(
    part=part,
    count=tower.depth,
    products=2 * tokens * weights,
    attention=4 * tokens * keys * d,
    weights=weights,
    activations=tokens * (12 * d + 2 * (d + f)),
  )


def _attended(vision, length: int) -> float | int:
  """Slots a slot sees, averaged over the blocks of a tower."""
  full = getattr(vision, 'full_blocks', None)
  if full is None:
    return length
  windows = vision.depth - len(full)
  return (len(full) * length + windows * vision.layout.slots) / vision.depth


def _projector(config, batch) -> Block:
  """From the tower's width to the decoder's; mergers take whole blocks."""
  vision, pixels = config.vision, batch['pixels'].shape
  d, width = vision.width, config.decoder.width
  if hasattr(vision, 'merge'):
    merged, out = vision.merge**2 * d, vision.out_width
    mergers = 1 + len(getattr(vision, 'deepstack_blocks', ()))
    tokens = math.prod(pixels[:2]) // vision.merge**2
    return _dense('projector', mergers, tokens, merged, merged, out)
  if len(pixels) == 3:
    tokens = math.prod(batch['plan']['token'].shape)
    return _dense('projector', 1, tokens, d, width, width)
  tiles = math.prod(pixels[:2])
  # What is projected has the width of the patches it is made of.
  wide = d * vision.side**2 // config.tile_tokens
  return _dense('projector', 1, tiles * config.tile_tokens, wide, width, width)


def _dense(part: str, count: int, tokens: int, *sizes: int) -> Block:
  """`count` chains of dense layers from one size to the next."""
  shapes = list(itertools.pairwise(sizes))
  total = sum(a * b for a, b in shapes)
  return Block(
    part=part,
    count=count,
    products=2 * tokens * total,
    attention=0,
    weights=total,
    activations=tokens * sum(a + b for a, b in shapes),
    remat=False,
  )


def forward_flops(
  config: Any, batch: Mapping[str, Any], *, visible_only: bool = True
) -> float:
  """FLOPs of one forward pass over the whole batch; see `blocks`."""
  found = blocks(config, batch, visible_only=visible_only)
  return float(sum(block.count * block.forward for block in found))


def train_flops(
  config: Any,
  batch: Mapping[str, Any],
  *,
  frozen: tuple[str, ...] = (),
  visible_only: bool = True,
) -> float:
  """Model FLOPs of one training step, the numerator of MFU.

  Forward plus twice that backward (gradients of activations and of weights).
  Recomputation is not counted (PaLM, arXiv 2204.02311, appendix B). A frozen
  part has no weight gradients, and no backward pass at all when everything
  before it is frozen too.

  Args:
    config: see `blocks`.
    batch: see `blocks`.
    frozen: names of frozen parts, such as 'vision'.
    visible_only: see `blocks`.
  """
  total = 0.0
  for block, backward, gradient in _passes(
    blocks(config, batch, visible_only=visible_only), frozen
  ):
    # Attention has no weights: its whole backward pass is activations'.
    total += block.count * (
      block.products * (1 + backward + gradient)
      + block.attention * (1 + 2 * backward)
    )
  return total


def hardware_flops(
  config: Any,
  batch: Mapping[str, Any],
  *,
  remat: str,
  frozen: tuple[str, ...] = (),
  visible_only: bool = True,
) -> float:
  """FLOPs the chips execute in one training step: model plus recomputed.

  Args:
    config: see `blocks`.
    batch: see `blocks`.
    remat: `Runtime.remat`.
    frozen: see `train_flops`.
    visible_only: see `blocks`.
  """
  total = train_flops(config, batch, frozen=frozen, visible_only=visible_only)
  for block, backward, _ in _passes(
    blocks(config, batch, visible_only=visible_only), frozen
  ):
    if backward:
      total += block.count * _recomputed(block, remat)
  return total


def _recomputed(block: Block, remat: str) -> float | int:
  """FLOPs of one block that run again in the backward pass."""
  if block.part == 'head':
    return block.forward  # the chunked loss keeps no logits
  if not block.remat or remat == 'none':
    return 0
  return block.forward if remat == 'block' else block.attention


def _passes(found: list[Block], frozen: tuple[str, ...]):
  """Yields (block, has a backward pass, has weight gradients)."""
  reached = False
  for block in found:
    gradient = block.part not in frozen
    reached = gradient or (reached and not block.first)
    yield block, int(reached), int(gradient)


def hbm_bytes(
  config: Any,
  batch: Mapping[str, Any],
  *,
  batch_ways: int,
  tensor_ways: int,
  remat: str,
  train: bool,
  accumulate: int = 1,
  itemsize: int = 2,
) -> float:
  """A lower bound on the bytes one chip moves to and from its HBM in a step.

  Every operand of a product is read once and every result written once, per
  pass; gathered weights are written and read in each microbatch; AdamW reads
  and writes parameters and two moments and reads the gradient, in float32.

  Args:
    config: see `blocks`.
    batch: see `blocks`; the whole batch of a step.
    batch_ways: shards of the batch, data x fsdp.
    tensor_ways: shards of heads, ffn columns and vocabulary.
    remat: `Runtime.remat`.
    train: a training step, otherwise a forward pass.
    accumulate: microbatches.
    itemsize: bytes per element of the compute dtype.
  """
  found = blocks(config, batch)
  total = 0.0
  for block in found:
    again = int(train and (block.part == 'head' or remat == 'block'))
    passes = 1 + again + 2 * train
    weights = block.weights / tensor_ways
    moved = block.activations / (batch_ways * tensor_ways)
    total += block.count * itemsize * passes * moved
    total += (
      block.count * itemsize * (passes - train) * accumulate * 2 * weights
    )
    # The gradient of a whole layer is written before it is scattered.
    total += block.count * itemsize * train * accumulate * weights
  if train:
    held = sum(block.count * block.weights for block in found)
    total += 7 * 4 * held / (batch_ways * tensor_ways)
  return total
