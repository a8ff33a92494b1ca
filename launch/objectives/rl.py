"""What the objective 'grpo' brings to launch.train: prompts, sampler, rewards.

The sampler and the trainer hold the same parameters on the same devices. Where
`config.rollout.mesh` differs from `config.mesh` they are laid out anew for
every batch of completions, in the compute dtype: usually sharded to train,
whole (or only over tensor) to sample, since a new token reads all of them.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from data import pack
from data.examples import left_padded
from data.records import BadRecord
from launch import job
from vlm.losses.policy import PolicySettings
from vlm.models import flops
from vlm.rollout import sampler
from vlm.rollout.groups import Roller
from vlm.rollout.on_policy import OnPolicy
from vlm.rollout.rewards import Scorer, check_format
from vlm.rollout.settings import Sampling
from vlm.rollout.table import SampleTable
from vlm.sharding import mesh as mesh_lib
from vlm.sharding import rules
from vlm.sharding.batch import to_global
from vlm.train.metrics import Throughput, peak_flops
from vlm.train.optimizer import merge
from vlm.train.rl import READ, grpo, make_logprobs
from vlm.train.step import Objective

ROLLOUT_MESH = '--config.rollout.mesh'
TRIED = 8  # rows of a source, until one can be asked about


class PromptTooLong(ValueError):
  """A prompt does not fit its row."""


def objective(config: ConfigDict, model: Any) -> Objective:
  """The policy objective of a config."""
  fields = [field.name for field in dataclasses.fields(PolicySettings)]
  return grpo(
    model,
    PolicySettings(**{name: config.rl[name] for name in fields}),
    loss_chunk=config.loss_chunk,
    temperature=config.rl.temperature,
    drift_bound=config.rl.drift_bound,
    drift_cap=config.rl.drift_cap,
  )


def prepare(config: ConfigDict) -> job.Job:
  """The job, of prompts in rows of one shape.

  Raises:
    ValueError: naming the flag, for data that prompts cannot come from.
  """
  data = config.data
  for name, wanted in (('buckets', ()), ('packing', False), ('epochs', 0)):
    if data[name] != wanted:
      raise ValueError(
        f'--config.data.{name}={data[name]}: prompts come one in a row of one '
        f'shape, for ever; set it to {wanted}'
      )
  made = job.prepare(config)
  for name in ('prompt', 'rewards', 'specimen'):
    if not hasattr(made.task, name):
      raise ValueError(
        f'--config.task={config.task} cannot be trained by rewards: it has no '
        f'{name!r}; see experiments/task.py'
      )
  return made


def shapes(config: ConfigDict, model: Any) -> dict[str, Any]:
  """The batch of a step, as vlm/train/rl.py describes it."""
  rows, settings = config.batch_size, config.rl
  batch = job.batch_of(rows, job.row_specs(config, model)[-1])
  del batch['loss_mask']
  group, tokens = (rows, settings.group), (settings.new_tokens,)
  fields = {
    'completions': (group + tokens, jnp.int32),
    'lengths': (group, jnp.int32),
    'counted': (group, jnp.float32),
    'advantages': (group, jnp.float32),
    'sampler_logprobs': (group + tokens, jnp.float32),
  }
  for name in _needed(settings):
    fields[name] = (group + tokens, jnp.float32)
  return batch | {
    name: jax.ShapeDtypeStruct(*field) for name, field in fields.items()
  }


def rollout(config: ConfigDict) -> tuple[int, int, int]:
  """Prompts, completions of each, longest completion."""
  return config.batch_size, config.rl.group, config.rl.new_tokens


def seen(config: ConfigDict, model: Any) -> dict[str, Any]:
  """What goes through the model in a step, as `flops.blocks` counts it.

  Every completion behind its prompt; the head sees completions alone, the tower
  a picture once for all of them.
  """
  batch = shapes(config, model)
  prompt, _ = model.lengths(batch)
  rows, tokens = config.batch_size * config.rl.group, config.rl.new_tokens
  shown = {k: v for k, v in batch.items() if k in ('pixels', 'plan')}
  return shown | {
    'tokens': jax.ShapeDtypeStruct((rows, prompt + tokens), jnp.int32),
    'scored': jax.ShapeDtypeStruct((rows, tokens), jnp.int32),
  }


def _needed(settings: ConfigDict) -> tuple[str, ...]:
  """Log-probabilities that a pass of its own finds out."""
  old = settings.updates > 1 or settings.ahead
  return ('old_logprobs',) * old + ('reference_logprobs',) * (settings.beta > 0)


def throughput(made: job.Job, mesh: jax.sharding.Mesh) -> Throughput:
  """Positions and FLOPs of one update; a step's time holds the sampling too."""
  shapes = seen(made.config, made.model)
  return Throughput(
    tokens=math.prod(shapes['tokens'].shape),
    flops=flops.train_flops(made.model.config, shapes),
    peak=peak_flops(list(mesh.devices.flat)),
  )


