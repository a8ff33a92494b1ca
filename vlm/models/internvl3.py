"""InternVL3 (arXiv 2504.10479): InternViT, pixel shuffle, Qwen2.5 decoder.

Two by two neighbouring patches become one visual token, so that a tile of
448 x 448 pixels is 256 tokens. Which tiles an image has is decided on the host
(`tiles.py`); here it is one gather.
"""

import dataclasses
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from vlm.models import layers
from vlm.models.functional import Params, Runtime
from vlm.models.internvit import InternVit, InternVitConfig
from vlm.models.ntk import DynamicNTK
from vlm.models.partition import constrain
from vlm.models.qwen2 import Decoder, Qwen2Config
from vlm.models.visual import VisionLanguageModel, VisualTokens, gather

PROJECTOR_EPS = 1e-5  # fixed in the published classes


@dataclasses.dataclass(frozen=True)
class InternVL3Config:
  """Facts of a checkpoint.

  Attributes:
    vision: of the tower.
    decoder: of the decoder.
    image_token: the placeholder of every visual token (<IMG_CONTEXT>).
    shuffle: patches along one side of a visual token.
  """

  vision: InternVitConfig = InternVitConfig()
  decoder: Qwen2Config = Qwen2Config()
  image_token: int = 151667
  shuffle: int = 2
  model_type: str = 'internvl'

  @property
  def video_token(self) -> int:
    """Frames stand in the prompt as images do."""
    return self.image_token

  @property
  def side(self) -> int:
    """Visual tokens along one side of a tile."""
    return self.vision.side // self.shuffle

  @property
  def tile_tokens(self) -> int:
    """Visual tokens of a tile."""
    return self.side**2

  @classmethod
  def from_hf(cls, config: dict[str, Any]) -> 'InternVL3Config':
    """Reads HF's `config.json` (model_type internvl, the '-hf' checkpoints).

    Raises:
      ValueError: for a choice that is not supported, by its key.
    """
    vision = InternVitConfig.from_hf(config['vision_config'])
    text = config['text_config']
    for key, default, supported in (
      ('vision_feature_layer', -1, -1),
      ('vision_feature_select_strategy', 'default', 'default'),
      ('projector_hidden_act', 'gelu', 'gelu'),
    ):
      if (found := config.get(key, default)) != supported:
        raise ValueError(
          f'config.json: {key} is {found!r}, supported: {supported!r}'
        )
    ratio = config.get('downsample_ratio', 0.5)
    shuffle = round(1 / ratio)
    if shuffle * ratio != 1 or vision.side % shuffle:
      raise ValueError(
        f'config.json: downsample_ratio is {ratio}, expected 1 over a divisor '
        f'of {vision.side} (patches along one side of a tile)'
      )
    # Files written by transformers 4 say it for the decoder alone; where both
    # levels speak, transformers follows the upper one.
    tied = config.get('tie_word_embeddings', text.get('tie_word_embeddings'))
    return cls(
      vision=vision,
      decoder=Qwen2Config.from_hf(text | {'tie_word_embeddings': tied}),
      image_token=config.get('image_token_id', 151667),
      shuffle=shuffle,
    )


def published(size: str) -> InternVL3Config:
  """Facts of OpenGVLab/InternVL3-{1b,2b,8b,14b}-hf.

  With them a job can be compiled and sized before anything is downloaded;
  loading checks them against the checkpoint's own config.json.
  """
  width, depth, heads, kv_heads, head_dim, mlp_width = {
    '1b': (896, 24, 14, 2, 64, 4864),
    '2b': (1536, 28, 12, 2, 128, 8960),
    '8b': (3584, 28, 28, 4, 128, 18944),
    '14b': (5120, 48, 40, 8, 128, 13824),
  }[size]
  decoder = Qwen2Config(
    vocab_size=151674,
    width=width,
    depth=depth,
    heads=heads,
    kv_heads=kv_heads,
    head_dim=head_dim,
    mlp_width=mlp_width,
    tied_head=False,
    rope_scaling=DynamicNTK(2.0, 32768),
  )
  return InternVL3Config(decoder=decoder)


def pixel_shuffle(
  x: Float[Array, 'B P C'], side: int, shuffle: int
) -> Float[Array, 'B M E']:
  """Puts the patches of a block of `shuffle`^2 side by side, row by row.

  Args:
    x: features of a tile's side^2 patches.
    side: patches along one side of a tile.
    shuffle: patches along one side of a block.

  Returns:
    [B, (side / shuffle)^2, shuffle^2 * C].
  """
  b, _, c = x.shape
  blocks = side // shuffle
  x = x.reshape(b, blocks, shuffle, blocks, shuffle, c)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, blocks**2, shuffle**2 * c)


class Projector(nnx.Module):
  """linear_2(gelu(linear_1(norm(x)))) from shuffled patches to the decoder."""

  def __init__(self, wide, width, runtime: Runtime, rngs: nnx.Rngs):
    make = dict(bias=(width,), rngs=rngs, runtime=runtime)
    self.norm = layers.LayerNorm(wide, PROJECTOR_EPS, runtime=runtime)
    self.linear_1 = layers.Einsum('BMC,CD->BMD', (wide, width), **make)
    self.linear_2 = layers.Einsum('BMD,DE->BME', (width, width), **make)

  def __call__(self, x: Float[Array, 'B M C']) -> Float[Array, 'B M D']:
    return self.linear_2(layers.gelu(self.linear_1(self.norm(x))))


class _Modules(nnx.Module):
  def __init__(self, config: InternVL3Config, runtime: Runtime, rngs: nnx.Rngs):
    wide = config.vision.width * config.shuffle**2
    self.vision = InternVit(config.vision, runtime, rngs)
    self.projector = Projector(wide, config.decoder.width, runtime, rngs)
    self.decoder = Decoder(config.decoder, runtime, rngs)


class InternVL3(VisionLanguageModel):
  """Tower, projector and decoder as pure functions of the parameters."""

  modules = _Modules

  def encode_visual(
    self,
    params: Params,
    pixels: jax.Array,
    plan: dict[str, jax.Array],
    with_received: bool = False,
  ) -> VisualTokens:
    """Tiles -> visual tokens in the order of the prompt.

    Args:
      params: the parameters.
      pixels: [B, I, S, S, 3] tiles or frames, uint8 or normalised float.
      plan: what `tiles.plan_tiles` gives, padded: see data/pipeline.py; the
        bank holds the `tile_tokens` projected tokens of each of the row's
        tiles.
      with_received: also compute received attention.

    Returns:
      The visual tokens.

    Raises:
      ValueError: if the tiles have another size than the tower's.
    """
    config, modules = self.config, self._description.bind(params)
    b, tiles = pixels.shape[:2]
    flat = constrain(
      pixels.reshape(b * tiles, *pixels.shape[2:]), 'batch', None, None, None
    )
    x, received = modules.vision(flat, with_received)
    shuffle = lambda x: pixel_shuffle(x, config.vision.side, config.shuffle)
    bank = modules.projector(shuffle(x)).reshape(b, -1, config.decoder.width)
    tokens = constrain(gather(bank, plan), 'batch', None, None)
    if received is not None:
      received = shuffle(received[..., None]).mean(-1).reshape(b, -1, 1)
      received = gather(received, plan)[..., 0]
    return VisualTokens(tokens, plan['valid'], plan['grid'], received)
