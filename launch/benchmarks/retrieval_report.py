"""What the retrieval benchmark leaves: scores, and a line for each query."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from data.knowledge import DROP, Knowledge
from data.words.captions import CaptionWords
from experiments.mask import retrieve
from experiments.mask.retrieve import Arm, Task
from launch import console
from vlm.metrics import retrieval

COLUMNS = [f'{side}_r{k}' for side in ('t2i', 'i2t') for k in retrieval.RECALLS]


def report_of(
  task: Task,
  folds: Mapping[str, Any],
  knowledge: Knowledge,
  settings: Mapping[str, Any],
) -> dict[str, Any]:
  """Everything that scores.json says; see launch/benchmarks/retrieval.py.

  Args:
    task: what was matched.
    folds: `retrieve.rank`'s of each arm.
    knowledge: what it was matched by.
    settings: flags and their values.
  """
  owners, first = task.data.owners, next(iter(folds.values()))
  captions = np.concatenate([fold.captions for fold in first])
  images = sum(fold.stop - fold.start for fold in first)
  dropped = settings['ood'] == DROP
  empty = sum(not task.data.captions[number] for number in captions)
  return {
    'protocol': settings['protocol'],
    'folds': len(first),
    'images': images,
    'captions': len(captions),
    'empty_captions': empty,
    'left_out': dict(task.data.skipped) | task.left_out,
    'words': retrieve.word_counts(task.words, captions, dropped),
    'scores': {
      name: retrieve.figures(found, owners)
      | {'ood': retrieve.with_ood(found, owners, task.words)}
      for name, found in folds.items()
    },
    'settings': dict(settings),
    'knowledge': dict(knowledge.meta) | {'words': len(knowledge.words)},
    'jax': jax.__version__,
  }


def records(
  task: Task, arms: Mapping[str, Arm], folds: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
  """A line for each query of each arm."""
  for name, arm in arms.items():
    for fold in folds[name]:
      texts, images = retrieve.best(arm, fold)
      for row, number in enumerate(range(fold.start, fold.stop)):
        yield {
          'arm': name,
          'query': 'image',
          'image': task.data.images[number],
          'rank': int(fold.ranks.texts[row]),
          'best': texts.numbers[row].tolist(),
          'scores': _plain(texts.scores[row]),
        }
      for row, number in enumerate(fold.captions):
        yield {
          'arm': name,
          'query': 'caption',
          'caption': int(number),
          'text': task.data.captions[number],
          'image': task.data.images[task.data.owners[number]],
          'rank': int(fold.ranks.images[row]),
          'best': [task.data.images[image] for image in images.numbers[row]],
          'scores': _plain(images.scores[row]),
          **_words_of(task.words, number),
        }


def _plain(scores: np.ndarray) -> list[float | None]:
  """JSON has no infinity: a score of no match is null."""
  return [float(score) if np.isfinite(score) else None for score in scores]


def _words_of(words: CaptionWords, caption: int) -> dict[str, list[str]]:
  found: dict[str, list[str]] = {'known': [], 'ood': []}
  for number in words.ids[caption]:
    if number >= 0:
      found[words.status[number]].append(words.words[number])
  return found


def show(report: Mapping[str, Any]) -> None:
  """Prints scores by arm with the protocol, and what became of words."""
  rows = []
  for name, found in report['scores'].items():
    cells = [f'{found[column]:.1f}' for column in COLUMNS]
    _, low, high = found['intervals']['rsum']
    interval = f'{low:.1f} to {high:.1f}'
    rows.append([name, *cells, f'{found["rsum"]:.1f}', interval])
  title = (
    f'protocol {report["protocol"]}: {report["images"]} images, '
    f'{report["captions"]} captions, {report["folds"]} fold(s); '
    f'--ood={report["settings"]["ood"]}'
  )
  console.print_table(title, ['', *COLUMNS, 'rsum', '95 %'], rows)
  words = report['words']
  lines = [[f'words {n}', f'{x:.1%}'] for n, x in words['share'].items()]
  lines += [
    ['captions with an OOD word', f'{words["captions_with_ood_share"]:.1%}'],
    [
      'captions without a word',
      f'{words["captions_without_a_word_share"]:.1%}',
    ],
  ]
  lines += [[what, str(count)] for what, count in report['left_out'].items()]
  console.print_table('beside them', ['', ''], lines)
