"""What `config.objective` selects: one row per trainer.

Everything else about a run (mesh, optimiser, checkpoints, logs) is the same for
all of them; see launch/train.py and launch/compile.py.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from launch import job, rl
from vlm.train.metrics import Throughput
from vlm.train.sft import sft
from vlm.train.step import Objective


def _prepare(config: ConfigDict) -> Any:
  return job.prepare(config)


def _batches(made: Any, mesh: jax.sharding.Mesh) -> Any:
  del mesh  # These batches need no device.
  return job.training_batches(made, jax.process_index(), jax.process_count())


def _shapes(config: ConfigDict, model: Any) -> dict[str, Any]:
  return job.batch_of(config.batch_size, job.row_specs(config, model)[-1])


@dataclasses.dataclass(frozen=True)
class Trainer:
  """What is particular to one kind of training.

  Attributes:
    objective: (config, model) -> what a step minimises, see vlm/train/step.py.
    prepare: config -> what every other entry gets as `made`; it has at least
      the fields of `job.Job` that launch.train reads.
    batches: (made, mesh) -> the iterator of this process's batches; it has
      `close` and `stats`, and a state if the run is to be resumed.
    shapes: (config, model) -> the global batch of a step as ShapeDtypeStructs.
    reference: config -> whether the state keeps the first parameters too.
    throughput: (made, mesh) -> what a step costs, for the log; None counts one
      pass over the rows of a batch.
    scores: (made, params, mesh) -> {'<set>/<metric>': value}, at eval.every;
      None asks the task's questions.
  """

  objective: Callable[[ConfigDict, Any], Objective]
  prepare: Callable[[ConfigDict], Any] = _prepare
  batches: Callable[[Any, jax.sharding.Mesh], Any] = _batches
  shapes: Callable[[ConfigDict, Any], dict[str, Any]] = _shapes
  reference: Callable[[ConfigDict], bool] = lambda config: False
  throughput: Callable[[Any, jax.sharding.Mesh], Throughput] | None = None
  scores: Callable[..., Mapping[str, float]] | None = None


TRAINERS = {
  'sft': Trainer(
    lambda config, model: sft(model, loss_chunk=config.loss_chunk)
  ),
  'grpo': Trainer(
    rl.objective,
    prepare=rl.prepare,
    batches=rl.batches,
    shapes=rl.shapes,
    reference=lambda config: config.rl.beta > 0,
    throughput=rl.throughput,
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
