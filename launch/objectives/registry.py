"""What `config.objective` selects: one row per trainer.

Everything else about a run (mesh, optimiser, checkpoints, logs) is the same for
all of them; see launch/train.py and launch/compile.py.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from experiments import task as tasks
from launch import job
from launch.objectives import levels, pairs, prototypes, regression, rl
from vlm.train.metrics import Throughput
from vlm.train.sft import sft
from vlm.train.step import Absorb, Objective


def _prepare(config: ConfigDict) -> Any:
  return job.prepare(config)


def _batches(made: Any, mesh: jax.sharding.Mesh) -> Any:
  del mesh  # These batches need no device.
  return job.training_batches(made, jax.process_index(), jax.process_count())


def _model(config: ConfigDict) -> Any:
  # A published checkpoint's shapes are known without its tokenizer.
  chat = None if config.model.preset else tasks.load(config).chat()
  return job.model_of(config, chat)


def _shapes(config: ConfigDict, model: Any) -> dict[str, Any]:
  return job.batch_of(config.batch_size, job.row_specs(config, model)[-1])


def _batch_itself(config: ConfigDict, model: Any) -> None:
  del config, model


def _rollout(config: ConfigDict) -> tuple[int, int, int]:
  rollout = config.rollout
  return rollout.rows, rollout.samples, rollout.new_tokens


@dataclasses.dataclass(frozen=True)
class Trainer:
  """What is particular to one kind of training.

  Attributes:
    objective: (config, model) -> what a step minimises, see vlm/train/step.py.
    prepare: config -> what every other entry gets as `made`; it has at least
      the fields of `job.Job` that launch.train reads.
    batches: (made, mesh) -> the iterator of this process's batches; it has
      `close` and `stats`, and a state if the run is to be resumed.
    model: config -> the model alone, for launch.compile, which has no data.
    shapes: (config, model) -> the global batch of a step as ShapeDtypeStructs.
    cached: the objective itself goes through the batch in config.accumulate
      parts, each embedded twice; the step takes it whole.
    seen: (config, model) -> what goes through the model in a step, as
      `vlm.models.flops.blocks` counts it; None: the batch.
    rollout: config -> (prompts, continuations of each, longest) of its sampler;
      None where the model writes nothing.
    prompts: the field that has the first of them.
    reference: config -> whether the state keeps the first parameters too.
    evaluate: (made, params, mesh, *, progress) -> {set: {'records', 'scores',
      'skipped'}}; None asks the task's questions (launch/evaluate.py).
    throughput: (made, mesh) -> what a step costs, for the log; None counts one
      pass over the rows of a batch.
    absorb: config -> how frozen parameters follow a step, see `make_step`.
    renew: (made, mesh) -> (what renews the state between steps, every so many
      steps), or None.
  """

  objective: Callable[[ConfigDict, Any], Objective]
  prepare: Callable[[ConfigDict], Any] = _prepare
  batches: Callable[[Any, jax.sharding.Mesh], Any] = _batches
  model: Callable[[ConfigDict], Any] = _model
  shapes: Callable[[ConfigDict, Any], dict[str, Any]] = _shapes
  cached: bool = False
  seen: Callable[[ConfigDict, Any], dict[str, Any] | None] = _batch_itself
  rollout: Callable[[ConfigDict], tuple[int, int, int]] | None = _rollout
  prompts: str = 'rollout.rows'
  reference: Callable[[ConfigDict], bool] = lambda config: False
  evaluate: Callable[..., dict[str, dict[str, Any]]] | None = None
  throughput: Callable[[Any, jax.sharding.Mesh], Throughput] | None = None
  absorb: Callable[[ConfigDict], Absorb | None] = lambda config: None
  renew: Callable[[Any, jax.sharding.Mesh], Any] = lambda made, mesh: None


_REGIONS = Trainer(
  prototypes.objective,
  prepare=prototypes.prepare,
  batches=prototypes.training_batches,
  model=prototypes.shaped_model,
  shapes=prototypes.shapes,
  rollout=None,
  evaluate=prototypes.evaluate,
  throughput=prototypes.throughput,
  absorb=prototypes.absorb,
  renew=prototypes.renewal,
)

TRAINERS = {
  'contrastive': Trainer(
    pairs.objective,
    prepare=pairs.prepare,
    batches=pairs.training_batches,
    model=pairs.model_of,
    shapes=pairs.shapes,
    cached=True,
    rollout=None,
    evaluate=pairs.evaluate,
    throughput=pairs.throughput,
  ),
  'sft': Trainer(
    lambda config, model: sft(model, loss_chunk=config.loss_chunk)
  ),
  'prototypes': _REGIONS,
  'region_text': _REGIONS,
  'grpo': Trainer(
    rl.objective,
    prepare=rl.prepare,
    batches=rl.batches,
    shapes=rl.shapes,
    seen=rl.seen,
    rollout=rl.rollout,
    prompts='batch_size',
    reference=lambda config: config.rl.beta > 0,
    throughput=rl.throughput,
  ),
  'levels': Trainer(
    levels.objective,
    prepare=levels.prepare,
    batches=levels.batches,
    shapes=levels.shapes,
    seen=levels.seen,
    rollout=None,
    evaluate=levels.evaluate,
  ),
  'regression': Trainer(
    regression.objective,
    prepare=regression.prepare,
    batches=regression.batches,
    model=regression.model,
    shapes=regression.shapes,
    seen=regression.seen,
    rollout=None,
    evaluate=regression.evaluate,
    throughput=regression.throughput,
  ),
}


def trainer_of(config: ConfigDict) -> Trainer:
  """The trainer that `config.objective` names.

  Raises:
    ValueError: there is none of that name.
  """
  if config.objective not in TRAINERS:
    raise ValueError(
      f'--config.objective={config.objective!r}, expected one of '
      f'{sorted(TRAINERS)}'
    )
  return TRAINERS[config.objective]
