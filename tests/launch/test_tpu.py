"""The pod launcher, as text and against a stand-in gcloud."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launch.pods import scripts, topologies
from vlm.train import metrics, preemption

ROOT = Path(__file__).resolve().parents[2]
RUN = (
  '--config=experiments/depthlm/depthlm.py:full',
  '--config.workdir=gs://bucket/run',
)


def launch(*arguments, env=None, timeout=60):
  return subprocess.run(
    [sys.executable, '-m', 'launch.tpu', *arguments],
    cwd=ROOT,
    env=os.environ | (env or {}),
    capture_output=True,
    text=True,
    timeout=timeout,
  )


def dry_run(*arguments, run=RUN):
  done = launch(
    '--name=depth-7b',
    '--type=v5litepod-64',
    '--zone=us-west4-a',
    '--dry_run',
    *arguments,
    '--',
    *run,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_dry_run_creates_a_queued_resource():
  script = dry_run('--spot', '--project=my-project')
  assert (
    'AT=(--zone=us-west4-a --project=my-project)\n' in script
    and 'gcloud compute tpus queued-resources create "$NAME" "${AT[@]}" \\\n'
    '    --node-id="$NAME" \\\n'
    '    --accelerator-type=v5litepod-64 \\\n'
    '    --runtime-version=v2-alpha-tpuv5-lite \\\n'
    '    --spot\n'
    in script
  )
  assert '# v5litepod-64 is v5e:8x8: 64 chips, 16 workers.' in script
  assert f'../venv/bin/python -m launch.train {shlex.join(RUN)} ||' in script
  assert "pip install --quiet '.[tpu]'" in script
  assert ':8476"' in script
  checked = subprocess.run(['bash', '-n'], input=script, text=True)
  assert checked.returncode == 0


def test_clones_a_revision_instead_of_copying():
  script = dry_run('--repo=https://example.org/a b.git', '--ref=v1.2')
  assert "git clone --quiet 'https://example.org/a b.git' code" in script
  assert 'git -C code checkout --quiet v1.2' in script
  assert 'archive' not in script


def test_one_host_needs_no_coordinator():
  script = dry_run('--type=v5litepod-8')
  assert 'JAX_COORDINATOR_ADDRESS' not in script


def test_xpk_workload():
  script = dry_run('--xpk', '--cluster=tpus', '--slices=2')
  assert 'xpk workload create --workload=depth-7b --zone=us-west4-a' in script
  assert '--tpu-type=v5litepod-64 --num-slices=2' in script
  line = next(x for x in script.splitlines() if '--command=' in x)
  command = shlex.split(line)[0].removeprefix('--command=')
  assert command == (
    "pip install --quiet '.[tpu]' && python -m launch.train " + shlex.join(RUN)
  )
  assert 'queued-resources' not in script


@pytest.mark.parametrize(
  ('accelerator', 'topology', 'runtime', 'hosts'),
  [
    ('v4-32', 'v4:2x2x4', 'tpu-ubuntu2204-base', 4),
    ('v5litepod-8', 'v5e:2x4', 'v2-alpha-tpuv5-lite', 1),
    ('v5litepod-16', 'v5e:4x4', 'v2-alpha-tpuv5-lite', 4),
    ('v5p-64', 'v5p:2x4x4', 'v2-alpha-tpuv5', 8),
    ('v6e-256', 'v6e:16x16', 'v2-alpha-tpuv6e', 64),
  ],
)
def test_types(accelerator, topology, runtime, hosts):
  found = topologies.from_type(accelerator)
  assert (found.name, found.chip.runtime, found.hosts) == (
    topology,
    runtime,
    hosts,
  )
  assert topologies.parse(topology) == found


def test_ring_rate_counts_the_links_of_a_corner_chip():
  rate = lambda name, group: topologies.parse(name).ring_rate(group)
  assert rate('v5e:8x8', 8) == 50e9  # one axis of a mesh
  assert rate('v5e:8x8', 64) == 2 * 50e9
  assert rate('v5e:16x16', 16) == 2 * 50e9  # a torus
  assert rate('v5p:2x4x4', 32) == 3 * 100e9
  assert rate('v5p:4x4x4', 64) == 6 * 100e9


def test_peaks_are_those_of_the_training_log():
  for kind, peak in metrics.PEAK_FLOPS.items():
    chip = topologies.of_device(kind)
    assert chip is None or chip.peak == peak, kind


@pytest.mark.parametrize(
  ('flags', 'run', 'message'),
  [
    (['--type=v5e-64'], RUN, 'v5litepod-64'),
    (['--name=Depth_7B'], RUN, '--name'),
    ([], RUN[:1], '--config.workdir'),
    ([], (RUN[0], '--config.workdir=/tmp/run'), 'gs://'),
    ([], (), 'after `--`'),
    (['--xpk'], RUN, '--cluster'),
    (['--xpk', '--cluster=c', '--spot'], RUN, '--spot'),
    (['--nocopy'], RUN, '--repo'),
  ],
)
def test_bad_flags_are_refused_by_name(flags, run, message):
  base = ['--name=a', '--type=v5litepod-64', '--zone=z', '--dry_run']
  done = launch(*base, *flags, '--', *run)
  assert done.returncode == 1 and not done.stdout
  assert message in done.stderr
  assert 'Traceback' not in done.stderr


def test_interrupted_code_is_the_one_of_the_trainer():
  assert scripts.INTERRUPTED == preemption.EXIT_CODE


# A Google Cloud in a folder: `state` is the queued resource's state, and a
# command for the workers runs here, with its own home folder per worker. The
# first run of the training command is preempted, the second one ends.
GCLOUD = r"""#!/usr/bin/env bash
printf '%s\n' "$(printf '%q ' "$@")" >> "$CLOUD/calls"
STATE="$(cat "$CLOUD/state" 2>/dev/null)"
case "$*" in
  *'queued-resources create'*) echo WAITING_FOR_RESOURCES > "$CLOUD/state" ;;
  *'queued-resources delete'*)
    rm -rf "$CLOUD/state" "$CLOUD"/worker* ;;
  *'queued-resources describe'*)
    if [[ -z "$STATE" ]]; then echo 'NOT_FOUND: no such thing' >&2; exit 1; fi
    echo "$STATE"
    if [[ "$STATE" == WAITING* ]]; then echo ACTIVE > "$CLOUD/state"; fi ;;
  *'tpu-vm scp'*)
    for worker in 0 1; do
      mkdir -p "$CLOUD/worker$worker"
      cp "$5" "$CLOUD/worker$worker/depth-7b.tar.gz"
    done ;;
  *'tpu-vm ssh'*)
    if [[ "$STATE" != ACTIVE ]]; then echo 'no node' >&2; exit 1; fi
    for argument in "$@"; do
      case "$argument" in
        --worker=all) workers='0 1' ;;
        --worker=*) workers="${argument#--worker=}" ;;
        --command=*) command="${argument#--command=}" ;;
      esac
    done
    CODE=0
    for worker in $workers; do
      export HOME="$CLOUD/worker$worker"
      mkdir -p "$HOME"
      bash -c "$command" || CODE=$?
    done
    exit "$CODE" ;;
  *) echo "unexpected: $*" >&2; exit 2 ;;
