"""Trains and evaluates the arms of a miniature, several at a time on a CPU.

Models of these sizes gain nothing from a second core, so on a CPU every arm
gets a process with its share of threads. On an accelerator, which belongs to
one process, arms run in this one, one after the other.
"""

import concurrent.futures
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence

import jax
from etils import epath

from experiments.miniature import Arm, Outcome
from launch import console
from launch import evaluate as evaluation
from launch import train as training
from vlm.sharding import mesh as mesh_lib

POLL_SECONDS = 0.5
SAVE_SECONDS = 60
CACHE = 'compiled'  # of the folder of all arms

Progress = Callable[[Arm, int], None]


def default_workers(arms: int) -> int:
  """One arm per core on a CPU, or all if they are few; one elsewhere."""
  if jax.default_backend() != 'cpu':
    return 1
  cores = len(_cores()) or os.cpu_count() or 1
  # The last arms would leave cores idle if each had one to itself.
  return arms if arms < 2 * cores else cores


def run_arms(
  arms: Sequence[Arm],
  root: epath.Path,
  workers: int,
  progress: Progress = lambda arm, step: None,
) -> list[Outcome]:
  """Runs what `root` does not hold yet, continuing interrupted arms.

  Args:
    arms: what to train, in the order of the result.
    root: holds a folder per arm, named by the hash of its config.
    workers: arms at a time; 1 runs them in this process.
    progress: called with an arm and the steps it has done.

  Returns:
    The outcomes of all arms.

  Raises:
    ValueError: an arm needs one that is not among them.
  """
  cache = str(root / CACHE)
  _keep_compiled(cache)
  for stage in stages(arms, root):
    missing = [arm for arm in stage if not _kept(arm, root).exists()]
    if workers == 1:
      for arm in missing:
        run_arm(arm, root, lambda row, arm=arm: progress(arm, row['step']))
        progress(arm, arm.config.steps)
    elif missing:
      count = min(workers, len(missing))
      _run_in_processes(missing, root, count, progress, cache)
  outcomes = []
  for arm in arms:
    progress(arm, arm.config.steps)
    found = json.loads(_kept(arm, root).read_text())
    outcomes.append(Outcome(arm, **found))
  return outcomes


def stages(arms: Sequence[Arm], root: epath.Path) -> list[list[Arm]]:
  """Arms that can run at one time, those that others need first.

  Writes the folders of the arms that an arm needs into its config (`init_from`
  is one of them); the hash that names a folder thus covers all that came
  before.

  Raises:
    ValueError: an arm needs one that is not among them, or they need each
      other.
  """
  folders: dict[tuple[str, int], str] = {}
  waiting, found = list(arms), []
  while waiting:
    ready = [arm for arm in waiting if not _lacking(arm, folders)]
    if not ready:
      arm = waiting[0]
      raise ValueError(
        f'{arm.name!r}, seed {arm.seed}, needs {_lacking(arm, folders)}: not '
        'among the arms of its seed, or waiting itself'
      )
    for arm in ready:
      given = {
        field: folders[name, arm.seed] for field, name in arm.reads.items()
      }
      arm.config.update_from_flattened_dict(given)
    folders |= {(arm.name, arm.seed): str(_folder(arm, root)) for arm in ready}
    waiting = [arm for arm in waiting if (arm.name, arm.seed) not in folders]
    found.append(ready)
  return found


def _lacking(arm: Arm, folders: dict[tuple[str, int], str]) -> list[str]:
  """The arms it needs that have no folder yet."""
  return [n for n in arm.reads.values() if (n, arm.seed) not in folders]


def run_arm(
  arm: Arm,
  root: epath.Path,
  report_row: training.Report = lambda row: None,
) -> None:
  """Trains and evaluates one arm, and keeps its outcome under `root`."""
  folder = _folder(arm, root)
  arm.config.workdir = str(folder)
  started = time.perf_counter()
  made, state = training.run(arm.config, report_row=report_row)
  params = state['ema'] if arm.config.optimizer.ema else state['params']
  mesh = mesh_lib.make_mesh(arm.config.mesh)
  sets = evaluation.evaluate_job(made, params, mesh)
  measure = getattr(made.task, 'measure', lambda job, params: {})
  found = {
    'sets': sets,
    'measured': measure(made, params),
    'history': _rows(folder),
    'seconds': time.perf_counter() - started,
  }
  _write_whole(_kept(arm, root), json.dumps(found))


def _keep_compiled(folder: str) -> None:
  """Arms differ in data and rates, and compile the same programs.

  A folder that was chosen before is kept.
  """
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', folder)


def _run_in_processes(arms, root, workers, progress, cache) -> None:
  # XLA takes fresh memory for every step; huge pages make that a tenth cheaper.
  os.environ.setdefault('GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1')
  # Spawned, not forked: JAX's threads do not survive a fork.
  context = multiprocessing.get_context('spawn')
  threads = max(1, len(_cores()) // workers)
  with concurrent.futures.ProcessPoolExecutor(
    workers, context, _start_worker, (threads, cache)
  ) as pool:
    running = {pool.submit(run_arm, arm, root): arm for arm in arms}
    try:
      while running:
        done, _ = concurrent.futures.wait(running, POLL_SECONDS)
        for arm in running.values():
          progress(arm, _steps_done(arm, root))
        for future in done:
          running.pop(future)
          future.result()
    except BaseException:
      # The others save and leave, as when a machine is taken away.
      pool.shutdown(wait=False, cancel_futures=True)
      for process in multiprocessing.active_children():
        process.terminate()
      raise


def _start_worker(threads: int, cache: str) -> None:
  """Quiet, and with a thread pool of the given size.

  XLA sizes its pool by the cores it may use when it starts; afterwards the
  process may use all of them, so that none is idle while an arm waits.
  """
  console.quiet()
  _keep_compiled(cache)
  threading.Thread(target=leave_with_parent, daemon=True).start()
  cores = _cores()
  if not cores:
    return
  os.sched_setaffinity(0, sorted(cores)[:threads])
  jax.devices()
  for task in os.listdir('/proc/self/task'):
    os.sched_setaffinity(int(task), cores)


def leave_with_parent() -> None:
  """Waits for the parent's end, then has this process save and leave.

  A killed parent can tell its children nothing; they would train on unseen.
  """
  parent = multiprocessing.parent_process()
  multiprocessing.connection.wait([parent.sentinel])
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(SAVE_SECONDS)
  os._exit(1)


def _cores() -> set[int]:
  """The cores this process may use; empty where the system has no say."""
  if not hasattr(os, 'sched_getaffinity'):
    return set()
  return os.sched_getaffinity(0)


def _folder(arm: Arm, root: epath.Path) -> epath.Path:
  return root / f'{training.config_hash(arm.config)}-seed{arm.seed}'


def _kept(arm: Arm, root: epath.Path) -> epath.Path:
  return _folder(arm, root) / 'outcome.json'


def _rows(folder: epath.Path) -> list[dict]:
  """Whole log rows of a run; the last line may be half written."""
  path = folder / 'metrics.jsonl'
  if not path.exists():
    return []
  lines = path.read_text().splitlines(keepends=True)
  return [json.loads(line) for line in lines if line.endswith('\n')]


def _steps_done(arm: Arm, root: epath.Path) -> int:
  rows = _rows(_folder(arm, root))
  return rows[-1]['step'] if rows else 0


def _write_whole(path: epath.Path, text: str) -> None:
  """A file that is either absent or complete."""
  scratch = path.with_suffix('.partial')
  scratch.write_text(text)
  scratch.rename(path)
