"""What a sampler returns, on the host."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
  """n samples of each of B prompts; G is the longest sample allowed.

  A log-probability is given for every token up to its sample's length, the
  token that ended it included, and is 0 behind.

  Attributes:
    tokens: int32 [B, n, G]; behind a sample's end stands the first EOS id.
    lengths: int32 [B, n], tokens of each sample, its EOS included.
    reasons: [B][n], 'eos', 'stop' (a stop string is complete) or 'length'.
    model_logprobs: float32 [B, n, G], log softmax of the model's own logits, at
      temperature 1 and without filters: what a trainer recomputes.
    sampler_logprobs: float32 [B, n, G], log-probability under the distribution
      that was drawn from (after penalty, constraint, temperature, top-k and
      top-p); 0 at temperature 0. The denominator of an exact importance weight.
    texts: [B][n], cut in front of a stop string, without EOS; None where no
      `detokenize` was given.
  """

  tokens: np.ndarray
  lengths: np.ndarray
  reasons: list[list[str]]
  model_logprobs: np.ndarray
  sampler_logprobs: np.ndarray
  texts: list[list[str]] | None

  @property
  def mask(self) -> np.ndarray:
    """float32 [B, n, G]: 1 on the tokens of each sample."""
    places = np.arange(self.tokens.shape[2])
    return (places < self.lengths[..., None]).astype(np.float32)


def check_finite(
  model_logprobs: np.ndarray, sampler_logprobs: np.ndarray
) -> None:
  """Checks log-probabilities [B, n, G].

  Raises:
    FloatingPointError: the model gave NaN or infinite logits.
    ValueError: a constraint left no token. Both name prompt, sample and step.
  """
  for logprobs, kind, message in (
    (
      model_logprobs,
      FloatingPointError,
      "the model's logits are not finite; check the parameters (NaN after "
      'a training step?) and the pixels of this prompt',
    ),
    (
      sampler_logprobs,
      ValueError,
      'the constraint allows no token; does its table end in an EOS id of '
      'the settings?',
    ),
  ):
    broken = np.argwhere(~np.isfinite(logprobs))
    if len(broken):
      row, sample, step = broken[0]
      raise kind(f'prompt {row}, sample {sample}, new token {step}: {message}')
