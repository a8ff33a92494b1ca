"""Says that a step hangs, and where, instead of leaving a silent job."""

import collections
import contextlib
import faulthandler
import logging
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator

log = logging.getLogger(__name__)

# exit code of an aborted run: 70 is EX_SOFTWARE of sysexits.h.
ABORT_CODE = 70
# Medians of fewer steps say little.
ENOUGH_STEPS = 5


class Watchdog:
  """A thread that expects a beat per step.

  The limit is `factor` times the median of the last steps, but at least
  `floor_s`; before enough steps are known (compilation) it is `start_s`.
  """

  def __init__(
    self,
    *,
    factor: float = 20.0,
    floor_s: float = 60.0,
    start_s: float = 1800.0,
    abort: bool = False,
  ):
    """Starts watching at the first beat or `start`.

    Args:
      factor: Multiple of the median step time that counts as a hang.
      floor_s: Never complain earlier than this, in seconds.
      start_s: Limit in seconds until the first steps are through.
      abort: End the process with code 70 after the report, so that a
        launcher can start it again.
    """
    self._factor, self._floor, self._start = factor, floor_s, start_s
    self._abort = abort
    self._times = collections.deque(maxlen=50)
    self._step = 0
    self._last: float | None = None
    self._wake = threading.Event()
    self._closed = False
    self._lock = threading.Lock()
    self.reports: list[str] = []
    self._thread = threading.Thread(
      target=self._watch, name='watchdog', daemon=True
    )

  def __enter__(self) -> 'Watchdog':
    self._last = time.monotonic()
    self._thread.start()
    return self

  def __exit__(self, *unused) -> None:
    self._closed = True
    self._wake.set()
    self._thread.join()

  def beat(self, step: int) -> None:
    """`step` has finished."""
    now = time.monotonic()
    with self._lock:
      if self._step and self._last is not None:
        self._times.append(now - self._last)
      self._step, self._last = step, now

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Around work that is no step: evaluation, a blocking save."""
    with self._lock:
      self._last = None
    try:
      yield
    finally:
      with self._lock:
        self._last = time.monotonic()

  def limit(self) -> float:
    """Seconds that the running step may take."""
    if len(self._times) < ENOUGH_STEPS:
      return self._start
    return max(self._floor, self._factor * statistics.median(self._times))

  def _watch(self) -> None:
    told = None
    while not self._closed:
      self._wake.wait(max(0.05, min(1.0, self._floor / 4)))
      with self._lock:
        last, step, limit = self._last, self._step, self.limit()
      if last is None or last == told:
        continue
      waited = time.monotonic() - last
      if waited > limit:
        told = last
        self._report(step, waited, limit)

  def _report(self, step: int, waited: float, limit: float) -> None:
    text = (
      f'HANG: the step after step {step} has been running for {waited:.1f} s'
      f' (limit {limit:.1f} s). On a pod, look for a worker that died or never'
      ' entered the same step. Stacks of all threads follow on stderr.'
    )
    self.reports.append(text)
    log.error(text)
    print(text, file=sys.stderr, flush=True)
    faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
    if self._abort:
      print(f'HangingStep: aborting with code {ABORT_CODE}', file=sys.stderr)
      sys.stderr.flush()
      os._exit(ABORT_CODE)
