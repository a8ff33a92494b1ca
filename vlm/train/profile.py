"""A profiler trace of chosen steps, to be opened with xprof or Perfetto."""

import os

import jax


class StepProfile:
  """Traces steps first..last (both included) into a directory."""

  def __init__(
    self, steps: tuple[int, int] | None, directory: str | os.PathLike
  ):
    """None traces nothing.

    Raises:
      ValueError: the range is empty.
    """
    if steps and not 1 <= steps[0] <= steps[1]:
      raise ValueError(
        f'profile_steps must be (first, last) with 1 <= first <= last, got'
        f' {steps}.'
      )
    self._steps = steps
    self._directory = str(directory)
    self._tracing = False

  def before(self, step: int) -> None:
    """Starts the trace when `step` is the first one."""
    if self._steps and step == self._steps[0]:
      jax.profiler.start_trace(self._directory)
      self._tracing = True

  def ends_at(self, step: int) -> bool:
    """Whether the trace should stop once `step` is over on the device."""
    return self._tracing and step >= self._steps[1]

  def stop(self) -> None:
    """Ends the trace and writes it."""
    jax.profiler.stop_trace()
    self._tracing = False
