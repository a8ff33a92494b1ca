"""What a user chooses of FlashVID (arXiv 2602.08024), and what follows."""

import dataclasses
import math

from vlm.methods.flashvid.budget import Budget, budget, pruned_share
from vlm.models.prune import Prune

CHOICES = {
  'selection': ('attn_div_v2', 'attn_div', 'div', 'attn'),
  'relevance': ('segment', 'video'),
  'mode': ('paper', 'official'),
  'aggregation': ('auto', 'mean', 'children'),
  'parents': ('best', 'same'),
  'kernels': ('auto', 'jnp', 'pallas'),
}


@dataclasses.dataclass(frozen=True)
class Settings:
  """Tokens that are salient and diverse, and trees of what is left (section 3).

  Attributes:
    retention: R, the mean share of visual tokens per decoder layer; 1 changes
      nothing, bit for bit.
    expansion: f_e; the decoder takes in f_e R N tokens per frame and drops the
      surplus at `layer`.
    alpha: share of them that is selected (ADTS); the rest is merged (TSTM).
    tau: T_tau, the cosine from which a token joins one a frame earlier.
    segment_threshold: S_tau; frames whose means are less alike are cut apart.
    min_segments: M_s; the least similar transitions are cut until there are so
      many, unless `complementary` is off. Released for Qwen: 4.
    selection: attention, diversity, event relevance ('attn_div_v2'), or some of
      them. Released for Qwen: 'attn_div'.
    relevance: frames whose mean a token's event relevance averages over; the
      paper prints 'video', its code has 'segment'.
    mode: 'paper' leaves exactly b tokens per frame of a video, merges by the
      mean and never gives a token twice. 'official' does as the released code
      does, for comparison with it: a tree's sum is divided by one plus the
      root's children, a budget may be exceeded by a token per frame, and a
      token may come twice.
    layer: K, where the decoder prunes; 5/7 of its depth by default.
    aggregation: 'mean' or 'children' in place of the mode's.
    parents: 'same' is the control that joins equal grid positions only (TTM).
    kernels: 'pallas' on a TPU, 'jnp' elsewhere, by default.
  """

  retention: float
  expansion: float = 1.25
  alpha: float = 0.7
  tau: float = 0.8
  segment_threshold: float = 0.9
  min_segments: int = 8
  complementary: bool = True
  selection: str = 'attn_div_v2'
  relevance: str = 'segment'
  mode: str = 'paper'
  layer: int | None = None
  aggregation: str = 'auto'
  parents: str = 'best'
  kernels: str = 'auto'

  def __post_init__(self):
    for name, allowed in CHOICES.items():
      if getattr(self, name) not in allowed:
        raise self._error(name, f'one of {allowed}')
    if not 0 < self.retention <= 1:
      raise self._error('retention', 'a share above 0, at most 1')
    if not 1 <= self.expansion < math.inf:
      raise self._error('expansion', 'a factor of at least 1')
    if self.retention < 1 and self.retention * self.expansion >= 1:
      raise self._error(
        'retention',
        f'less than 1 / expansion = {1 / self.expansion:.4g}, or exactly 1 for '
        'no reduction; else lower flashvid.expansion',
      )
    if not 0 <= self.alpha <= 1:
      raise self._error('alpha', 'a share from 0 to 1')
    if not -1 < self.tau < 1:
      raise self._error('tau', 'a cosine above -1 and below 1')
    if not -math.inf < self.segment_threshold < math.inf:
      raise self._error('segment_threshold', 'a finite number')
    if self.min_segments < 1:
      raise self._error('min_segments', 'at least 1')
    if self.layer is not None and self.layer < 1:
      raise self._error('layer', 'at least 1')

  def _error(self, name: str, expected: str) -> ValueError:
    return ValueError(
      f'flashvid.{name}={getattr(self, name)!r}, expected {expected}; set '
      f'--flashvid.{name}'
    )

  @property
  def changes_nothing(self) -> bool:
    return self.retention == 1

  @property
  def needs_attention(self) -> bool:
    """Whether `reduce` reads received attention."""
    return 'attn' in self.selection and not self.changes_nothing

  @property
  def mean_trees(self) -> bool:
    """Whether a tree's vector is the mean of its tokens."""
    if self.aggregation == 'auto':
      return self.mode == 'paper'
    return self.aggregation == 'mean'

  def budget(self, tokens: int) -> Budget:
    """Tokens per frame, for frames of 0, 1, ... `tokens` tokens."""
    return budget(self.retention, self.expansion, self.alpha, tokens)

  def prune(self, depth: int) -> Prune | None:
    """The prune at layer K that makes R the mean over layers (eq. 15).

    Args:
      depth: L, the decoder's layers.

    Raises:
      ValueError: K leaves no share between 0 and 1 that would do so.
    """
    if self.changes_nothing:
      return None
    layer = round(depth * 5 / 7) if self.layer is None else self.layer
    share = pruned_share(depth, layer, self.expansion)
    if share is None:
      # f_e = 1 spends the whole budget in front of the decoder.
      return None
    return Prune(layer, share)

  def room(self, frames: int, tokens: int) -> int:
    """K, the most tokens it leaves of a video of frames x tokens."""
    if self.changes_nothing:
      return frames * tokens
    extra = self.mode == 'official'
    return frames * (int(self.budget(tokens).total[tokens]) + extra)
