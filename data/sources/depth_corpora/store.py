"""Where curated rows go: a jsonl file with images, or TFDS shards.

  OUTPUT/CORPUS-SPLIT.jsonl and OUTPUT/images/CORPUS-SPLIT/SCENE/FRAME.jpg
  OUTPUT/CORPUS/1.0.0/CORPUS-SPLIT.array_record-00000-of-00004

Either way each scene first becomes a part, OUTPUT/parts/CORPUS-SPLIT/SCENE.*,
under another name until it is whole, so that a killed run leaves no half scene.
One output may hold every corpus.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from array_record.python import array_record_module
from etils import epath

VERSION = '1.0.0'
SHARD_BYTES = 256 * 2**20


class CuratedRow(NamedTuple):
  """A finished row.

  Attributes:
    frame: its name in the scene.
    image: the bytes of an image file.
    suffix: '.jpg' or '.png'.
    record: the row as in `data.sources.depth`, without `image`.
  """

  frame: str
  image: bytes
  suffix: str
  record: dict[str, Any]


def part_name(scene: str) -> str:
  """A scene's name without slashes."""
  return scene.replace('/', '--')


def parts_folder(output: epath.PathLike, corpus: str, split: str) -> epath.Path:
  """Where the parts of a split and the reports on them lie."""
  return epath.Path(output) / 'parts' / f'{corpus}-{split}'


def write_whole(path: epath.Path, content: bytes) -> None:
  """Writes a file that is either whole or not there."""
  partial = path.parent / f'{path.name}.partial'
  partial.write_bytes(content)
  partial.replace(path)


class JsonlStore:
  """Images as files, rows as one jsonl file.

  Args:
    folder: the output.
    corpus: its name.
    split: its split.
  """

  def __init__(self, folder: epath.Path, corpus: str, split: str):
    self._folder, self._name = epath.Path(folder), f'{corpus}-{split}'
    self._parts = parts_folder(folder, corpus, split)

  def write(self, scene: str, rows: Iterable[CuratedRow]) -> None:
    """Writes the part of one scene."""
    lines = []
    for row in rows:
      name = f'images/{self._name}/{scene}/{row.frame}{row.suffix}'
      path = self._folder / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(row.image)
      lines.append(json.dumps({'image': name, **row.record}) + '\n')
    path = self._parts / f'{part_name(scene)}.jsonl'
    write_whole(path, ''.join(lines).encode())

  def finish(self, scenes: Sequence[str]) -> str:
    """Joins the parts, in the order of `scenes`; returns the address."""
    path = self._folder / f'{self._name}.jsonl'
    partial = path.parent / f'{path.name}.partial'
    with partial.open('wb') as out:
      for scene in scenes:
        part = self._parts / f'{part_name(scene)}.jsonl'
        out.write(part.read_bytes())
    partial.replace(path)
    return str(path)


class ShardStore:
  """ArrayRecord shards of a TFDS data set, images inside.

  Args:
    folder: the output, on a local disk; TFDS's data_dir.
    corpus: its name, the data set's too.
    split: its split.

  Raises:
    ValueError: for a remote folder.
  """

  def __init__(self, folder: epath.Path, corpus: str, split: str):
    if '://' in str(folder):
      raise ValueError(
        f'--output={folder}: ArrayRecord is written to local disks only; copy '
        'the shards afterwards, or use --format=jsonl'
      )
    self._corpus, self._split = corpus, split
    self._folder = epath.Path(folder)
    self._parts = parts_folder(folder, corpus, split)
    self._home = self._folder / corpus / VERSION
    self._features = _features()

  def write(self, scene: str, rows: Iterable[CuratedRow]) -> None:
    """Writes the part of one scene."""
    features = self._features
    path = self._part(scene)
    partial = path.parent / f'{path.name}.partial'
    writer = array_record_module.ArrayRecordWriter(str(partial), 'group_size:1')
    for row in rows:
      example = features.encode_example(
        {
          'image': row.image,
          'record': json.dumps(row.record),
          'frame': row.frame,
        }
      )
      writer.write(features.serialize_example(example))
    writer.close()
    partial.replace(path)

  def finish(self, scenes: Sequence[str]) -> str:
    """Packs the parts into shards of about 256 MiB; returns the address.

    Raises:
      ValueError: when shards are gone, or scenes came after they were packed.
    """
    address = (
      f'tfds:{self._corpus}:{VERSION}?split={self._split}'
      f'&data_dir={self._folder}'
    )
    parts = [self._part(scene) for scene in scenes]
    packed = self._parts / 'packed'
    if not packed.exists():
      self._pack(parts)
      write_whole(packed, json.dumps(list(scenes)).encode())
    there = list(self._home.glob(f'{self._corpus}-{self._split}.*'))
    if not there or json.loads(packed.read_text()) != list(scenes):
      raise ValueError(
        f'{self._home} does not hold the scenes of --source, or no shards; '
        f'they were packed for good: remove {self._parts}, or choose another '
        '--output'
      )
    for part in parts:
      part.unlink(missing_ok=True)
    return address

  def _part(self, scene):
    return self._parts / f'{part_name(scene)}.array_record'

  def _pack(self, parts):
    self._home.mkdir(parents=True, exist_ok=True)
    size = sum(part.stat().length for part in parts)
    total = sum(map(_count, parts))
    shards = max(1, min(total, -(-size // SHARD_BYTES)))
    ends = [total * (n + 1) // shards for n in range(shards)]
    names = [
      self._home
      / f'{self._corpus}-{self._split}.array_record-{n:05d}-of-{shards:05d}'
      for n in range(shards)
    ]
    records = _records(parts)
    for name, start, end in zip(names, [0, *ends], ends):
      writer = array_record_module.ArrayRecordWriter(str(name), 'group_size:1')
      for _ in range(end - start):
        writer.write(next(records))
      writer.close()
    lengths = [end - start for start, end in zip([0, *ends], ends)]
    self._describe(lengths, size)

  def _describe(self, lengths, size):
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
      self._home, dataset_name=self._corpus, filetype_suffix='array_record'
    )
    splits = {}
    if (self._home / 'dataset_info.json').exists():
      known = tfds.builder_from_directory(self._home).info.splits
      splits = {name: known[name] for name in known}
    splits[self._split] = tfds.core.SplitInfo(
      name=self._split,
      shard_lengths=lengths,
      num_bytes=size,
      filename_template=template.replace(split=self._split),
    )
    tfds.folder_dataset.write_metadata(
      data_dir=self._home,
      features=self._features,
      split_infos=list(splits.values()),
      filename_template=template,
      check_data=False,
    )


def _count(part):
  reader = array_record_module.ArrayRecordReader(str(part))
  try:
    return reader.num_records()
  finally:
    reader.close()


def _records(parts):
  """Records of the parts one after another; one file is open at a time."""
  for part in parts:
    reader = array_record_module.ArrayRecordReader(str(part))
    try:
      for index in range(reader.num_records()):
        yield reader.read([index])[0]
    finally:
      reader.close()


def _features():
  import tensorflow_datasets as tfds

  # A tf.Example has float32 only, which would round a clock to minutes and a
  # pose in a city to centimetres; JSON keeps every digit.
  return tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(shape=(None, None, 3)),
      'record': tfds.features.Text(),
      'frame': tfds.features.Text(),
    }
  )


STORES = {'jsonl': JsonlStore, 'tfds': ShardStore}
