"""From prompts to scored groups of completions, as arrays of a training batch.

Every prompt (and its pictures) is encoded once for all of its completions. On
several processes each scores the completions of its own prompts, then all know
all scores.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm.losses.policy import advantages, degenerate
from vlm.rollout import gather
from vlm.rollout.rewards import Scorer
from vlm.rollout.sampler import Weights, sample
from vlm.rollout.samples import Samples
from vlm.rollout.settings import Buckets, Sampling
from vlm.rollout.stops import Detokenize
from vlm.sharding.batch import to_global

Told = dict[str, tuple[float, float]]


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
  """P prompts with G completions each, of all processes; arrays [P, ...].

  Attributes:
    records: objects [P], what rewards were given.
    prompts: objects [P], the prompts' texts.
    texts: objects [P, G].
    completions: int32 [P, G, C].
    lengths: int32 [P, G].
    truncated: bool [P, G], cut at the longest length.
    sampler_logprobs: float32 [P, G, C].
    rewards: float64 [P, G, R], NaN where one failed.
    total: float64 [P, G], their weighted sum.
    counted: bool [P, G], no reward failed.
    advantages: float32 [P, G].
    degenerate: bool [P], the completions earned the same.
  """

  records: np.ndarray
  prompts: np.ndarray
  texts: np.ndarray
  completions: np.ndarray
  lengths: np.ndarray
  truncated: np.ndarray
  sampler_logprobs: np.ndarray
  rewards: np.ndarray
  total: np.ndarray
  counted: np.ndarray
  advantages: np.ndarray
  degenerate: np.ndarray

  def take(self, rows: Any) -> 'Groups':
    """Some of the prompts."""
    return Groups(*(getattr(self, f.name)[rows] for f in _FIELDS))

  @staticmethod
  def joined(parts: Sequence['Groups']) -> 'Groups':
    """The prompts of several."""
    return Groups(
      *(np.concatenate([getattr(p, f.name) for p in parts]) for f in _FIELDS)
    )

  @property
  def identical(self) -> np.ndarray:
    """bool [P]: every completion of the prompt is the same."""
    return (self.completions == self.completions[:, :1]).all(axis=(1, 2))

  def arrays(self) -> dict[str, np.ndarray]:
    """What a training batch gets of them; see `vlm/train/rl.py`."""
    return {
      'completions': self.completions.astype(np.int32),
      'lengths': self.lengths.astype(np.int32),
      'counted': self.counted.astype(np.float32),
      'advantages': self.advantages.astype(np.float32),
      'sampler_logprobs': self.sampler_logprobs.astype(np.float32),
    }


_FIELDS = dataclasses.fields(Groups)


@dataclasses.dataclass(frozen=True, eq=False)
class Roller:
  """Draws groups of completions, and has them scored.

  Attributes:
    model: a description from `registry.build`.
    sampling: how to draw; no filters but the temperature, so that the trainer
      can know the distribution.
    scorer: of the completions.
    mesh: to sample on.
    prompt_length: tokens of a row of prompts.
    group: G.
    detokenize: token ids to text.
    seed: of the run.
    normalise: see `policy.advantages`.
  """

  model: Any
  sampling: Sampling
  scorer: Scorer
  mesh: jax.sharding.Mesh
  prompt_length: int
  group: int
  detokenize: Detokenize
  seed: int = 0
  normalise: str = 'group_std'

  def __post_init__(self):
    if self.group < 2:
      raise ValueError(
        f'--config.rl.group={self.group}, expected at least 2: an advantage '
        'compares completions of one prompt'
      )
    if self.sampling.temperature <= 0:
      raise ValueError(
        f'--config.rl.temperature={self.sampling.temperature}, expected above '
        '0: completions of a group would be the same'
      )

  def draw(
    self, weights: Weights, prompts: Mapping[str, Any], number: int
  ) -> tuple[Samples, Callable[[], Groups]]:
    """Samples now; rewards are begun, and waited for by what is returned.

    Args:
      weights: of `sampler.prepare`, on the mesh.
      prompts: this process's, of `Encoder.prompts`; '_record' and '_prompt'
        are lists of what rewards need and of texts.
      number: of the batch of prompts; another number, other draws.
    """
    count = len(prompts['tokens']) * jax.process_count()
    seeds = np.random.SeedSequence([self.seed, number]).generate_state(count)
    own = gather.own(count)
    batch = to_global({**prompts, 'seeds': seeds[own]}, self.mesh)
    seeds = batch.pop('seeds')
    with jax.set_mesh(self.mesh):
      out = sample(
        self.model,
        weights,
        batch,
        self.sampling,
        samples=self.group,
        seeds=seeds,
        detokenize=self.detokenize,
        buckets=Buckets((self.prompt_length,), (self.sampling.max_new_tokens,)),
      )
    records = gather.values(prompts['_record'])
    texts = gather.values(prompts['_prompt'])
    scores = self.scorer.start(out.texts, records, own)
    return out, lambda: self._groups(out, records, texts, scores())

  def _groups(self, out: Samples, records, prompts, scores) -> Groups:
    rewards = np.stack([*scores.values.values()], axis=2)
    rewards, total, counted = map(
      gather.rows, (rewards, scores.total, scores.counted)
    )
    given = jnp.asarray(total, jnp.float32), jnp.asarray(counted, jnp.float32)
    plain = self.sampling.temperature == 1
    return Groups(
      records=_objects(records),
      prompts=_objects(prompts),
      texts=np.array(out.texts, object),
      completions=out.tokens,
      lengths=out.lengths,
      truncated=np.array(out.reasons) == 'length',
      sampler_logprobs=out.model_logprobs if plain else out.sampler_logprobs,
      rewards=rewards,
      total=total,
      counted=counted,
      advantages=np.asarray(advantages(*given, self.normalise)),
      degenerate=np.asarray(degenerate(*given)),
    )

  def told(self, groups: Groups) -> Told:
    """What the log says of groups, as (numerator, denominator).

    For each of several record['task'], also by itself, under its name.
    """
    tasks = [record.get('task', '') for record in groups.records]
    found = self._told(groups, '')
    for task in sorted(set(tasks)) if len(set(tasks)) > 1 else ():
      rows = [place for place, name in enumerate(tasks) if name == task]
      found |= self._told(groups.take(rows), f'/{task}')
    return found

  def _told(self, groups: Groups, suffix: str) -> Told:
    pair = lambda values: (float(np.sum(values)), float(np.size(values)))
    found = {
      'reward': pair(groups.total[groups.counted]),
      'length': pair(groups.lengths),
      'truncated': pair(groups.truncated),
      'degenerate': pair(groups.degenerate),
      'identical': pair(groups.identical),
    }
    for place, reward in enumerate(self.scorer.rewards):
      values = groups.rewards[..., place]
      failed = np.isnan(values)
      found[f'reward/{reward.name}'] = pair(values[~failed])
      found[f'failed/{reward.name}'] = pair(failed)
    return {f'rollout/{k}{suffix}': v for k, v in found.items()}


def _objects(items: Sequence[Any]) -> np.ndarray:
  """A flat array of things that numpy would take apart."""
  array = np.empty(len(items), object)
  array[:] = items
  return array
