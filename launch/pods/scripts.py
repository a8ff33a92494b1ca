"""The bash scripts that put one training command on every worker of a pod.

Two ways in: a queued resource of TPU VMs (`queued_resource`), or a workload on
a GKE cluster through xpk (`xpk_workload`). A script is the whole truth: what
`launch.tpu --dry_run` prints is what runs, and it can be kept and run again.
"""

import dataclasses
import shlex

from launch.pods.topologies import Slice

# Exit code of a run that saved after a preemption signal and wants to go on:
# vlm.train.preemption.EXIT_CODE, without importing JAX.
INTERRUPTED = 75


@dataclasses.dataclass(frozen=True)
class Job:
  """What to run and where.

  Attributes:
    name: of the queued resource, its node and the folder on the workers.
    slice: the TPU slice.
    zone: Google Cloud zone.
    project: Google Cloud project, '' for gcloud's own default.
    spot: ask for preemptible capacity.
    runtime: TPU VM image.
    checkout: folder of the local git checkout to copy from.
    repo: git URL to clone on the workers instead of copying, or ''.
    ref: branch, tag or commit.
    command: `python` arguments, e.g. ('-m', 'launch.train', '--config=...').
    coordinator_port: port of JAX's coordinator on worker 0.
    max_restarts: how many preemptions to survive.
    poll: seconds between two looks at the state.
    delete_when_done: give the slice back when the run has ended.
    cluster: GKE cluster (xpk only).
    slices: number of slices (xpk only).
    image: docker base image (xpk only).
  """

  name: str
  slice: Slice
  zone: str
  command: tuple[str, ...]
  project: str = ''
  spot: bool = False
  runtime: str = ''
  checkout: str = '.'
  repo: str = ''
  ref: str = 'HEAD'
  coordinator_port: int = 8476
  max_restarts: int = 100
  poll: int = 30
  delete_when_done: bool = False
  cluster: str = ''
  slices: int = 1
  image: str = 'python:3.12'


HEADER = """\
#!/usr/bin/env bash
# Written by launch.tpu. Safe to run again: it attaches to what is there, and
# training goes on from the last checkpoint in the work directory.
# {type} is {topology}: {chips} chips, {hosts} workers. Does it fit? Ask first:
#   python -m launch.compile --config=... --topology={topology}
set -euo pipefail
export CLOUDSDK_CORE_DISABLE_PROMPTS=1

"""

# Runs on every worker. uv brings a Python that the image does not have (it has
# 3.10; this package needs 3.11) and installs the pinned ranges of setup.py.
SETUP = """\
set -e
mkdir -p "$HOME/vlm/{name}"
cd "$HOME/vlm/{name}"
if kill -0 "$(cat pid 2>/dev/null)" 2>/dev/null; then exit 0; fi
rm -rf code
{fetch}
python3 -m pip install --quiet --user --upgrade uv
UV="$HOME/.local/bin/uv"
"$UV" venv --quiet --clear --python 3.12 venv
cd code
VIRTUAL_ENV=../venv "$UV" pip install --quiet '.[tpu]'
"""

# JAX listens on 8482 since 0.8.1, while the default firewall of Cloud TPU
# opens 8476: the workers would wait for each other until the timeout.
COORDINATOR = """\
ENDPOINTS="$(curl -sf -H 'Metadata-Flavor: Google' http://metadata.google.\
internal/computeMetadata/v1/instance/attributes/worker-network-endpoints)"
FIRST="${{ENDPOINTS%%,*}}"
export JAX_COORDINATOR_ADDRESS="${{FIRST##*:}}:{port}"
"""

# gcloud repeats a command whose connection broke, so a start that finds the
# run alive must leave it alone.
START = """\
set -e
cd "$HOME/vlm/{name}"
if kill -0 "$(cat pid 2>/dev/null)" 2>/dev/null; then
  echo 'already running: attaching'
  exit 0
fi
cat > run.sh <<'RUN'
set -e
cd "$HOME/vlm/{name}/code"
{coordinator}export PYTHONUNBUFFERED=1
CODE=0
../venv/bin/python {command} || CODE=$?
echo "$CODE" > ../exit_code
RUN
rm -f exit_code
nohup bash run.sh > train.log 2>&1 < /dev/null &
echo "$!" > pid
"""

