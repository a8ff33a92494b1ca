"""Proof that a checkpoint is whole: every file with its size and checksum.

Orbax promises that a directory appears under its final name only after every
process has written everything. It does not promise that the bytes stay: a full
disk, a machine that lost power, or a half-copied bucket leave a directory that
looks committed. So each process writes, after the commit and as the very last
file, one manifest for its share of the files; a checkpoint counts only when
all shares are there, and is read only after they have been verified.
"""

import json
import zlib

from etils import epath

CHUNK = 16 * 2**20


class Damaged(ValueError):
  """A checkpoint whose files are not the ones that were written."""


def write(
  directory: epath.Path, payload: dict, *, process: int = 0, count: int = 1
) -> None:
  """Writes this process's share of the manifest, atomically.

  Args:
    directory: A committed checkpoint.
    payload: JSON facts to keep beside the file list.
    process: Index of this process; it checks every `count`-th file.
    count: Number of processes that write a share.
  """
  names = _data_files(directory)[process::count]
  body = {
    'payload': payload,
    'files': {name: _fingerprint(directory / name) for name in names},
  }
  text = json.dumps(body)
  record = json.dumps({'crc32': zlib.crc32(text.encode()), 'body': text})
  target = directory / _part(process, count)
  partial = directory / f'{target.name}.partial'
  partial.write_text(record)
  partial.rename(target)


def is_complete(directory: epath.Path) -> bool:
  """Whether every process has written its share (contents not looked at)."""
  parts = [p.name for p in directory.glob('manifest_*-of-*.json')]
  if not parts:
    return False
  count = parts[0].split('-of-')[1].removesuffix('.json')
  return count.isdigit() and {
    _part(process, int(count)) for process in range(int(count))
  } <= set(parts)


def remove(directory: epath.Path) -> None:
  """Takes a checkpoint's word back, so that a deletion cut short is seen."""
  for part in directory.glob('manifest_*'):
    part.unlink(missing_ok=True)


def read(directory: epath.Path) -> list[dict]:
  """The shares in order of process: [{'payload': ..., 'files': ...}].

  Raises:
    Damaged: a share is unreadable; the message names it.
  """
  shares = {}
  for path in directory.glob('manifest_*-of-*.json'):
    try:
      record = json.loads(path.read_text())
      text = record['body']
      if zlib.crc32(text.encode()) != record['crc32']:
        raise ValueError('its own checksum differs')
      shares[int(path.name.split('_')[1].split('-')[0])] = json.loads(text)
    except (ValueError, KeyError, TypeError) as error:
      raise Damaged(f'{path.name} is unreadable ({error})') from None
  return [shares[process] for process in sorted(shares)]


def verify(directory: epath.Path, *, process: int = 0, count: int = 1) -> None:
  """Checks sizes of all files, and the checksums of this process's share.

  Raises:
    Damaged: naming the first file that is missing or differs, and how.
  """
  files = {}
  for share in read(directory):
    files.update(share['files'])
  for i, (name, (size, crc)) in enumerate(sorted(files.items())):
    path = directory / name
    if not path.exists():
      raise Damaged(f'{name} is missing')
    got = path.stat().length
    if got != size:
      raise Damaged(f'{name} has {got} bytes, expected {size}')
    if i % count == process and _checksum(path) != crc:
      raise Damaged(f'{name} has the right size but other bytes')


def _part(process: int, count: int) -> str:
  return f'manifest_{process}-of-{count}.json'


def _data_files(directory: epath.Path) -> list[str]:
  names = []
  pending = [directory]
  while pending:
    for path in pending.pop().iterdir():
      if path.is_dir():
        pending.append(path)
      elif not path.name.startswith('manifest_'):
        names.append(str(path.relative_to(directory)))
  return sorted(names)


def _fingerprint(path: epath.Path) -> tuple[int, int]:
  return path.stat().length, _checksum(path)


def _checksum(path: epath.Path) -> int:
  crc = 0
  with path.open('rb') as file:
    while chunk := file.read(CHUNK):
      crc = zlib.crc32(chunk, crc)
  return crc
