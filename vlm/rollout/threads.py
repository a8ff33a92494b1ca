"""Calls of foreign functions on threads, each with a time limit."""

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

NOT_BEGUN_S = 0.05  # between two looks at a call that has no thread yet


@dataclasses.dataclass
class Call:
  """One call, and what became of it.

  Attributes:
    function: takes nothing.
    value: what it returned.
    error: what it raised.
    late: whether it took longer than the limit; then nobody looks at `value`.
  """

  function: Callable[[], Any]
  value: Any = None
  error: Exception | None = None
  late: bool = False
  began: float | None = None
  ended: threading.Event = dataclasses.field(default_factory=threading.Event)
  lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


class Threads:
  """A few threads that are replaced when a call does not come back.

  They are daemons: a call that never ends does not keep the program alive. It
  can only be left alone while it lets others run; one that holds the
  interpreter (a regular expression that backtracks for ever) stops everybody.
  """

  def __init__(self, count: int, seconds: float | int):
    """Starts `count` threads; a call may take `seconds`."""
    self._count, self._seconds = count, seconds
    self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
    for _ in range(count):
      self._start()

  def submit(self, functions: Sequence[Callable[[], Any]]) -> list[Call]:
    """Starts calls; they are to be waited for in this order."""
    calls = [Call(function) for function in functions]
    for call in calls:
      self._queue.put(call)
    return calls

  def wait(self, call: Call) -> Call:
    """Waits until a call has ended or its time is over."""
    while not call.ended.wait(self._patience(call)):
      with call.lock:
        over = call.began is not None and self._left(call) <= 0
        if over and not call.ended.is_set():
          call.late = True
      if call.late:
        self._start()  # In place of the thread that hangs.
        break
    return call

  def close(self) -> None:
    """Ends the threads that are not in a call."""
    for _ in range(self._count):
      self._queue.put(None)

  def _start(self) -> None:
    threading.Thread(target=self._work, name='reward', daemon=True).start()

  def _patience(self, call: Call) -> float:
    return NOT_BEGUN_S if call.began is None else max(self._left(call), 0.0)

  def _left(self, call: Call) -> float:
    return call.began + self._seconds - time.monotonic()

  def _work(self) -> None:
    while (call := self._queue.get()) is not None:
      call.began = time.monotonic()
      value, error = None, None
      try:
        value = call.function()
      except Exception as raised:
        error = raised
      with call.lock:
        replaced = call.late
        call.late = replaced or self._left(call) < 0
        call.value, call.error = value, error
        call.ended.set()
      if replaced:
        return
