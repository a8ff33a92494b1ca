"""Opinions as the sets themselves publish them, where that is a table.

  koniq    koniq10k_scores_and_distributions.csv; with the column `set` of
           koniq10k_distributions_sets.csv, its split
  kadid    dmos.csv
  csiq     csiq.DMOS.csv, the sheet `all_by_image` saved as csv
  tid2013  mos_with_names.txt, and mos_std.txt beside it
  livew    Data/AllMOS_release.mat with AllImages_ and AllStdDev_
  agiqa    data.csv
  pipal    Train_Label/*.txt

SPAQ publishes spreadsheets only: take Data-DeQA-Score's files. Where a set
publishes no split, everything is tested on.
"""

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath

from data.sources.iqa_corpora import CORPORA
from data.sources.iqa_meta import Opinion, Splits

Read = tuple[list[Opinion], Splits]

# CSIQ's kinds of distortion: folder, and as its files are named.
_CSIQ = {
  'noise': ('awgn', 'AWGN'),
  'blur': ('blur', 'BLUR'),
  'contrast': ('contrast', 'contrast'),
  'fnoise': ('fnoise', 'fnoise'),
  'jpeg': ('jpeg', 'JPEG'),
  'jpeg 2000': ('jpeg2000', 'jpeg2000'),
}
_LIVE_PRACTICE = 7  # images that annotators practised on come first


def _table(path: epath.Path, *columns: str) -> Iterator[dict[str, str]]:
  with path.open('r') as file:
    rows = csv.DictReader(file)
    names = [name.strip() for name in rows.fieldnames or ()]
    missing = [name for name in columns if name not in names]
    if missing:
      raise ValueError(f'{path} has no column {missing[0]!r}; it has {names}')
    for row in rows:
      yield {key.strip(): (value or '').strip() for key, value in row.items()}


def _opinion(path, image: str, mos: Any, std: Any = math.nan) -> Opinion:
  try:
    return Opinion(image, float(mos), float(std))
  except ValueError as error:
    raise ValueError(
      f'{path}: {image} has the opinion {mos!r} +- {std!r}, expected numbers'
    ) from error


def _koniq(folder: epath.Path) -> Read:
  sets = folder / 'koniq10k_distributions_sets.csv'
  scores = folder / 'koniq10k_scores_and_distributions.csv'
  if sets.exists():
    rows = list(_table(sets, 'image_name', 'MOS', 'SD', 'set'))
    opinions = [
      _opinion(sets, row['image_name'], row['MOS'], row['SD']) for row in rows
    ]
    parts = {
      part: [row['image_name'] for row in rows if row['set'] in names]
      for part, names in (('train', ('training',)), ('test', ('test',)))
    }
    return opinions, parts
  return _tested(
    _opinion(scores, row['image_name'], row['MOS'], row['SD'])
    for row in _table(scores, 'image_name', 'MOS', 'SD')
  )


def _kadid(folder: epath.Path) -> Read:
  path = folder / 'dmos.csv'
  return _tested(
    _opinion(path, row['dist_img'], row['dmos'], _root(row['var']))
    for row in _table(path, 'dist_img', 'dmos', 'var')
  )


def _root(variance: str) -> float:
  return math.sqrt(float(variance))


def _csiq(folder: epath.Path) -> Read:
  path = folder / 'csiq.DMOS.csv'
  columns = ('image', 'dst_type', 'dst_lev', 'dmos_std', 'dmos')
  opinions = []
  for row in _table(path, *columns):
    if row['dst_type'] not in _CSIQ:
      raise ValueError(
        f'{path}: dst_type {row["dst_type"]!r}, expected one of {list(_CSIQ)}'
      )
    where, kind = _CSIQ[row['dst_type']]
    image = f'{where}/{row["image"]}.{kind}.{row["dst_lev"]}.png'
    opinions.append(_opinion(path, image, row['dmos'], row['dmos_std']))
  return _tested(opinions)


def _tid2013(folder: epath.Path) -> Read:
  path, beside = folder / 'mos_with_names.txt', folder / 'mos_std.txt'
  pairs = [line.split() for line in path.read_text().splitlines() if line]
  if any(len(pair) != 2 for pair in pairs):
    raise ValueError(f'{path}: expected an opinion and a name in every line')
  spread = beside.read_text().split() if beside.exists() else []
  if spread and len(spread) != len(pairs):
    raise ValueError(f'{beside} has {len(spread)} lines, {path} {len(pairs)}')
  # Some copies of the set write I01_01_1.bmp as i01_01_1.bmp.
  images = folder / CORPORA['tid2013'].images
  listed = images.iterdir() if images.exists() else ()
  there = {found.name.lower(): found.name for found in listed}
  return _tested(
    _opinion(path, there.get(name.lower(), name), mos, std)
    for (mos, name), std in zip(pairs, spread or [math.nan] * len(pairs))
  )


def _livew(folder: epath.Path) -> Read:
  from scipy import io

  def values(name: str) -> Any:
    path = folder / 'Data' / f'{name}_release.mat'
    with path.open('rb') as file:
      return io.loadmat(file)[f'{name}_release'].ravel()[_LIVE_PRACTICE:]

  names = [str(name.item()) for name in values('AllImages')]
  columns = zip(names, values('AllMOS'), values('AllStdDev'), strict=True)
  return _tested(_opinion(folder, *row) for row in columns)


def _agiqa(folder: epath.Path) -> Read:
  path = folder / 'data.csv'
  return _tested(
    _opinion(path, row['name'], row['mos_quality'], row['std_quality'])
    for row in _table(path, 'name', 'mos_quality', 'std_quality')
  )


def _pipal(folder: epath.Path) -> Read:
  images = folder / CORPORA['pipal'].images
  where = {found.name: found.parent.name for found in images.glob('*/*.bmp')}
  opinions = []
  for path in sorted((folder / 'Train_Label').glob('*.txt')):
    for line in filter(None, path.read_text().splitlines()):
      name, _, mos = line.partition(',')
      parent = where.get(name, '')
      opinions.append(_opinion(path, f'{parent}/{name}'.lstrip('/'), mos))
  return _tested(opinions)


def _tested(opinions) -> Read:
  found = list(opinions)
  return found, {'test': [opinion.image for opinion in found]}


_READERS: Mapping[str, tuple[str, Callable[[epath.Path], Read]]] = {
  'koniq': ('koniq10k_*.csv', _koniq),
  'kadid': ('dmos.csv', _kadid),
  'csiq': ('csiq.DMOS.csv', _csiq),
  'tid2013': ('mos_with_names.txt', _tid2013),
  'livew': ('Data/AllMOS_release.mat', _livew),
  'agiqa': ('data.csv', _agiqa),
  'pipal': ('Train_Label/*.txt', _pipal),
}


def read(folder: epath.Path, name: str) -> Read:
  """Opinions and splits of a set's own files.

  Args:
    folder: of the set.
    name: a key of `CORPORA`.

  Raises:
    FileNotFoundError: naming what was looked for.
    ValueError: a table of another form.
  """
  pattern, reader = _READERS.get(name, ('', None))
  if reader is None or not list(folder.glob(pattern)):
    wanted = ['metas/{train,test}_' + name + '*.json', 'mos.json']
    raise FileNotFoundError(
      f'{folder} holds none of {[*wanted, *filter(None, [pattern])]}'
    )
  return reader(folder)
