"""Processes of arms: how many, and that none outlives its parent."""

import os
import signal
import subprocess
import sys
import time

from launch import arms

PARENT = """
import multiprocessing, threading, time
from launch import arms

def work(queue):
  threading.Thread(target=arms.leave_with_parent, daemon=True).start()
  queue.put(None)
  time.sleep(600)

if __name__ == '__main__':
  context = multiprocessing.get_context('spawn')
  queue = context.Queue()
  child = context.Process(target=work, args=(queue,))
  child.start()
  queue.get()
  print(child.pid, flush=True)
  time.sleep(600)
"""


def alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  with open(f'/proc/{pid}/stat') as status:
    return status.read().split(') ')[1][0] != 'Z'


def test_an_arm_ends_when_its_parent_is_killed(tmp_path):
  script = tmp_path / 'parent.py'
  script.write_text(PARENT)
  parent = subprocess.Popen(
    [sys.executable, str(script)],
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {'PYTHONPATH': os.getcwd()},
  )
  child = int(parent.stdout.readline())
  assert alive(child)
  parent.send_signal(signal.SIGKILL)
  parent.wait()
  for _ in range(100):
    if not alive(child):
      return
    time.sleep(0.1)
  os.kill(child, signal.SIGKILL)
  raise AssertionError('the child trains on without its parent')


def test_few_arms_run_together_many_in_turns(monkeypatch):
  monkeypatch.setattr(arms, '_cores', lambda: {0, 1})
  assert [arms.default_workers(n) for n in (1, 3, 4, 12)] == [1, 3, 2, 2]
  monkeypatch.setattr(arms.jax, 'default_backend', lambda: 'tpu')
  assert arms.default_workers(12) == 1
