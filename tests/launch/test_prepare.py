"""The command that curates depth corpora."""

import pathlib
import subprocess
import sys
import time

from data.sources import depth
from data.sources.depth_corpora import curate
from launch import prepare
from tests import depth_corpus_files as files


def test_the_command_counts_names_and_says_where(tmp_path):
  files.ibims1(tmp_path)
  (tmp_path / 'ibims1_core_raw' / 'depth' / 'office_01.png').unlink()
  command = [sys.executable, '-m', 'launch.prepare', '--corpus=ibims1']
  command += [f'--source={tmp_path}', f'--output={tmp_path / "out"}']
  done = subprocess.run(
    [*command, '--per_image=7', '--workers=1'],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  said = ' '.join(done.stdout.split())
  assert '2 rows with 14 labels from 3 frames' in said
  assert 'missing depth' in said and 'office/office_01' in said
  assert len(depth.DepthRows(tmp_path / 'out' / 'ibims1-val.jsonl')) == 2
  failed = subprocess.run(
    [*command, '--labels=correct', '--split=train'],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert failed.returncode and '--split=train: expected one of val' in (
    failed.stderr + failed.stdout
  )


def test_a_bar_and_a_table(tmp_path, capsys):
  files.ibims1(tmp_path)
  settings = curate.Settings('ibims1', str(tmp_path), str(tmp_path / 'out'))
  prepare.show(*prepare.run_corpus(settings, workers=1))
  said = capsys.readouterr().out
  assert '3 rows' in said and '2/2' in said and 'Bad frames' not in said


def _alive(pid):
  try:
    state = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2]
  except FileNotFoundError:
    return False
  return state.split()[0] != 'Z'


def test_a_killed_process_continues_and_leaves_no_worker(tmp_path):
  buildings = [f'b{n:03d}' for n in range(150)]
  files.omnidata(tmp_path / 'in', buildings=buildings)
  command = [sys.executable, '-m', 'launch.prepare', '--corpus=taskonomy']
  command += [f'--source={tmp_path / "in"}', '--workers=2']
  out = tmp_path / 'out'
  process = subprocess.Popen(
    [*command, f'--output={out}'], stdout=subprocess.DEVNULL
  )
  parts, until = out / 'parts' / 'taskonomy-full', time.monotonic() + 90
  while len(list(parts.glob('*.json'))) < 5 and time.monotonic() < until:
    assert process.poll() is None
    time.sleep(0.005)
  family = f'/proc/{process.pid}/task/{process.pid}/children'
  workers = pathlib.Path(family).read_text().split()
  process.kill()
  process.wait()
  done = {p.name: p.stat().st_mtime_ns for p in parts.glob('*.json')}
  assert 5 <= len(done) < 150 and not (out / 'taskonomy-full.jsonl').exists()
  while any(map(_alive, workers)) and time.monotonic() < until:
    time.sleep(0.02)
  assert workers and not any(map(_alive, workers))
  settings = {'corpus': 'taskonomy', 'source': str(tmp_path / 'in')}
  curate.prepare(curate.Settings(**settings, output=str(out)))
  kept = {name: (parts / name).stat().st_mtime_ns for name in done}
  assert kept == done
  whole = tmp_path / 'whole'
  curate.prepare(curate.Settings(**settings, output=str(whole)))
  for path in whole.rglob('*'):
    if path.is_file() and path.name != 'taskonomy-full_report.json':
      other = out / path.relative_to(whole)
      assert other.read_bytes() == path.read_bytes(), path