FOLLOW = """\
cd "$HOME/vlm/{name}"
tail --pid="$(cat pid)" -n +1 -F train.log
exit "$(cat exit_code 2>/dev/null || echo 1)"
"""

LAST_LINES = """\
echo "--- $(hostname): exit code $(cat "$HOME/vlm/{name}/exit_code"), log:"
tail -n 40 "$HOME/vlm/{name}/train.log"
"""

POD = """\
NAME={name}
AT=({at})
RESTARTS=0

say() {{ printf '[launch.tpu] %s\\n' "$*" >&2; }}

on() {{  # on WORKER COMMAND
  gcloud compute tpus tpu-vm ssh "$NAME" "${{AT[@]}}" \\
    --worker="$1" --command="$2"
}}

state() {{
  local out look
  for look in 1 2 3 4 5; do
    if out="$(gcloud compute tpus queued-resources describe "$NAME" \\
        "${{AT[@]}}" --format='value(state.state)' 2>&1)"; then
      tail -n 1 <<< "$out"
      return
    elif [[ "$out" == *NOT_FOUND* ]]; then
      echo ABSENT
      return
    fi
    say "cannot read the state of $NAME (look $look of 5): $out"
    sleep {poll}
  done
  return 1
}}

create() {{
  {create}
}}

delete() {{
  gcloud compute tpus queued-resources delete "$NAME" "${{AT[@]}}" --force
}}

restart() {{
  RESTARTS=$((RESTARTS + 1))
  if (( RESTARTS > {max_restarts} )); then
    say "gave up after {max_restarts} restarts (--max_restarts); last: $1"
    exit 1
  fi
  say "restart $RESTARTS of {max_restarts}: $1"
}}

wait_until_active() {{
  local now
  while true; do
    now="$(state)"
    case "$now" in
      ACTIVE) return ;;
      ABSENT) say "creating $NAME"; create ;;
      SUSPENDED) say "$NAME was taken away; asking again"; delete ;;
      FAILED)
        say "Google Cloud refused $NAME:"
        gcloud compute tpus queued-resources describe "$NAME" "${{AT[@]}}" >&2
        exit 1
        ;;
      *) say "$NAME is $now; waiting"; sleep {poll} ;;
    esac
  done
}}

set_up() {{
{upload}  on all "$SETUP"
}}

# A run also dies because its slice is being taken away; the state says so only
# a little later.
was_preempted() {{
  local look
  for look in 1 2 3 4; do
    if [[ "$(state)" != ACTIVE ]]; then return 0; fi
    sleep {poll}
  done
  return 1
}}

read -r -d '' SETUP <<'REMOTE' || true
{setup}REMOTE

read -r -d '' START <<'REMOTE' || true
{start}REMOTE

read -r -d '' FOLLOW <<'REMOTE' || true
{follow}REMOTE

read -r -d '' LAST_LINES <<'REMOTE' || true
{last_lines}REMOTE

trap 'say "stopped watching; run this again to attach"; exit 130' INT

while true; do
  wait_until_active
  say "setting up the workers"
  CODE=0
  {{ set_up && on all "$START"; }} || CODE=$?
  if (( CODE == 0 )); then
    say "log of worker 0:"
    on 0 "$FOLLOW" || CODE=$?
    if (( CODE == 0 )); then break; fi
  fi
  if (( CODE == {interrupted} )) || was_preempted; then
    restart "preempted; resuming from the last checkpoint"
    continue
  fi
  say "the run failed with exit code $CODE; the end of each worker's log:"
  on all "$LAST_LINES" || true
  exit "$CODE"
done

say "the run has ended"
{finish}
"""

XPK = """\
{stage}LOGS="jobset.sigs.k8s.io/jobset-name={name}"
LOGS="$LOGS,batch.kubernetes.io/job-completion-index=0"

{create}

# GKE restarts a preempted workload itself (--max-restarts), so the log of
# worker 0 is followed from pod to pod until the workload has ended.
xpk workload list --cluster={cluster} {at} \\
  --wait-for-job-completion={name} &
WAITER=$!
while kill -0 "$WAITER" 2>/dev/null; do
  kubectl logs --follow --selector="$LOGS" --tail=-1 || true
  sleep {poll}
done
wait "$WAITER"
"""


