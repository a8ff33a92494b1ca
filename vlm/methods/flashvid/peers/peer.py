"""What all peers share: checks, padding, R = 1, and the order of the output.

A peer says which places (f, n) stay and what stands there; a token that others
were merged into stands at its own place. The rest is here.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vlm.methods.flashvid.peers import budgets
from vlm.methods.flashvid.reduced import Reduced
from vlm.models.prune import Prune


class Video(NamedTuple):
  """One video as a peer sees it.

  Attributes:
    x: float32 [F, N, D], zero where nothing is.
    attention: float32 [F, N], zero where nothing is, or None.
    live: bool [F, N].
    frames: int32 scalar, frames that are there.
    tokens: int32 scalar, tokens of each of them.
  """

  x: jax.Array
  attention: jax.Array | None
  live: jax.Array
  frames: jax.Array
  tokens: jax.Array


@dataclasses.dataclass(frozen=True)
class Peer:
  """Base of the methods FlashVID is compared with; a `Reducer`.

  Attributes:
    retention: R in (0, 1], the share of visual tokens that stays: for methods
      that act before the decoder the average over its layers too, for those
      that prune inside it see the class and `aligned`. 1 changes nothing.
  """

  retention: float

  needs_attention: ClassVar[bool] = False

  def __post_init__(self):
    self._expect(0 < self.retention <= 1, 'retention', 'a share in (0, 1]')

  def _expect(self, truth: bool, field: str, expected: str) -> None:
    if not truth:
      raise ValueError(
        f'{type(self).__name__}.{field}: expected {expected}, got '
        f'{getattr(self, field)}'
      )

  @classmethod
  def aligned(cls, retention: float, depth: int) -> 'Peer':
    """Settings whose tokens average to R over a decoder of `depth` layers.

    A method without a prune inside the decoder has R in every layer.
    """
    del depth
    return cls(retention)

  def prune(self, depth: int) -> Prune | None:
    """What it does inside a decoder of `depth` layers: nothing here."""
    del depth
    return None

  def room(self, frames: int, tokens: int) -> int:
    """K, the most tokens it leaves of a video of frames x tokens."""
    if self.retention == 1:
      return frames * tokens
    return min(frames * tokens, self._room(frames, tokens))

  def reduce(
    self,
    features: Float[Array, 'B F N D'],
    attention: Float[Array, 'B F N'] | None = None,
    valid: Bool[Array, 'B F N'] | None = None,
  ) -> Reduced:
    """Reduces each video on its own; see `Reducer.reduce`.

    Raises:
      ValueError: without the attention that the method selects by.
    """
    if self.needs_attention and attention is None and self.retention < 1:
      raise ValueError(
        f'{type(self).__name__} selects by received attention: expected '
        'attention [B, F, N], got None'
      )
    live = jnp.ones(features.shape[:3], bool) if valid is None else valid
    if self.retention == 1:
      return _gathered(features, live, self.room(*features.shape[1:3]))
    vectors, kept = jax.vmap(self._padded)(features, attention, live)
    return _gathered(vectors, kept, self.room(*features.shape[1:3]))

  def _padded(self, features, attention, live):
    x = jnp.where(live[..., None], features, 0).astype(jnp.float32)
    if attention is not None:
      attention = jnp.where(live, attention, 0).astype(jnp.float32)
    frames = live[:, 0].sum(dtype=jnp.int32)
    tokens = live[0].sum(dtype=jnp.int32)
    vectors, kept = self._video(Video(x, attention, live, frames, tokens))
    return vectors.astype(features.dtype), kept

  def _video(self, video: Video) -> tuple[jax.Array, jax.Array]:
    """(what stands at each place, float32 [F, N, D]; which stay [F, N])."""
    raise NotImplementedError

  def _room(self, frames: int, tokens: int) -> int:
    """Of a method that leaves round(R N), at least 1, of every frame."""
    return frames * int(budgets.shared(self.retention, tokens))

  def _per_frame(self, video: Video) -> jax.Array:
    """m = round(R N), at least 1: int32 scalar."""
    table = budgets.shared(self.retention, range(video.x.shape[1] + 1))
    return budgets.at(table, video.tokens)


@dataclasses.dataclass(frozen=True)
class PruningPeer(Peer):
  """A peer that also prunes inside the decoder.

  Attributes:
    expansion: M / (R F N), of the M tokens that enter the decoder.
    layer: in front of which it prunes.
    share: of the visual tokens that stay there.
  """

  expansion: float = 1.0
  layer: int = 1
  share: float = 0.5

  def __post_init__(self):
    super().__post_init__()
    self._expect(self.expansion > 0, 'expansion', 'above 0')
    self._expect(self.layer >= 1, 'layer', 'at least 1')
    self._expect(0 < self.share < 1, 'share', 'a share in (0, 1)')
    fits = self.retention == 1 or self.retention * self.expansion <= 1
    self._expect(
      fits,
      'retention',
      f'1, or at most {1 / self.expansion:.4f} = 1 / expansion (the decoder '
      'cannot be given more tokens than there are)',
    )

  @classmethod
  def aligned(cls, retention: float, depth: int) -> 'PruningPeer':
    """The published layer scaled to `depth`; M solved for an average of R.

    (K M + (L - K) share M) / L = R F N, K out of 28 as published.

    Raises:
      ValueError: when that needs more tokens than there are, or `depth` < 2.
    """
    layer = budgets.scaled_layer(cls.layer, depth)
    grown = budgets.expansion(layer, cls.share, depth)
    return cls(retention, expansion=grown, layer=layer)

  def prune(self, depth: int) -> Prune | None:
    if self.retention == 1:
      return None
    self._expect(
      self.layer < depth,
      'layer',
      f'less than the {depth} layers of the decoder (see `aligned`)',
    )
    return Prune(self.layer, self.share)

  def _entering(self) -> float:
    """M / (F N)."""
    return self.expansion * self.retention


def _gathered(vectors, kept, room: int) -> Reduced:
  """Places [B, F, N, D] that stay -> `room` slots in the order of places."""
  flat = kept.reshape(len(kept), -1)
  index = jnp.argsort(~flat, axis=1, stable=True)[:, :room]
  valid = jnp.take_along_axis(flat, index, 1)
  tokens = vectors.reshape(*flat.shape, -1)
  tokens = jnp.take_along_axis(tokens, index[..., None], 1)
  return Reduced(
    tokens=jnp.where(valid[..., None], tokens, 0),
    index=jnp.where(valid, index, flat.shape[1]).astype(jnp.int32),
    valid=valid,
    counts=kept.sum(-1, dtype=jnp.int32),
  )
