"""How far the sampler and the trainer disagree about the same tokens.

Both compute log pi(token), in other orders and perhaps other dtypes. In
reinforcement learning the ratio pi_trainer / pi_sampler is taken to be 1 where
no update lies between the two; when it is not, gradients are biased.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def drift(
  trainer_logprobs: Float[Array, '*B'],
  sampler_logprobs: Float[Array, '*B'],
  mask: Float[Array, '*B'],
) -> dict[str, tuple[jax.Array, jax.Array]]:
  """Metrics of the difference d = trainer - sampler over masked tokens.

  Args:
    trainer_logprobs: of the trainer's forward pass, nats.
    sampler_logprobs: `Samples.model_logprobs` of the same tokens (or
      `sampler_logprobs`, to see the weight of the filters too).
    mask: 1 where a token counts.

  Returns:
    Pairs (numerator, denominator) of float32 scalars, as training metrics:
    drift/mean = E|d|, drift/max = max|d|, drift/kl = E[exp(d) - 1 - d] (an
    unbiased estimate of KL(sampler || trainer)), drift/ratio = E[exp(d)],
    drift/ratio_spread = E[(exp(d) - 1)^2], the squared deviation of the
    importance ratio from 1.
  """
  mask = mask.astype(jnp.float32)
  difference = trainer_logprobs - sampler_logprobs
  # Behind a sample's end lies anything, NaN included.
  d = jnp.where(mask > 0, difference.astype(jnp.float32), 0)
  ratio = jnp.exp(d)
  count = mask.sum()
  total = lambda x: (x * mask).sum()
  one = jnp.ones((), jnp.float32)
  return {
    'drift/mean': (total(jnp.abs(d)), count),
    'drift/max': (jnp.abs(d).max(), one),
    'drift/kl': (total(ratio - 1 - d), count),
    'drift/ratio': (total(ratio), count),
    'drift/ratio_spread': (total((ratio - 1) ** 2), count),
  }


def weights(
  trainer_logprobs: Float[Array, 'B T'],
  sampler_logprobs: Float[Array, 'B T'],
  mask: Float[Array, 'B T'],
  bound: float,
  cap: float,
) -> Float[Array, 'B T']:
  """Truncated importance weights min(exp(d), cap) of completions that drifted.

  Sequence by sequence, so that neither microbatches nor devices change what is
  corrected: 1 throughout a sequence whose mean |d| is at most `bound`.

  Args:
    trainer_logprobs: log pi of the trainer before any update, nats.
    sampler_logprobs: of the sampler, for the same tokens.
    mask: 1 where a token counts.
    bound: nats.
    cap: largest weight.
  """
  d = jnp.where(mask > 0, trainer_logprobs - sampler_logprobs, 0)
  count = jnp.maximum((mask > 0).sum(axis=1, keepdims=True), 1)
  drifted = jnp.abs(d).sum(axis=1, keepdims=True) / count > bound
  return jnp.where(drifted, jnp.minimum(jnp.exp(d), cap), 1.0)
