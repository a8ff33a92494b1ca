"""Starts JAX on every process of a job, or says who is missing.

    launch.train ... --coordinator_address=10.0.0.2:8476 --num_processes=4 \
      --process_id=1

On a Cloud TPU pod the three flags are found by themselves: the same command
runs on every worker.
"""

import dataclasses
import glob
import logging
import os
import urllib.request

import jax
from absl import flags

from launch.pods import rendezvous

COORDINATOR = flags.DEFINE_string(
  'coordinator_address', None, 'host:port of process 0; found on a TPU pod.'
)
NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Processes of the job; found on a TPU pod.'
)
PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Number of this process; found on a TPU pod.'
)
STARTUP_TIMEOUT = flags.DEFINE_float(
  'startup_timeout_s', 600.0, 'How long to wait for the other processes.'
)

# The port that the firewall of Cloud TPU networks has always let through;
# JAX's own default moved to another one in 0.8.1.
PORT = 8476

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Job:
  """Which processes there are, and which one this is."""

  coordinator: str
  count: int
  index: int


def initialize_from_flags() -> Job | None:
  """Like `initialize`, with the job from the flags or the TPU environment."""
  given = {
    'coordinator_address': COORDINATOR.value,
    'num_processes': NUM_PROCESSES.value,
    'process_id': PROCESS_ID.value,
  }
  absent = [f'--{name}' for name, value in given.items() if value is None]
  if len(absent) == 3:
    job = find_job()
  elif absent:
    raise ValueError(
      f'{", ".join(absent)} missing: a job of several processes needs all of'
      ' --coordinator_address, --num_processes and --process_id.'
    )
  else:
    job = Job(*given.values())
  return initialize(job, timeout_s=STARTUP_TIMEOUT.value)


def initialize(job: Job | None, *, timeout_s: float = 600.0) -> Job | None:
  """Joins the job; must run before anything touches a device.

  Args:
    job: The job, or None for a single process.
    timeout_s: Seconds to wait for the other processes.

  Returns:
    The job, None when this process is alone.

  Raises:
    MissingWorkers: names the processes that did not come.
    ValueError: process numbers or counts contradict each other.
  """
  if job is None or job.count == 1:
    return None
  if not 0 <= job.index < job.count:
    raise ValueError(
      f'--process_id={job.index} must lie in 0..{job.count - 1}'
      f' (--num_processes={job.count}).'
    )
  if jax.config.jax_platforms == 'cpu':
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  rendezvous.meet(job.coordinator, job.count, job.index, timeout_s=timeout_s)
  jax.distributed.initialize(
    job.coordinator,
    job.count,
    job.index,
    initialization_timeout=int(timeout_s),
  )
  log.info('Process %d of %d is up.', job.index, job.count)
  return job


def find_job() -> Job | None:
  """The job of a TPU pod: from GKE's variables or the VM's metadata server.

  Several slices (MEGASCALE_* variables) are numbered slice by slice.
  """
  names = os.environ.get('TPU_WORKER_HOSTNAMES', '').split(',')
  index = os.environ.get('TPU_WORKER_ID')
  if len(names) == 1 and _has_tpu_vm():
    # "uid:port:ip,uid:port:ip,...", one entry per worker
    endpoints = _metadata('worker-network-endpoints').split(',')
    names = [endpoint.split(':')[-1] for endpoint in endpoints]
    index = _metadata('agent-worker-number')
  slices = int(os.environ.get('MEGASCALE_NUM_SLICES', '1'))
  if len(names) * slices == 1:
    return None
  if index is None:
    raise ValueError('TPU_WORKER_HOSTNAMES is set but TPU_WORKER_ID is not.')
  host = os.environ.get('MEGASCALE_COORDINATOR_ADDRESS', names[0])
  slice_index = int(os.environ.get('MEGASCALE_SLICE_ID', '0'))
  return Job(
    coordinator=f'{host.split(":")[0]}:{PORT}',
    count=len(names) * slices,
    index=slice_index * len(names) + int(index),
  )


def _has_tpu_vm() -> bool:
  chips = glob.glob('/dev/accel*') or glob.glob('/dev/vfio/[0-9]*')
  wanted = jax.config.jax_platforms in (None, '', 'tpu')
  return bool(chips) and wanted and 'TPU_SKIP_MDS_QUERY' not in os.environ


def _metadata(attribute: str) -> str:
  host = os.environ.get('GCE_METADATA_HOST', 'metadata.google.internal')
  request = urllib.request.Request(
    f'http://{host}/computeMetadata/v1/instance/attributes/{attribute}',
    headers={'Metadata-Flavor': 'Google'},
  )
  with urllib.request.urlopen(request, timeout=10) as answer:
    return answer.read().decode().strip()