def queued_resource(job: Job) -> str:
  """Writes the script for TPU VMs."""
  coordinator = COORDINATOR.format(port=job.coordinator_port)
  return _header(job) + POD.format(
    name=job.name,
    at=_at(job),
    create=_lines(
      'gcloud compute tpus queued-resources create "$NAME" "${AT[@]}"',
      '--node-id="$NAME"',
      f'--accelerator-type={job.slice.type}',
      f'--runtime-version={job.runtime or job.slice.chip.runtime}',
      *(['--spot'] if job.spot else []),
    ),
    upload='' if job.repo else _upload(job),
    setup=SETUP.format(name=job.name, fetch=_fetch(job)),
    start=START.format(
      name=job.name,
      coordinator=coordinator if job.slice.hosts > 1 else '',
      command=shlex.join(job.command),
    ),
    follow=FOLLOW.format(name=job.name),
    last_lines=LAST_LINES.format(name=job.name),
    max_restarts=job.max_restarts,
    poll=job.poll,
    interrupted=INTERRUPTED,
    finish=_finish(job),
  )


def xpk_workload(job: Job) -> str:
  """Writes the script for a workload on a GKE cluster."""
  command = f"pip install --quiet '.[tpu]' && python {shlex.join(job.command)}"
  if job.repo:
    command = f'{_clone(job)} && cd code && {command}'
    stage, folder = 'STAGE="$(mktemp -d)"\n', '"$STAGE"'
  else:
    stage = (
      'STAGE="$(mktemp -d)"\n'
      f'git -C {shlex.quote(job.checkout)} archive {shlex.quote(job.ref)}'
      ' | tar x -C "$STAGE"\n'
    )
    folder = '"$STAGE"'
  return _header(job) + XPK.format(
    name=job.name,
    stage=stage,
    cluster=shlex.quote(job.cluster),
    at=_at(job),
    create=_lines(
      f'xpk workload create --workload={job.name} {_at(job)}',
      f'--cluster={shlex.quote(job.cluster)}',
      f'--tpu-type={job.slice.type} --num-slices={job.slices}',
      f'--base-docker-image={shlex.quote(job.image)} --script-dir={folder}',
      f'--max-restarts={job.max_restarts} --restart-on-user-code-failure',
      f'--command={shlex.quote(command)}',
      indent='',
    ),
    poll=job.poll,
  )


def _header(job: Job) -> str:
  return HEADER.format(
    type=job.slice.type,
    topology=job.slice.name,
    chips=job.slice.chips,
    hosts=job.slice.hosts,
  )


def _at(job: Job) -> str:
  zone = f'--zone={shlex.quote(job.zone)}'
  return zone + (
    f' --project={shlex.quote(job.project)}' if job.project else ''
  )


def _upload(job: Job) -> str:
  archive = f'git -C {shlex.quote(job.checkout)} archive --format=tar.gz'
  return (
    '  local archive\n'
    '  archive="$(mktemp -d)/code.tar.gz" &&\n'
    f'  {archive} -o "$archive" {shlex.quote(job.ref)} &&\n'
    '  gcloud compute tpus tpu-vm scp "$archive" \\\n'
    f'    "$NAME:{job.name}.tar.gz" "${{AT[@]}}" --worker=all &&\n'
  )


def _fetch(job: Job) -> str:
  if job.repo:
    return _clone(job)
  return f'mkdir code\ntar xzf "$HOME/{job.name}.tar.gz" -C code'


def _clone(job: Job) -> str:
  return (
    f'git clone --quiet {shlex.quote(job.repo)} code && '
    f'git -C code checkout --quiet {shlex.quote(job.ref)}'
  )


def _finish(job: Job) -> str:
  if job.delete_when_done:
    return 'delete'
  command = f'gcloud compute tpus queued-resources delete {job.name}'
  return (
    'say "the slice still costs money; to give it back:"\n'
    f'say {shlex.quote(f"{command} {_at(job)} --force")}'
  )


def _lines(*parts: str, indent: str = '  ') -> str:
  return f' \\\n{indent}  '.join(parts)
