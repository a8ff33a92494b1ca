"""VisualQuality-R1's reward (arXiv 2505.14460): how likely the order is right.

A prediction is compared with the predictions for every other image of the
batch, as two normal variables. A completion without a number earns 0 and is
left out of its group's mean and variance; published code draws a random number
for it, which teaches nothing and cannot be repeated.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import special

EPS = 1e-6
UNREAD = 0.0  # the least reward of any order

_SPAN = re.compile(r'<answer>(.*?)</answer>', re.DOTALL)
_NUMBER = re.compile(r'-?\d+(?:\.\d+)?')


def rating_in_last_answer(completion: str) -> float | None:
  """The first signed number in the last answer span; None if there is none."""
  spans = _SPAN.findall(completion)
  found = _NUMBER.search(spans[-1]) if spans else None
  return None if found is None else float(found.group())


def rank_rewards(
  predictions: Float[np.ndarray, 'P G'], mos: Float[np.ndarray, 'P']
) -> Float[np.ndarray, 'P G']:
  """The mean fidelity of each prediction with every other prompt.

  With m_z, v_z mean and variance (ddof 1) of group z,
  P = Phi((p_ij - m_z) / sqrt(v_i + v_z + 1e-6)), y = 1, 1/2 or 0 as the opinion
  of i is above, at or below that of z, and
  fidelity = sqrt(P y + 1e-6) + sqrt((1 - P) (1 - y) + 1e-6).

  Args:
    predictions: G ratings of each of P prompts, float64; NaN where none was
      read.
    mos: opinions, all on one scale.

  Returns:
    float64; `UNREAD` where there was no rating, or none to compare it with.

  Raises:
    ValueError: one prompt, which has no order.
  """
  if len(mos) < 2:
    raise ValueError(
      'the rank reward compares prompts of a batch and got one; raise '
      '--config.rollout.rows'
    )
  read = np.isfinite(predictions)
  count = read.sum(1)
  filled = np.where(read, predictions, 0.0)
  mean = filled.sum(1) / np.maximum(count, 1)
  spread = np.where(read, predictions - mean[:, None], 0.0)
  # One rating has no variance to estimate.
  variance = (spread**2).sum(1) / np.maximum(count - 1, 1)
  gap = filled[:, :, None] - mean  # [P, G, Z]
  scale = np.sqrt(variance[:, None] + variance + EPS)[:, None, :]
  above = special.ndtr(gap / scale)
  target = 0.5 * (1 + np.sign(mos[:, None] - mos))[:, None, :]
  fidelity = np.sqrt(above * target + EPS)
  fidelity += np.sqrt((1 - above) * (1 - target) + EPS)
  others = ~np.eye(len(mos), dtype=bool) & (count > 0)
  total = np.einsum('pgz,pz->pg', fidelity, others.astype(np.float64))
  rivals = others.sum(1)[:, None]
  comparable = read & (rivals > 0)
  return np.where(comparable, total / np.maximum(rivals, 1), UNREAD)


def rank_reward(
  completions: Sequence[Sequence[str]], records: Sequence[Mapping[str, Any]]
) -> list[list[float]]:
  """`rank_rewards` of completions [P][G] and records [P] with a `gt_score`.

  A group reward of `vlm.rollout`. Records must be of one data set: opinions of
  several have no common order.

  Raises:
    ValueError: records of several data sets, by name.
  """
  sets = sorted({str(record.get('dataset', '')) for record in records})
  if len(sets) > 1:
    raise ValueError(
      f'a batch holds images of {sets}, whose opinions have no common order; '
      'give the rank reward one data set'
    )
  read = [[rating_in_last_answer(text) for text in row] for row in completions]
  predictions = np.array(
    [[np.nan if p is None else p for p in row] for row in read], np.float64
  )
  mos = np.array([record['gt_score_norm'] for record in records], np.float64)
  return rank_rewards(predictions, mos).tolist()
