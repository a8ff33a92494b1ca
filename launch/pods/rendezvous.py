"""Waits until every process of a job is there, and names those that are not.

JAX waits for its processes too, but its time-out does not say whose machine is
missing. So before JAX opens the coordinator port, process 0 listens on it,
every other process reports its number and host name there, and all of them
learn the result.
"""

import contextlib
import json
import socket
import time

RETRY_S = 0.2


class MissingWorkers(TimeoutError):
  """Not every process of the job came up in time."""


def meet(address: str, count: int, index: int, *, timeout_s: float) -> None:
  """Returns when all processes have called it.

  Args:
    address: host:port of process 0.
    count: Number of processes.
    index: Number of this process.
    timeout_s: Seconds to wait for the others.

  Raises:
    MissingWorkers: names the processes that did not come.
    ValueError: two processes have the same number, or disagree on `count`.
  """
  host, _, port = address.rpartition(':')
  deadline = time.monotonic() + timeout_s
  if index == 0:
    _Host(count, timeout_s, deadline).serve(int(port))
  else:
    _report(host, int(port), count, index, deadline, timeout_s)


class _Host:
  """Process 0's side."""

  def __init__(self, count: int, timeout_s: float, deadline: float):
    self._count, self._timeout_s, self._deadline = count, timeout_s, deadline
    self._names = {0: socket.gethostname()}
    self._peers = []

  def serve(self, port: int) -> None:
    error = None
    with socket.create_server(('', port), backlog=128) as server:
      try:
        while error is None and len(self._names) < self._count:
          server.settimeout(max(0.01, self._deadline - time.monotonic()))
          error = self._admit(server.accept()[0])
      except TimeoutError:
        error = self._missing()
    for peer in self._peers:
      with peer:
        _send(peer, {'error': error})
    if error:
      raise _exception(error)

  def _admit(self, peer: socket.socket) -> str | None:
    """Notes one process; returns what is wrong with the job, if anything."""
    peer.settimeout(5)
    try:
      hello = json.loads(peer.makefile().readline())
      index, count, name = hello['index'], hello['count'], hello['host']
    except (OSError, ValueError, KeyError, TypeError):
      peer.close()  # a port scanner, not one of ours
      return None
    self._peers.append(peer)
    if count != self._count or not 0 < index < self._count:
      return (
        f'Process {index} on {name} was started with --num_processes={count},'
        f' process 0 with --num_processes={self._count}.'
      )
    if index in self._names:
      return (
        f'Two processes have --process_id={index}: on {self._names[index]} and'
        f' on {name}. Give each its own.'
      )
    self._names[index] = name
    return None

  def _missing(self) -> str:
    gone = sorted(set(range(self._count)) - self._names.keys())
    here = ', '.join(f'{i} ({h})' for i, h in sorted(self._names.items()))
    return (
      f'Missing after {self._timeout_s:.0f} s: process'
      f' {", ".join(map(str, gone))} of {self._count}. Present: {here}. Start'
      ' the same command on every worker; raise --startup_timeout_s if they'
      ' start slowly.'
    )


def _report(
  host: str,
  port: int,
  count: int,
  index: int,
  deadline: float,
  timeout_s: float,
) -> None:
  hello = {'index': index, 'count': count, 'host': socket.gethostname()}
  while (left := deadline - time.monotonic()) > 0:
    try:
      with socket.create_connection((host, port), timeout=left) as peer:
        _send(peer, hello)
        # Process 0 may have started later and so gives up later.
        peer.settimeout(left + timeout_s)
        answer = json.loads(peer.makefile().readline())
    except (OSError, ValueError):
      time.sleep(RETRY_S)
      continue
    if answer['error']:
      raise _exception(answer['error'])
    return
  raise MissingWorkers(
    f'Missing after {timeout_s:.0f} s: process 0 did not answer at'
    f' {host}:{port} (this is process {index} of {count}). Check'
    ' --coordinator_address, the firewall, and that worker 0 runs.'
  )


def _exception(error: str) -> Exception:
  kind = MissingWorkers if error.startswith('Missing') else ValueError
  return kind(error)


def _send(peer: socket.socket, message: dict) -> None:
  # A peer that has died meanwhile is found out by the step that waits for it.
  with contextlib.suppress(OSError):
    peer.sendall((json.dumps(message) + '\n').encode())