def batches(made: job.Job, mesh: jax.sharding.Mesh) -> OnPolicy:
  """The iterator of this process's batches of completions.

  Raises:
    ValueError: the prompt's own example earns no full format reward, or a
      prompt does not fit.
  """
  config = made.config
  settings, rewards = config.rl, made.task.rewards()
  check_specimens(made, rewards)
  layout = mesh_lib.reshaped(mesh, config.rollout.mesh, ROLLOUT_MESH)
  mesh_lib.check_batch_size(layout, config.batch_size)
  roller = Roller(
    made.model,
    Sampling(
      settings.new_tokens,
      job.stop_ids(made),
      temperature=settings.temperature,
    ),
    Scorer(
      rewards,
      threads=settings.reward_threads,
      seconds=settings.reward_seconds,
    ),
    layout,
    made.spec.seq_len,
    settings.group,
    made.chat.decode,
    config.seed,
    settings.normalise,
  )
  return OnPolicy(
    prompts(made, jax.process_index(), jax.process_count()),
    roller,
    publish=_publisher(made, mesh, layout),
    logprobs=_logprobs(made, mesh),
    updates=settings.updates,
    ahead=settings.ahead,
    rounds=settings.rounds,
    table=SampleTable(
      epath.Path(config.workdir) / 'samples',
      [reward.name for reward in rewards],
      settings.table_every,
      settings.updates,
    ),
  )


def check_specimens(made: job.Job, rewards: Any) -> None:
  """Checks the prompt's own example, as the tokenizer would give it back.

  Of the first usable row of every source.

  Raises:
    ValueError: see `check_format`; or it is longer than a completion may be.
  """
  sources, _ = made.task.train_rows()
  tokenizer, room = made.chat.tokenizer, made.config.rl.new_tokens
  for source in sources:
    record = _first_record(made.task, source)
    if record is None:
      continue
    text = made.task.specimen(record)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) >= room:
      raise ValueError(
        f"--config.rl.new_tokens={room}: the prompt's own example has "
        f'{len(ids)} tokens and an end: {text!r}'
      )
    check_format(rewards, made.chat.decode(ids), record)


def _first_record(task: Any, source: Any) -> Any:
  for row in range(min(TRIED, len(source))):
    try:
      return task.prompt(source[row], np.random.default_rng(0))['record']
    except BadRecord:
      continue
  return None


class _Prompts(grain.transforms.RandomMap):
  """Row -> a row of prompts, padded on the left; picklable."""

  def __init__(self, made: job.Job):
    self._task, self._encoder = made.task, made.encoder
    self._spec = made.prompt_spec

  def random_map(self, row: Any, rng: Any) -> dict[str, Any]:
    query = self._task.prompt(row, rng)
    sample = self._encoder.prompt(query)
    try:
      batch = left_padded([sample], self._spec)
    except BadRecord as bad:
      if bad.reason != 'too long':
        raise
      raise PromptTooLong(
        f'a prompt of {pack.sample_size(sample)} (tokens, {self._spec.units}, '
        f'visual tokens) in rows of {pack.row_size(self._spec)}; a prompt is '
        'never cut: raise --config.data.seq_len (units, visual_tokens)'
      ) from bad
    kept = {k: v for k, v in query.items() if k.startswith('_')}
    text = self._encoder.chat.render(query['messages'], True)
    return (
      jax.tree.map(lambda array: array[0], batch)
      | kept
      | {
        '_record': query['record'],
        '_prompt': text,
      }
    )


def prompts(made: job.Job, process_index: int = 0, process_count: int = 1):
  """The iterator of this process's prompts."""
  return job.stream(
    made,
    [_Prompts(made)],
    process_index=process_index,
    process_count=process_count,
  )


def _publisher(made: job.Job, mesh, layout):
  """state -> its parameters as the sampler wants them; see the module."""
  model, dtype = made.model, jnp.dtype(made.config.runtime.dtype)
  as_is = layout.shape == mesh.shape and all(
    leaf.dtype == dtype for leaf in jax.tree.leaves(model.abstract_params)
  )
  laid_out = jax.jit(
    lambda params: jax.tree.map(lambda leaf: leaf.astype(dtype), params),
    out_shardings=rules.shardings(
      layout, model.abstract_params, flag=ROLLOUT_MESH
    ),
  )

  def publish(state: Mapping[str, Any]) -> sampler.Weights:
    params = state['params']
    return sampler.prepare(model, params if as_is else laid_out(params))

  return publish


def _logprobs(made: job.Job, mesh):
  """(state, batch) -> the log-probabilities of `_needed`."""
  config, model = made.config, made.model
  needed = _needed(config.rl)
  optimizer = job.optimizer_of(config, model)
  score = make_logprobs(
    model,
    mesh=mesh,
    param_shardings=rules.shardings(mesh, model.abstract_params),
    accumulate=config.accumulate,
    loss_chunk=config.loss_chunk,
    temperature=config.rl.temperature,
  )

  def logprobs(state: Mapping[str, Any], batch: Mapping) -> dict[str, Any]:
    found = {}
    if needed:
      batch = to_global({k: batch[k] for k in READ if k in batch}, mesh)
    for name in needed:
      params = state['params']
      if name == 'reference_logprobs':
        _, frozen = optimizer.split(params)
        params = merge(state['reference'], frozen)
      found[name] = score(params, batch)
    return found

  return logprobs
