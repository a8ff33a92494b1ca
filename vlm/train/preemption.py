"""Notices that the machine is about to be taken away.

One process: SIGTERM sets a flag which the loop reads between two steps. Several
processes: JAX's coordination service carries the notice of any of them to all
and agrees on the step at which every one stops.
"""

import signal
import threading
import types

import jax
from jax.experimental import multihost_utils

# EX_TEMPFAIL of sysexits.h: "try again later", start the same command again.
EXIT_CODE = 75


class Preempted(SystemExit):
  """The run was asked to stop and has done so cleanly; exits with code 75."""

  def __init__(self, step: int, saved: str):
    super().__init__(EXIT_CODE)
    self.step = step
    self.saved = saved

  def __str__(self) -> str:
    return (
      f'Preempted after step {self.step}; checkpoint: {self.saved or "none"}.'
      ' Start the same command again to continue.'
    )


class PreemptionNotice:
  """Context in which SIGTERM asks for a clean stop instead of killing."""

  def __init__(self):
    self._asked = threading.Event()
    self._previous = None

  def __enter__(self) -> 'PreemptionNotice':
    # Python can only place handlers in the main thread; and with several
    # processes the coordination service has placed its own, better one.
    main = threading.current_thread() is threading.main_thread()
    if jax.process_count() == 1 and main:
      self._previous = signal.signal(signal.SIGTERM, self._on_signal)
    return self

  def __exit__(self, *unused) -> None:
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)

  def reached(self, step: int) -> bool:
    """Whether to stop after `step`; call once per step on every process."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked.is_set()

  def _on_signal(self, number: int, frame: types.FrameType | None) -> None:
    self._asked.set()
