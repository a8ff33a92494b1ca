"""From the records of a run to its scores.

A record is what is known of one question, one line of predictions.jsonl:

  id, video, categories   of the question
  options, answer         how many, and which is right (null: not published)
  prediction, choice      what was said, and the option it names (null: none)
  problem                 why the video could not be shown; '' if it was
  grid                    frames and visual tokens of each, before any method
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.asking.predictions import reason
from experiments.video_qa.benchmarks import Benchmark
from vlm.metrics import bootstrap, choice

Record = Mapping[str, Any]


def score(records: Sequence[Record], benchmark: Benchmark) -> dict[str, Any]:
  """Scores all records of a benchmark.

  A question whose video could not be shown counts as wrong, in the headline and
  in the breakdowns.

  Returns:
    `counts` (questions, labelled, shown, invalid, and problems by reason), and,
    where answers are known, `accuracy` with its 95 % bootstrap interval over
    videos; `accuracy_shown`, over the questions that were shown;
    `accuracy_strict`, invalid answers counted as wrong, and `by`: for each
    category accuracy and number of each of its values.
  """
  labelled = [r for r in records if r['answer'] is not None]
  shown = [record for record in records if not record['problem']]
  found: dict[str, Any] = {
    'counts': {
      'questions': len(records),
      'labelled': len(labelled),
      'shown': len(shown),
      'invalid': sum(record['choice'] is None for record in shown),
      'problems': dict(
        sorted(Counter(reason(r) for r in records if r['problem']).items())
      ),
    }
  }
  if labelled:
    found |= _accuracies(labelled, benchmark)
  return found


def _accuracies(labelled: list[Record], benchmark: Benchmark) -> dict[str, Any]:
  values = _credit(labelled, benchmark.invalid)
  shown = np.array([not record['problem'] for record in labelled])
  categories = labelled[0]['categories']
  return {
    'accuracy': list(_average(labelled, values, benchmark)),
    'accuracy_shown': float(values[shown].mean()) if shown.any() else None,
    'accuracy_strict': _average(
      labelled, _credit(labelled, 'wrong'), benchmark
    ).mean,
    'by': {
      name: {
        value: {'accuracy': mean, 'questions': count}
        for value, (mean, count) in choice.by_group(
          values, [record['categories'][name] for record in labelled]
        ).items()
      }
      for name in categories
    },
  }


def _credit(records: list[Record], invalid: choice.Invalid) -> np.ndarray:
  column = lambda name: [record[name] for record in records]
  shown = [not problem for problem in column('problem')]
  return choice.credit(
    column('choice'), column('answer'), column('options'), shown, invalid
  )


def _average(
  records: list[Record], values: np.ndarray, benchmark: Benchmark
) -> bootstrap.Interval:
  videos = [record['video'] for record in records]
  if not benchmark.average:
    return bootstrap.interval(values, videos)
  groups = [record['categories'][benchmark.average] for record in records]
  return bootstrap.macro_interval(values, videos, groups)


def submission(records: Sequence[Record]) -> dict[str, int]:
  """What EgoSchema's server reads: {q_uid: number of the option}.

  An answer that names none is -1, which is never right.
  """
  return {
    r['id']: -1 if r['problem'] or r['choice'] is None else r['choice']
    for r in records
  }
