"""Policy gradients over groups of completions: GRPO and its relatives.

One function holds the whole family; a setting picks the member:

  GRPO      group_std, reduction 'sequence'            arXiv 2402.03300
  Dr.GRPO   no scaling, reduction 'constant'           arXiv 2503.20783
  DAPO      clip_high > clip_low, reduction 'token'    arXiv 2503.14476
  GSPO      ratio 'sequence'                           arXiv 2507.18071
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

FLAG = '--config.rl.{}'
RATIOS = ('token', 'sequence')
REDUCTIONS = ('sequence', 'token', 'constant')
NORMALISATIONS = ('group_std', 'none')
EPS = 1e-4

Pair = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class PolicySettings:
  """Choices of the policy loss.

  Attributes:
    clip_low: ratios below 1 - clip_low earn nothing more.
    clip_high: ratios above 1 + clip_high earn nothing more.
    beta: weight of the divergence from the reference; 0 needs none.
    ratio: of each 'token', or of the whole 'sequence' (its geometric mean).
    reduction: 'sequence', the mean over completions of the mean over their
      tokens; 'token', the mean over all tokens; 'constant', the mean over
      completions of the sum over their tokens, over the longest length allowed.
  """

  clip_low: float = 0.2
  clip_high: float = 0.2
  beta: float = 0.0
  ratio: str = 'token'
  reduction: str = 'sequence'

  def __post_init__(self):
    for name, known in (('ratio', RATIOS), ('reduction', REDUCTIONS)):
      if getattr(self, name) not in known:
        raise ValueError(
          f'{FLAG.format(name)}={getattr(self, name)!r}, expected one of '
          f'{known}'
        )
    for name, high in (('clip_low', 1.0), ('clip_high', jnp.inf)):
      if not 0 < getattr(self, name) <= high:
        raise ValueError(
          f'{FLAG.format(name)}={getattr(self, name)}, expected above 0 and at '
          f'most {high}'
        )
    if not 0 <= self.beta < jnp.inf:
      raise ValueError(f'{FLAG.format("beta")}={self.beta}, expected 0 or more')


def advantages(
  rewards: Float[Array, 'P G'],
  counted: Float[Array, 'P G'],
  normalise: str = 'group_std',
) -> Float[Array, 'P G']:
  """How much better a completion is than its group.

  A = (R - mean R) / (std R + 1e-4), std with ddof 1; without the division under
  'none'. Exactly 0 where the rewards of a group are equal or fewer than two
  count.

  Args:
    rewards: of G completions of each prompt; anything, NaN included, where
      `counted` is 0.
    counted: 1 for completions that belong to the statistics; the others have
      advantage 0.
    normalise: one of `NORMALISATIONS`.

  Raises:
    ValueError: another normalisation.
  """
  if normalise not in NORMALISATIONS:
    raise ValueError(
      f'{FLAG.format("normalise")}={normalise!r}, expected one of '
      f'{NORMALISATIONS}'
    )
  there = counted > 0
  rewards = jnp.where(there, rewards, 0).astype(jnp.float32)
  count = there.sum(axis=1, keepdims=True)
  mean = rewards.sum(axis=1, keepdims=True) / jnp.maximum(count, 1)
  centred = jnp.where(there, rewards - mean, 0)
  if normalise == 'group_std':
    squares = (centred**2).sum(axis=1, keepdims=True)
    centred /= jnp.sqrt(squares / jnp.maximum(count - 1, 1)) + EPS
  return jnp.where(degenerate(rewards, counted)[:, None], 0, centred)


def degenerate(
  rewards: Float[Array, 'P G'], counted: Float[Array, 'P G']
) -> Bool[Array, 'P']:
  """bool [P]: groups that teach nothing, their rewards being equal.

  Compared, not subtracted: a mean of equal numbers may differ from them.
  """
  there = counted > 0
  low = jnp.where(there, rewards, jnp.inf).min(axis=1)
  high = jnp.where(there, rewards, -jnp.inf).max(axis=1)
  return low >= high


def policy_loss(
  logprobs: Float[Array, 'B T'],
  old_logprobs: Float[Array, 'B T'],
  advantage: Float[Array, 'B'],
  mask: Float[Array, 'B T'],
  settings: PolicySettings,
  reference_logprobs: Float[Array, 'B T'] | None = None,
  weights: Float[Array, 'B T'] | None = None,
) -> tuple[Pair, dict[str, Pair]]:
  """The clipped surrogate, token by token, with a penalty for divergence.

  With r = exp(logprob - old), the loss of a token is
  -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + beta k3, and
  k3 = exp(ref - logprob) - (ref - logprob) - 1.

  Args:
    logprobs: of the policy, in nats; all gradients flow through them.
    old_logprobs: of the policy that the completions are attributed to; the same
      numbers on the first update, where r = 1 but its gradient is not 0.
    advantage: of each completion.
    mask: 1 on the tokens of a completion, its EOS included; a row of zeros does
      not count.
    settings: which member of the family.
    reference_logprobs: needed where beta > 0.
    weights: of each token's surrogate, constants; see `drift.weights`.

  Returns:
    (numerator, denominator) of the loss, which may be summed over microbatches,
    and metrics as such pairs over the tokens: ratio, clip_share (where the clip
    decides), and kl (of k3) if there is a reference.

  Raises:
    ValueError: beta without reference.
  """
  if settings.beta and reference_logprobs is None:
    raise ValueError(f'beta={settings.beta} needs reference_logprobs')
  mask = mask.astype(jnp.float32)
  gap = jnp.where(mask > 0, logprobs - jax.lax.stop_gradient(old_logprobs), 0)
  if settings.ratio == 'sequence':
    length = jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    gap = jnp.broadcast_to(gap.sum(axis=1, keepdims=True) / length, gap.shape)
  ratio, advantage = jnp.exp(gap), advantage[:, None]
  low, high = 1 - settings.clip_low, 1 + settings.clip_high
  free, held = ratio * advantage, jnp.clip(ratio, low, high) * advantage
  surrogate = jnp.minimum(free, held)
  if weights is not None:
    surrogate *= jax.lax.stop_gradient(weights)
  loss, metrics = -surrogate, {}
  if reference_logprobs is not None:
    k3 = divergence(logprobs, reference_logprobs, mask)
    loss += settings.beta * k3
    metrics['kl'] = token_pair(k3, mask)
  metrics['ratio'] = token_pair(ratio, mask)
  metrics['clip_share'] = token_pair(held < free, mask)
  return _reduced(loss, mask, settings.reduction), metrics


def divergence(
  logprobs: Float[Array, 'B T'],
  reference_logprobs: Float[Array, 'B T'],
  mask: Float[Array, 'B T'],
) -> Float[Array, 'B T']:
  """k3 = exp(d) - d - 1 with d = reference - logprob; 0 outside the mask.

  An unbiased, never negative estimate of KL(policy || reference) on tokens
  drawn from the policy (arXiv 2402.03300, eq. 4).
  """
  reference = jax.lax.stop_gradient(reference_logprobs)
  d = jnp.where(mask > 0, reference - logprobs, 0)
  return jnp.exp(d) - d - 1


def token_pair(values: Array, mask: Float[Array, 'B T']) -> Pair:
  """(sum, count) of values over masked tokens."""
  values = jnp.where(mask > 0, values, 0).astype(jnp.float32)
  return values.sum(), mask.astype(jnp.float32).sum()


def _reduced(loss: jax.Array, mask: jax.Array, reduction: str) -> Pair:
  """The loss as (numerator, denominator); see `PolicySettings.reduction`."""
  loss = loss * mask
  length = mask.sum(axis=1)
  if reduction == 'token':
    return loss.sum(), length.sum()
  divisor = mask.shape[1] if reduction == 'constant' else jnp.maximum(length, 1)
  count = (length > 0).astype(jnp.float32).sum()
  return (loss.sum(axis=1) / divisor).sum(), count
