"""From opinions and a split to Data-DeQA-Score's records.

  mos.json    {image: {"mos": 61.2, "std": 14.1}}, image under the set's images
  split.json  {"train": [image or its base name, ...], "test": [...]}

Opinions are normalised by the range of the whole set, train and test together,
as published.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from data.sources.iqa_corpora import CORPORA, Corpus, rises_with_level
from vlm.methods.rali import levels, soft_labels

QUESTION = 'How good is the quality of this picture?'
ANSWER = 'This picture has {level} quality.'


@dataclasses.dataclass(frozen=True)
class Opinion:
  """What people said about an image.

  Attributes:
    image: under the set's folder of images.
    mos: mean opinion score, higher is better unless the set says otherwise.
    std: of the annotators; NaN where it is not published.
  """

  image: str
  mos: float
  std: float = math.nan


Splits = Mapping[str, Sequence[str]]


def read(folder: epath.Path) -> tuple[list[Opinion], Splits]:
  """Opinions of mos.json and the splits of split.json.

  Without a split.json everything is tested on.

  Raises:
    ValueError: an entry of another form, by its name.
  """
  opinions = []
  for image, entry in _object(folder / 'mos.json').items():
    try:
      mos, std = float(entry['mos']), float(entry.get('std', math.nan))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
      raise ValueError(
        f'{folder}/mos.json: {image}: {entry!r}, expected {{"mos": number, '
        '"std": number}'
      ) from error
    opinions.append(Opinion(image, mos, std))
  path = folder / 'split.json'
  if not path.exists():
    return opinions, {'test': [opinion.image for opinion in opinions]}
  return opinions, _object(path)


def _object(path: epath.Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path} is not JSON: {error}') from error
  if not isinstance(found, dict):
    raise ValueError(f'{path} holds a {type(found).__name__}, not an object')
  return found


def metas(
  opinions: Sequence[Opinion], splits: Splits, name: str
) -> dict[str, list[dict[str, Any]]]:
  """Records of train and test; see `data/sources/iqa.py` for their fields.

  Images of neither are left out, and counted in the log.

  Raises:
    ValueError: an opinion outside of its published range, opinions that are
      all the same (a set of one image), a deviation below 0, or an image of a
      split that nobody has an opinion on.
  """
  corpus = CORPORA[name]
  low, high = _range(opinions, corpus, name)
  _check_splits(opinions, splits, name)
  turn = corpus.lower_is_better and rises_with_level(
    [(opinion.image, opinion.mos) for opinion in opinions], name
  )
  made = lambda opinion, train: _record(
    opinion, corpus, _scale(opinion, low, high, turn), train
  )
  out: dict[str, list[dict[str, Any]]] = {'train': [], 'test': []}
  chosen = {part: set(splits.get(part, ())) for part in out}
  for opinion in opinions:
    names = {opinion.image, epath.Path(opinion.image).name}
    for part, images in chosen.items():
      if names & images:
        out[part].append(made(opinion, part == 'train'))
        break
  used = len(out['train']) + len(out['test'])
  if used < len(opinions):
    logging.info('%s: %d images of no split', name, len(opinions) - used)
  return out


def _range(opinions, corpus, name: str) -> tuple[float, float]:
  for opinion in opinions:
    if not corpus.low <= opinion.mos <= corpus.high or not math.isfinite(
      opinion.mos
    ):
      raise ValueError(
        f'{name}: the opinion on {opinion.image} is {opinion.mos}, expected '
        f'{corpus.low:g} to {corpus.high:g}'
      )
    if opinion.std < 0:
      raise ValueError(
        f'{name}: the deviation of {opinion.image} is {opinion.std}'
      )
  values = [opinion.mos for opinion in opinions]
  if not values or min(values) == max(values):
    raise ValueError(
      f'{name}: {len(values)} images with opinions that do not differ, which '
      'cannot be mapped to 1 to 5; give records with gt_score_norm instead'
    )
  return min(values), max(values)


def _check_splits(opinions, splits, name: str) -> None:
  known = {opinion.image for opinion in opinions}
  known |= {epath.Path(image).name for image in known}
  missing = [i for part in ('train', 'test') for i in splits.get(part, ())]
  missing = [image for image in missing if image not in known]
  if missing:
    raise ValueError(
      f'{name}: split.json names {len(missing)} images without an opinion, '
      f'first {missing[0]!r}'
    )
  both = set(splits.get('train', ())) & set(splits.get('test', ()))
  if both:
    raise ValueError(
      f'{name}: split.json has {len(both)} images in train and in test, first '
      f'{min(both)!r}'
    )


def _scale(opinion, low, high, turn: bool) -> tuple[float, float]:
  std = 0.0 if math.isnan(opinion.std) else opinion.std
  mean, spread = soft_labels.normalise(opinion.mos, std, low, high)
  return (6 - mean if turn else mean), spread


def _record(
  opinion: Opinion, corpus: Corpus, scale: tuple[float, float], train: bool
) -> dict[str, Any]:
  mean, spread = scale
  record = {
    'id': f'{epath.Path(opinion.image).name}->{opinion.mos}',
    'image': f'{corpus.folder}/{corpus.images}/{opinion.image}',
    'gt_score': opinion.mos,
    'gt_score_norm': mean,
  }
  if not math.isnan(opinion.std):
    record |= {'std': opinion.std, 'std_norm': spread}
  if train:
    label = soft_labels.soft_label(mean, spread, corpus.density)
    answer = ANSWER.format(level=levels.level_of(mean, 1, 5))
    record |= {
      'level_probs': label.probs.tolist(),
      'level_probs_org': label.density.tolist(),
      'conversations': [
        {'from': 'human', 'value': f'{QUESTION}\n<|image|>'},
        {'from': 'gpt', 'value': answer},
      ],
    }
  return record