esac
"""

# `python3 -m pip install uv` and `curl` to the metadata server.
PYTHON3 = """#!/usr/bin/env bash
mkdir -p "$HOME/.local/bin"
cat > "$HOME/.local/bin/uv" <<'UV'
#!/usr/bin/env bash
echo "uv $*" >> "$CLOUD/calls"
if [[ "$1" == venv ]]; then
  mkdir -p venv/bin
  cp "$CLOUD/train" venv/bin/python
fi
UV
chmod +x "$HOME/.local/bin/uv"
"""
CURL = '#!/usr/bin/env bash\necho 0:1:10.0.0.7,0:2:10.0.0.8\n'
TRAIN = """#!/usr/bin/env bash
echo "coordinator $JAX_COORDINATOR_ADDRESS in $PWD"
test -f setup.py || exit 3
printf '%s\\n' "$@" > "$HOME/arguments"
sleep 0.2
if [[ ! -e "$CLOUD/preempted" ]]; then
  if [[ "$HOME" == *worker0 ]]; then
    touch "$CLOUD/preempted"
    [[ FIRST == 75 ]] || echo SUSPENDED > "$CLOUD/state"
  fi
  echo 'step 10'
  exit FIRST
fi
echo 'step 20 done'
exit SECOND
"""


@pytest.fixture
def cloud(tmp_path):
  """Puts the stand-ins on the PATH; returns (folder, run)."""
  tools = tmp_path / 'bin'
  tools.mkdir()
  scripts = {'gcloud': GCLOUD, 'python3': PYTHON3, 'curl': CURL}
  for name, text in scripts.items():
    (tools / name).write_text(text)
    (tools / name).chmod(0o755)

  def run(first, second, *arguments):
    train = TRAIN.replace('FIRST', str(first)).replace('SECOND', str(second))
    (tmp_path / 'train').write_text(train)
    (tmp_path / 'train').chmod(0o755)
    return launch(
      *('--name=depth-7b', '--type=v5litepod-16', '--zone=z', '--spot'),
      *('--poll=0', '--max_restarts=3'),
      '--',
      *RUN,
      *arguments,
      env={
        'PATH': f'{tools}:{os.environ["PATH"]}',
        'CLOUD': str(tmp_path),
        'TMPDIR': str(tmp_path),
      },
    )

  return tmp_path, run


def calls(folder):
  text = (folder / 'calls').read_text().replace('\\ ', ' ')
  verbs = ['create', 'delete', 'scp', 'uv venv', 'uv pip install']
  return [
    v for line in text.splitlines() for v in verbs if f'{v} ' in line[:60]
  ]


def test_preempted_once_then_finished(cloud):
  folder, run = cloud
  # Quotes, blanks, a dollar and a star must arrive as they were typed.
  strange = """--config.note=it's "a" $HOME * \\ test"""
  done = run(1, 0, strange)
  assert done.returncode == 0, done.stdout + done.stderr
  once = ['create', 'scp', *['uv venv', 'uv pip install'] * 2]
  assert calls(folder) == [*once, 'delete', *once]
  assert 'coordinator 10.0.0.7:8476' in done.stdout
  assert 'step 10' in done.stdout and 'step 20 done' in done.stdout
  assert 'restart 1 of 3: preempted' in done.stderr
  for worker in ('worker0', 'worker1'):
    arguments = (folder / worker / 'arguments').read_text().splitlines()
    assert arguments == ['-m', 'launch.train', *RUN, strange]
  assert 'delete depth-7b --zone=z --force' in done.stderr


def test_failure_shows_every_log_and_stops(cloud):
  folder, run = cloud
  (folder / 'preempted').touch()
  done = run(0, 9)
  assert done.returncode == 9
  assert calls(folder).count('create') == 1
  assert done.stdout.count('exit code 9, log:') == 2
  assert 'failed with exit code 9' in done.stderr


def test_refused_request_stops(cloud):
  folder, run = cloud
  (folder / 'state').write_text('FAILED')
  done = run(0, 0)
  assert done.returncode == 1
  assert 'refused depth-7b' in done.stderr
  assert not calls(folder)


def test_interrupted_run_starts_again_on_the_same_slice(cloud):
  folder, run = cloud
  (folder / 'state').write_text('ACTIVE')
  # Saved after a signal while the slice still looks healthy.
  done = run(75, 0)
  assert done.returncode == 0, done.stderr
  assert 'restart 1 of 3' in done.stderr
  assert 'create' not in calls(folder) and 'delete' not in calls(folder)
