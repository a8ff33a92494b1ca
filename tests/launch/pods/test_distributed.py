"""Finding a job's processes, and meeting them."""

import concurrent.futures
import http.server
import socket
import threading

import pytest

from launch.pods import distributed, rendezvous
from launch.pods.distributed import Job


def free_address():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{probe.getsockname()[1]}'


def meet_all(calls, timeout_s=10.0):
  """Runs meet for (count, index) pairs; returns exceptions or None."""
  address = free_address()
  with concurrent.futures.ThreadPoolExecutor() as pool:
    futures = [
      pool.submit(rendezvous.meet, address, *call, timeout_s=timeout_s)
      for call in calls
    ]
    return [future.exception() for future in futures]


def test_all_meet():
  assert meet_all([(3, 2), (3, 0), (3, 1)]) == [None] * 3


def test_the_missing_are_named_to_everyone():
  errors = meet_all([(5, 0), (5, 3)], timeout_s=0.5)
  for error in errors:
    assert isinstance(error, rendezvous.MissingWorkers)
    assert 'process 1, 2, 4 of 5' in str(error)


def test_two_with_one_number_are_named():
  errors = meet_all([(3, 0), (3, 1), (3, 1)])
  assert 'Two processes have --process_id=1' in str(errors[0])


def test_another_count_is_named():
  errors = meet_all([(2, 0), (4, 1)])
  for error in errors:
    assert '--num_processes=4' in str(error)
    assert 'process 0 with --num_processes=2' in str(error)


def test_strangers_are_ignored():
  address = free_address()
  host, port = address.split(':')

  def knock():
    with socket.create_connection((host, int(port)), timeout=5) as peer:
      peer.sendall(b'GET / HTTP/1.0\r\n\r\n')

  with concurrent.futures.ThreadPoolExecutor() as pool:
    first = pool.submit(rendezvous.meet, address, 2, 0, timeout_s=10.0)
    while True:
      try:
        knock()
        break
      except ConnectionRefusedError:
        continue
    second = pool.submit(rendezvous.meet, address, 2, 1, timeout_s=10.0)
    assert first.result() is None and second.result() is None


def test_a_single_process_needs_nothing(monkeypatch):
  monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'localhost')
  assert distributed.find_job() is None
  assert distributed.initialize(None) is None


def test_a_job_from_the_environment(monkeypatch):
  monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'a,b,c,d')
  monkeypatch.setenv('TPU_WORKER_ID', '2')
  assert distributed.find_job() == Job('a:8476', 4, 2)
  monkeypatch.setenv('MEGASCALE_NUM_SLICES', '2')
  monkeypatch.setenv('MEGASCALE_SLICE_ID', '1')
  monkeypatch.setenv('MEGASCALE_COORDINATOR_ADDRESS', 'z:9915')
  assert distributed.find_job() == Job('z:8476', 8, 6)


def test_a_job_from_the_metadata_server(monkeypatch):
  answers = {
    'worker-network-endpoints': 'u0:8470:10.0.0.4,u1:8470:10.0.0.5',
    'agent-worker-number': '1',
  }

  class Metadata(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      assert self.headers['Metadata-Flavor'] == 'Google'
      self.send_response(200)
      self.end_headers()
      self.wfile.write(answers[self.path.rsplit('/', 1)[1]].encode())

    def log_message(self, *unused):
      pass

  server = http.server.HTTPServer(('127.0.0.1', 0), Metadata)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  monkeypatch.delenv('TPU_WORKER_HOSTNAMES', raising=False)
  monkeypatch.setenv('GCE_METADATA_HOST', f'127.0.0.1:{server.server_port}')
  monkeypatch.setattr(distributed, '_has_tpu_vm', lambda: True)
  assert distributed.find_job() == Job('10.0.0.4:8476', 2, 1)
  server.shutdown()


def test_a_number_out_of_range_names_the_flag():
  with pytest.raises(ValueError, match=r'--process_id=2 must lie in 0\.\.1'):
    distributed.initialize(Job('127.0.0.1:1', 2, 2))
