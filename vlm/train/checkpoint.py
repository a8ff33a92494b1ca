"""Checkpoints: written in the background, proven whole before they are read.

    <directory>/00000020/            one checkpoint, committed by Orbax's rename
      ...                            arrays (OCDBT), written by all processes
      manifest_0-of-1.json           last: facts, data iterator, checksums

`directory` is a local path or `gs://bucket/...`. A state is a pure nested dict
of arrays; anything else that must survive (the position in the data, the open
metric window) travels as JSON in the manifest of the process that owns it.
"""

import concurrent.futures
import dataclasses
import json
import logging
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from vlm.train import manifest
from vlm.train.structure import check_same_structure

FORMAT = 1
UNFINISHED = 'it was never finished (no complete manifest)'

log = logging.getLogger(__name__)


class NoGoodCheckpoint(RuntimeError):
  """Checkpoints exist, and none of them is whole."""


@dataclasses.dataclass(frozen=True)
class Facts:
  """What a checkpoint says about itself, beside its arrays."""

  step: int
  metrics: dict[str, float]
  progress: dict
  config_hash: str
  workers: int
  processes: int


class Checkpoints:
  """The checkpoints of one run."""

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    keep_last: int = 3,
    keep_best: str = '',
    best_mode: str = 'max',
    workers: int = 0,
    config_hash: str = '',
  ):
    """Opens (and creates) the directory.

    Args:
      directory: Local or gs:// folder of this run's checkpoints.
      keep_last: How many of the newest to keep, at least 1.
      keep_best: Name of a metric; the best checkpoint by it is kept as well.
      best_mode: 'max' or 'min', for keep_best.
      workers: Data workers of this run; the iterator's state depends on it.
      config_hash: Written into every checkpoint, for the reader's eyes.

    Raises:
      ValueError: keep_last or best_mode is out of range.
    """
    if keep_last < 1:
      raise ValueError(f'checkpoint.keep_last must be >= 1, got {keep_last}.')
    if best_mode not in ('min', 'max'):
      raise ValueError(f"best_mode must be 'min' or 'max', got {best_mode!r}.")
    self.directory = _absolute(directory)
    self.directory.mkdir(parents=True, exist_ok=True)
    self._keep_last, self._keep_best = keep_last, keep_best
    self._sign = 1 if best_mode == 'max' else -1
    self._workers, self._config_hash = workers, config_hash
    self._writer = concurrent.futures.ThreadPoolExecutor(
      1, thread_name_prefix='checkpoint'
    )
    self._pending: concurrent.futures.Future | None = None
    self._damaged: set[int] = set()
    self._verified: set[int] = set()
    self._newest: int | None = None  # saved or restored by this object
    self._swept = False

  def path(self, step: int) -> epath.Path:
    """Folder of the checkpoint of `step`."""
    return self.directory / f'{step:08d}'

  def steps(self) -> list[int]:
    """Steps of the finished checkpoints, ascending (bytes not verified)."""
    return [s for s in self._folders() if manifest.is_complete(self.path(s))]

  def save(
    self,
    step: int,
    state: Mapping[str, Any],
    *,
    data: Any = None,
    metrics: Mapping[str, float] | None = None,
    progress: dict | None = None,
  ) -> None:
    """Starts a save; returns as soon as the arrays have left the devices.

    A previous save still running is waited for; its error is raised here.

    Args:
      step: Number of finished steps.
      state: Nested dict of arrays. It may be donated once this returns.
      data: The grain iterator of this process; its position now is kept.
      metrics: Scores of this state, for keep_best.
      progress: JSON the training loop wants back.
    """
    self.wait()
    if step == self._newest:
      return
    self._sweep(step)
    facts = Facts(
      step,
      dict(metrics or {}),
      progress or {},
      self._config_hash,
      self._workers,
      jax.process_count(),
    )
    if self._keep_best and self._keep_best not in facts.metrics:
      log.warning(
        'checkpoint.keep_best=%r is not among the metrics known at step %d'
        ' (%s): this checkpoint cannot become the best one.',
        self._keep_best,
        step,
        ', '.join(sorted(facts.metrics)) or 'none yet',
      )
    payload = {
      'format': FORMAT,
      **dataclasses.asdict(facts),
      'data': None if data is None else _frozen(data.get_state()),
    }
    response = ocp.save_async(self.path(step), state, overwrite=True)
    self._newest = step
    self._pending = self._writer.submit(self._finish, step, response, payload)

  def wait(self) -> None:
    """Waits until the running save is complete on every process.

    Raises:
      Exception: whatever the save in the background died of.
    """
    if self._pending is None:
      return
    pending, self._pending = self._pending, None
    pending.result()
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('checkpoint complete')

  def check(self) -> None:
    """Raises what the save in the background died of, if it has; no waiting."""
    pending = self._pending
    if pending is not None and pending.done() and pending.exception():
      self.wait()

  def close(self) -> None:
    """Waits, then ends the background thread."""
    try:
      self.wait()
    finally:
      self._writer.shutdown()

  def latest(self) -> int | None:
    """The newest step whose bytes are proven whole; None in a fresh run.

    A checkpoint that is not whole is skipped with a warning which names the
    file. A lone checkpoint without manifest is a first save that was killed:
    the run starts afresh.

    Raises:
      NoGoodCheckpoint: there are checkpoints, and all are damaged.
    """
    reasons = {}
    folders = self._folders()
    for step in reversed(folders):
      reason = self._why_bad(step)
      if reason is None:
        return step
      reasons[step] = reason
      self._damaged.add(step)
      log.warning('Skipping checkpoint %s: %s.', self.path(step), reason)
    if not reasons or list(reasons.values()) == [UNFINISHED]:
      return None
    raise NoGoodCheckpoint(
      f'No checkpoint under {self.directory} is whole:\n'
      + '\n'.join(f'  {self.path(s)}: {why}' for s, why in reasons.items())
      + '\nRemove them to start afresh, or give another --config.workdir.'
    )

  def best(self) -> int | None:
    """Step of the best kept checkpoint by `keep_best`, if there is one."""
    scores = {}
    for step in self.steps():
      if step in self._damaged:
        continue
      try:
        score = self.facts(step).metrics.get(self._keep_best)
      except manifest.Damaged:
        continue
      if score is not None and math.isfinite(score):
        scores[step] = self._sign * score
    return max(scores, key=lambda s: (scores[s], s), default=None)

  def facts(self, step: int) -> Facts:
    """What the checkpoint of `step` says about itself.

    Raises:
      Damaged: the manifest is unreadable.
    """
    payload = dict(manifest.read(self.path(step))[0]['payload'])
    payload.pop('data'), payload.pop('format')
    return Facts(**payload)

  def restore(
    self,
    abstract: Mapping[str, Any],
    *,
    step: int,
    data: Any = None,
    partial: bool = False,
  ) -> tuple[dict, Facts]:
    """Reads a checkpoint into the shardings of `abstract`.

    Args:
      abstract: Tree of jax.ShapeDtypeStruct with shardings; the mesh may
        differ from the one that saved.
      step: From latest(), which verified it, or from best().
      data: Grain iterator of this process, moved to the saved position.
      partial: Read only the top-level keys that `abstract` has (evaluation).

    Returns:
      The state, and the checkpoint's facts.

    Raises:
      ValueError: the structure differs (paths named), or the data position
        was written by another number of workers or processes (flag named).
      Damaged: a file is not what was written.
    """
    path = self.path(step)
    if step not in self._verified and (reason := self._why_bad(step)):
      raise manifest.Damaged(f'{path}: {reason}')
    shares = manifest.read(path)
    version = shares[0]['payload']['format']
    if version != FORMAT:
      raise ValueError(
        f'{path} has format {version}, this code reads {FORMAT}.'
      )
    saved = ocp.metadata(path).metadata
    if partial:
      saved = {name: saved[name] for name in abstract if name in saved}
    check_same_structure(saved, abstract, where=str(path))
    facts = self.facts(step)
    if data is not None:
      self._check_topology(facts, path)
      data.set_state(shares[jax.process_index()]['payload']['data'])
    context = ocp.Context()
    context.pytree.loading.partial_load = partial
    with context:
      state = ocp.load(path, dict(abstract))
    self._newest = self._newest if partial else step
    return state, facts

  def _check_topology(self, facts: Facts, path: epath.Path) -> None:
    pairs = (
      ('--config.data.workers', facts.workers, self._workers),
      ('--num_processes', facts.processes, jax.process_count()),
    )
    for flag, saved, ours in pairs:
      if saved != ours:
        raise ValueError(
          f'The data position in {path} was written with {flag}={saved}, this'
          f' run has {ours}: the order of samples would change. Resume with'
          f' {flag}={saved}.'
        )

  def _why_bad(self, step: int) -> str | None:
    """Reason why a checkpoint cannot be used; all processes agree on it."""
    reason = None
    path, count = self.path(step), jax.process_count()
    if manifest.is_complete(path):
      try:
        manifest.verify(path, process=jax.process_index(), count=count)
      except (manifest.Damaged, OSError) as error:
        reason = str(error)
    else:
      reason = UNFINISHED
    if count > 1:  # the shares of the bytes were split among the processes
      bad = multihost_utils.process_allgather(np.int32(reason is not None))
      if reason is None and bad.any():
        reason = f'process {int(np.argmax(bad))} found a damaged file'
    if reason is None:
      self._verified.add(step)
    return reason

  def _folders(self) -> list[int]:
    return sorted(
      int(p.name) for p in self.directory.iterdir() if p.name.isdigit()
    )

  def _sweep(self, step: int) -> None:
    """Clears what killed saves left behind, before the first save."""
    if self._swept or jax.process_index():
      return
    self._swept = True
    for path in self.directory.iterdir():
      if path.name.isdigit():
        if int(path.name) != step and not manifest.is_complete(path):
          path.rmtree()
      elif '.orbax-checkpoint-tmp' in path.name:
        path.rmtree()

  def _finish(self, step: int, response: Any, payload: dict) -> None:
    """Background: waits for Orbax, gives the word, drops old checkpoints."""
    response.result()
    manifest.write(
      self.path(step),
      payload,
      process=jax.process_index(),
      count=payload['processes'],
    )
    self._damaged.discard(step)
    if jax.process_index() == 0:
      self._drop_old(step)

  def _drop_old(self, newest: int) -> None:
    done = [s for s in self.steps() if s not in self._damaged]
    keep = {newest, *done[-self._keep_last :]}
    if self._keep_best:
      keep.add(self.best())
    for step in self._folders():
      if step not in keep:
        manifest.remove(self.path(step))
        self.path(step).rmtree()


def _absolute(directory: str | os.PathLike) -> epath.Path:
  """Orbax refuses relative paths, and only once a save has begun."""
  text = os.fspath(directory)
  return epath.Path(text if '://' in text else os.path.abspath(text))


def _frozen(state: Any) -> Any:
  """A copy that later steps of the iterator cannot change."""
  return json.loads(json.dumps(state))
