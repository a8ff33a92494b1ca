"""What the objective 'regression' brings to launch.train: rows with a number.

`config.regression` says what is read (vlm/train/regression.py):

  of      'prompt', the last token of a question about a picture; or 'picture',
          the embedding of a tower
  column  of the head, the id of a token nobody writes; or of the embedding
  centre  what a state of zeros stands for
"""

from typing import Any

import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from data.examples import left_padded
from data.regressor import Encode, Regressor, encode_with
from experiments import task as tasks
from launch import job
from launch.objectives import pairs
from vlm.models import flops
from vlm.train import regression
from vlm.train.metrics import Throughput, peak_flops
from vlm.train.step import Objective

OF = ('prompt', 'picture')


def prepare(config: ConfigDict) -> Any:
  """The job: of prompts in rows of one shape, or of pictures.

  Raises:
    ValueError: naming the flag, for another `of`, or a task without a target.
  """
  of = config.regression.of
  if of not in OF:
    raise ValueError(f'--config.regression.of={of!r}, expected one of {OF}')
  made = job.prepare(config) if of == 'prompt' else pairs.prepare(config)
  if not hasattr(made.task, 'target'):
    raise ValueError(
      f'--config.task={config.task} has no number to learn: no target; see '
      'experiments/task.py'
    )
  return made


def model(config: ConfigDict) -> Any:
  """The model alone."""
  if config.regression.of == 'picture':
    return pairs.model_of(config)
  # A published checkpoint's shapes are known without its tokenizer.
  chat = None if config.model.preset else tasks.load(config).chat()
  return job.model_of(config, chat)


def read_of(config: ConfigDict, model: Any) -> regression.Reader:
  """How the config's number is read."""
  settings = config.regression
  return regression.reader(model, settings.column, settings.centre)


def objective(config: ConfigDict, model: Any) -> Objective:
  """The mean squared error."""
  return regression.regression(read_of(config, model))


def shapes(config: ConfigDict, model: Any) -> dict[str, Any]:
  """The global batch of a step."""
  rows = config.batch_size
  if config.regression.of == 'picture':
    batch = {'pixels': pairs.shapes(config, model)['pixels']}
  else:
    batch = job.batch_of(rows, job.row_specs(config, model)[-1])
    del batch['loss_mask']
  number = jax.ShapeDtypeStruct((rows,), np.float32)
  return batch | {'target': number, 'counted': number}


def seen(config: ConfigDict, model: Any) -> dict[str, Any] | None:
  """As of `flops.blocks`: the head sees one token of a prompt."""
  if config.regression.of == 'picture':
    return None
  batch = shapes(config, model)
  scored = jax.ShapeDtypeStruct((config.batch_size, 1), np.int32)
  return batch | {'scored': scored}


def throughput(made: Any, mesh: jax.sharding.Mesh) -> Throughput:
  """What a step costs; pictures stand for tokens where there are none."""
  config, model = made.config, made.model
  batch = seen(config, model) or shapes(config, model)
  return Throughput(
    tokens=batch.get('tokens', batch['target']).size,
    flops=flops.train_flops(made.model.config, batch),
    peak=peak_flops(list(mesh.devices.flat)),
  )


class _Numbers(grain.transforms.RandomMap):
  """Row -> arrays of a prompt or a picture with its number; picklable."""

  def __init__(self, made: Any):
    self._task, self._encoder = made.task, made.encoder
    self._spec = getattr(made, 'prompt_spec', None)

  def random_map(self, row: Any, rng: Any) -> dict[str, Any]:
    number = {
      'target': np.float32(self._task.target(row)),
      'counted': np.float32(1),
    }
    if self._spec is None:
      picture, _ = self._task.pair(row, rng)
      return number | {'pixels': self._encoder.picture(picture)[0]}
    prompt = self._encoder.prompt(self._task.prompt(row, rng))
    batch = left_padded([prompt], self._spec)
    return number | jax.tree.map(lambda array: array[0], batch)


def batches(made: Any, mesh: jax.sharding.Mesh) -> Any:
  """The iterator of this process's batches."""
  del mesh  # These batches need no device.
  return stream(made, _Numbers(made))


def stream(made: Any, rows: grain.transforms.RandomMap) -> Any:
  """Batches of rows that are arrays already, of this process."""
  return job.stream(
    made,
    [rows],
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def evaluate(
  made: Any, params: Any, mesh, *, progress=lambda name, done: None
) -> dict[str, dict[str, Any]]:
  """Reads the number of every question of every set.

  Args:
    made: the job.
    params: parameters on `mesh`.
    mesh: the mesh.
    progress: called with the set's name and what is done so far.

  Returns:
    {set: {'records': [...], 'scores': {...}, 'skipped': {...}}}; a record's
    `prediction` is a number.
  """
  read = read_of(made.config, made.model)
  encode = encode_with(made.encoder, getattr(made, 'prompt_spec', None))
  return evaluate_with(made, params, mesh, read, encode, progress)


def evaluate_with(
  made: Any,
  params: Any,
  mesh,
  read: regression.Reader,
  encode: Encode,
  progress,
) -> dict[str, dict[str, Any]]:
  """The same with another way to read, see `data.regressor`."""
  size = made.config.eval.batch_size
  regressor = Regressor(read, params, encode, mesh, size)
  answer = lambda queries: (
    example['record'] | {'prediction': number}
    for example, number in regressor(queries)
  )
  return tasks.scored(made.task, answer, progress)
