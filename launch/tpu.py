r"""Starts a training run on a TPU pod, and brings it back after a preemption.

  python -m launch.tpu --name=depth-7b --type=v5litepod-64 \
    --zone=us-west4-a --spot -- \
    --config=experiments/depthlm/depthlm.py:full \
    --config.workdir=gs://bucket/depth-7b

Everything after `--` goes to `launch.train` on every worker, unchanged. The
launcher asks for the slice, waits, copies the committed code (or clones
`--repo`), installs it, starts the workers, follows worker 0's log, and does it
again when the slice is taken away. Stopping it stops only the watching: the
same command attaches again. `--dry_run` prints the script instead; `--xpk`
submits a workload to a GKE cluster.
"""

import dataclasses
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app, flags

from launch.pods import scripts, topologies

FLAGS = flags.FLAGS
ROOT = Path(__file__).resolve().parents[1]


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  text, number, switch = (
    flags.DEFINE_string,
    flags.DEFINE_integer,
    flags.DEFINE_boolean,
  )
  text('name', None, 'Name of the queued resource or workload.', required=True)
  text('type', None, 'Accelerator type, e.g. v5litepod-64.', required=True)
  text('zone', None, 'Google Cloud zone.', required=True)
  text('project', '', "Google Cloud project; gcloud's default if empty.")
  switch('spot', False, 'Ask for preemptible capacity.')
  text('runtime_version', '', 'TPU VM image; by type if empty.')
  switch('copy', True, 'Copy the committed code of this checkout.')
  text('repo', '', 'Clone this git URL on the workers instead of copying.')
  text('ref', 'HEAD', 'Branch, tag or commit to copy or clone.')
  text('module', 'launch.train', 'The module to run on every worker.')
  number('coordinator_port', 8476, "Port of JAX's coordinator.")
  number('max_restarts', 100, 'How many preemptions to survive.')
  number('poll', 30, 'Seconds between two looks at the slice.')
  switch('delete_when_done', False, 'Give the slice back at the end.')
  switch('xpk', False, 'Submit a workload to a GKE cluster with xpk.')
  text('cluster', '', 'GKE cluster, with --xpk.')
  number('slices', 1, 'Number of slices, with --xpk.')
  text('image', 'python:3.12', 'Docker base image, with --xpk.')
  switch('dry_run', False, 'Print the script and stop.')


def check_arguments(arguments: list[str]) -> None:
  """Checks the flags for the training run before a slice is paid for.

  Args:
    arguments: what stands after `--`.

  Raises:
    ValueError: no config, a line break, or a work directory on local disk.
  """
  given = dict(_pairs(arguments))
  if 'config' not in given:
    raise ValueError(
      'no flags for the training run: write them after `--`, e.g. '
      '-- --config=experiments/depthlm/depthlm.py:full '
      '--config.workdir=gs://bucket/run'
    )
  workdir = given.get('config.workdir', '')
  if not workdir.startswith('gs://'):
    raise ValueError(
      f'--config.workdir={workdir!r}, expected a gs:// folder: the disk of a '
      'TPU VM is lost at a preemption and is not shared by the workers; add '
      '--config.workdir=gs://bucket/run after `--`'
    )
  for argument in arguments:
    if '\n' in argument:
      raise ValueError(f'line break in {argument!r}: not supported')


def _pairs(arguments):
  for i, argument in enumerate(arguments):
    if argument.startswith('-'):
      name, equals, value = argument.lstrip('-').partition('=')
      if not equals and i + 1 < len(arguments):
        value = arguments[i + 1]
      yield name, value


def check_job(job: scripts.Job, xpk: bool) -> None:
  """Checks the launcher's own flags.

  Raises:
    ValueError: a bad name, or flags that do not go together.
  """
  if not re.fullmatch(r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?', job.name):
    raise ValueError(
      f'--name={job.name!r}: expected at most 40 lower-case letters, digits '
      'and dashes, starting with a letter'
    )
  if xpk and not job.cluster:
    raise ValueError('--xpk needs --cluster, the name of a GKE cluster')
  if xpk and job.spot:
    raise ValueError('--spot is a property of the cluster with --xpk: drop it')
  if not xpk and job.slices != 1:
    raise ValueError(f'--slices={job.slices} needs --xpk')
  if not job.repo:
    _check_checkout(job)


def _check_checkout(job):
  if not FLAGS.copy:
    raise ValueError('--nocopy needs --repo, the git URL to clone')
  found = subprocess.run(
    ['git', '-C', job.checkout, 'status', '--porcelain'],
    capture_output=True,
    text=True,
  )
  if found.returncode:
    raise ValueError(
      f'{job.checkout} is not a git checkout, so its code cannot be copied: '
      'run from a clone, or give --repo and --ref'
    )
  if found.stdout:
    print(
      'launch.tpu: uncommitted changes are not copied:\n' + found.stdout,
      file=sys.stderr,
    )


def read_flags(arguments: list[str]) -> scripts.Job:
  """Makes a job of the flags.

  Args:
    arguments: what stands after `--`.
  """
  same = {field.name for field in dataclasses.fields(scripts.Job)}
  return scripts.Job(
    slice=topologies.from_type(FLAGS.type),
    runtime=FLAGS.runtime_version,
    checkout=str(ROOT),
    command=('-m', FLAGS.module, *arguments),
    **{name: FLAGS[name].value for name in sorted(same & set(FLAGS))},
  )


def main(argv: list[str]) -> None:
  """Prints or runs the script."""
  try:
    check_arguments(argv[1:])
    job = read_flags(argv[1:])
    check_job(job, FLAGS.xpk)
  except ValueError as error:
    sys.exit(f'launch.tpu: {error}')
  write = scripts.xpk_workload if FLAGS.xpk else scripts.queued_resource
  script = write(job)
  if FLAGS.dry_run:
    print(script, end='')
    return
  path = Path(tempfile.gettempdir()) / f'launch-{job.name}.sh'
  path.write_text(script)
  print(f'launch.tpu: running {path}', file=sys.stderr)
  sys.exit(subprocess.run(['bash', str(path)]).returncode)


if __name__ == '__main__':
  define_flags()
  app.run(main)
