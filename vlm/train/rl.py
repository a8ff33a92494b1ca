"""Group-relative policy optimisation of a language or vision-language model.

The batch of P prompts with G completions each; padding of prompts is on the
left and of completions on the right, so that what predicts a completion stands
at the same place in every row:

    tokens, segment_ids, positions, pixels, plan    of the prompts, [P, ...], as
                       data.examples.Encoder.prompts makes them
    completions        int32 [P, G, C]    as sampled, ids and not text
    lengths            int32 [P, G]       tokens of each, its EOS included
    counted            float32 [P, G]     0 where a reward failed
    advantages         float32 [P, G]
    sampler_logprobs   float32 [P, G, C]  of the sampler
    old_logprobs       float32 [P, G, C]  of the trainer before it moved; absent
                       where the completions are those of the parameters at hand
    reference_logprobs float32 [P, G, C]  absent at beta = 0

Pictures are encoded once per prompt, here as in the sampler.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vlm.losses import drift
from vlm.losses.policy import PolicySettings, policy_loss, token_pair
from vlm.losses.tokens import TokenScores, token_scores
from vlm.models.inputs import Inputs
from vlm.models.partition import constrain
from vlm.sharding.batch import batch_sharding, microbatches
from vlm.train.step import Objective

PROMPT = ('tokens', 'segment_ids', 'positions', 'pixels', 'plan')
READ = (*PROMPT, 'completions', 'lengths')  # what log-probabilities depend on


def grpo(
  model: Any,
  settings: PolicySettings,
  *,
  loss_chunk: int = 512,
  temperature: float | int = 1.0,
  drift_bound: float | int = 0.02,
  drift_cap: float | int = 2.0,
) -> Objective:
  """The objective of a model; see `vlm.losses.policy` for the family.

  Args:
    model: see `qwen2.LanguageModel`.
    settings: of the policy loss.
    loss_chunk: positions per row whose logits are held at once.
    temperature: completions were drawn at; divides the logits here too.
    drift_bound: nats; a completion whose log-probabilities differ by more on
      average between sampler and trainer is weighted.
    drift_cap: largest weight of a token.

  Returns:
    objective(params, batch, key) -> (numerator, metrics), with the batch as the
    module says.

  Raises:
    ValueError: a model that prunes inside its decoder, which training does not.
  """
  _check(model)

  def objective(params, batch, key: jax.Array):
    del key  # nothing is drawn
    scores = completion_scores(
      model, params, batch, chunk=loss_chunk, temperature=temperature
    )
    rows = lambda name: _rows(batch[name]) if name in batch else None
    mask = _said(batch) * rows('counted')[:, None]
    old, sampler = rows('old_logprobs'), rows('sampler_logprobs')
    if old is None:
      old = jax.lax.stop_gradient(scores.logprob)
    weights = drift.weights(old, sampler, mask, drift_bound, drift_cap)
    loss, metrics = policy_loss(
      scores.logprob,
      old,
      rows('advantages'),
      mask,
      settings,
      rows('reference_logprobs'),
      weights,
    )
    metrics['entropy'] = token_pair(scores.entropy, mask)
    metrics['drift/corrected'] = token_pair(weights != 1, mask)
    metrics |= drift.drift(old, sampler, mask)
    return loss[0], {'loss': loss} | metrics

  return objective


def _check(model: Any) -> None:
  if model.prune is not None:
    raise ValueError(
      'the sampler would prune tokens inside the decoder that the trainer '
      'keeps; unset --config.flashvid.layer'
    )


def completion_scores(
  model: Any,
  params: Any,
  batch: dict[str, Any],
  *,
  chunk: int,
  temperature: float | int = 1.0,
) -> TokenScores:
  """Scores of every completion's tokens, all [P * G, C], prompt by prompt.

  Args:
    model: see `qwen2.LanguageModel`.
    params: its parameters.
    batch: see the module; of completions only `completions` and `lengths`.
    chunk: positions per row whose logits are held at once.
    temperature: divides the logits.
  """
  targets = _rows(batch['completions'])
  prompts = model.inputs(params, {k: batch[k] for k in PROMPT if k in batch})
  inputs = _continued(model, params, prompts, targets, _said(batch))
  before = prompts.x.shape[1] - 1  # the place that predicts the first token
  hidden = model.run(params, inputs)[:, before : before + targets.shape[1]]
  return token_scores(
    hidden,
    model.head_kernel(params),
    targets,
    chunk=chunk,
    temperature=temperature,
  )


def _rows(array: jax.Array) -> jax.Array:
  """[P, G, ...] -> [P * G, ...]."""
  return array.reshape(-1, *array.shape[2:])


def _said(batch: dict[str, Any]) -> jax.Array:
  """bool [P * G, C]: the tokens of each completion."""
  places = jnp.arange(batch['completions'].shape[2])
  return places < _rows(batch['lengths'])[:, None]


def _continued(model, params, prompts: Inputs, targets, said) -> Inputs:
  """Each prompt followed by its completions, [P * G, S + C]."""
  group = len(targets) // len(prompts.x)
  spread = lambda x: jnp.repeat(x, group, axis=0)
  x = jnp.concatenate([spread(prompts.x), model.embed(params, targets)], axis=1)
  own = jnp.where(said, model.said_ids(targets), 0)
  segments = jnp.concatenate([spread(prompts.segment_ids), own], axis=1)
  positions, places = prompts.positions, jnp.arange(1, targets.shape[1] + 1)
  real = (prompts.segment_ids != 0).reshape(
    *prompts.segment_ids.shape, *[1] * (positions.ndim - 2)
  )
  last = jnp.where(real, positions, -1).reshape(len(prompts.x), -1).max(axis=1)
  # With M-RoPE text goes on from the highest number, alike in all axes.
  after = spread(last)[:, None] + places
  after = after.reshape(*after.shape, *[1] * (positions.ndim - 2))
  after = jnp.broadcast_to(after, (*targets.shape, *positions.shape[2:]))
  positions = jnp.concatenate(
    [spread(positions), after.astype(positions.dtype)], axis=1
  )
  deepstack = prompts.deepstack
  if deepstack is not None:
    room = [(0, 0), (0, 0), (0, targets.shape[1]), (0, 0)]
    deepstack = jnp.pad(jnp.repeat(deepstack, group, axis=1), room)
  return Inputs(
    constrain(x, 'batch', None, None), positions, segments, deepstack
  )


def make_logprobs(
  model: Any,
  *,
  mesh: Mesh,
  param_shardings: Any,
  accumulate: int = 1,
  loss_chunk: int = 512,
  temperature: float | int = 1.0,
) -> Callable[[Any, Any], jax.Array]:
  """Builds `logprobs(params, batch) -> float32 [P, G, C]`, jitted.

  Of the reference, and of the trainer before it moves. As many completions at a
  time as in a training step.

  Args:
    model: see `qwen2.LanguageModel`.
    mesh: the job's mesh.
    param_shardings: of the parameters.
    accumulate: microbatches.
    loss_chunk: see `grpo`.
    temperature: see `grpo`.
  """
  _check(model)

  def score(params, batch):
    scores = completion_scores(
      model, params, batch, chunk=loss_chunk, temperature=temperature
    )
    return scores.logprob.reshape(batch['completions'].shape)

  def logprobs(params, batch):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      if accumulate == 1:
        return score(params, batch)
      pieces = jax.tree.map(lambda x: microbatches(x, accumulate, mesh), batch)
      found = jax.lax.map(lambda piece: score(params, piece), pieces)
      # Row i * accumulate + j was row i of piece j.
      return jnp.moveaxis(found, 0, 1).reshape(batch['completions'].shape)

  return jax.jit(
    logprobs,
    in_shardings=(param_shardings, batch_sharding(mesh)),
    out_shardings=batch_sharding(mesh),
  )
