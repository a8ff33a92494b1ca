"""How long a step takes, without compilation, evaluation and saving."""

import dataclasses
import time


@dataclasses.dataclass(frozen=True)
class Lap:
  """Seconds of one log interval.

  step_time: per step, pauses taken out.
  wall: of the whole interval, pauses taken out.
  average: per step since the start, pauses included; what an ETA needs.
  """

  step_time: float
  wall: float
  average: float


class Clock:
  """Measures between moments at which a step is known to be over."""

  def __init__(self):
    self.running = False
    self._paused = 0.0

  def start(self, step: int) -> None:
    """`step` is over and was not measured (it compiled)."""
    self.running = True
    self._begin = self._last = (step, time.perf_counter())
    self._paused = 0.0

  def skip(self, seconds: float) -> None:
    """Takes out time that belongs to no step."""
    self._paused += seconds

  def lap(self, step: int) -> Lap | None:
    """Closes an interval at `step`; None when no step was measured."""
    now = time.perf_counter()
    (last_step, last), (first_step, first) = self._last, self._begin
    if step <= last_step:
      return None
    wall = now - last - self._paused
    self._last, self._paused = (step, now), 0.0
    return Lap(
      step_time=wall / (step - last_step),
      wall=wall,
      average=(now - first) / (step - first_step),
    )
