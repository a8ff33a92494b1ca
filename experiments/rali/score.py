"""From ratings to correlations: per set, and over sets.

A record is what is known of one image, one line of predictions.jsonl:

  id, dataset, image     of the row; `reference` is what the bootstrap draws
  mos                    opinion on [1, 5]
  prediction, score      what was said, and the rating read in it; null: none
  failure                why none was read; '' if one was
  drawn                  [k] texts drawn beside the greedy one, if any
  drawn_scores           [k] their ratings, null where none was read
  problem                why the picture could not be shown; '' if it was

A picture that cannot be shown has no score and is left out, counted. A text
that cannot be read is replaced by the greedy answer's rating, and where that
cannot be read either by the constant 3.0; how often is counted too.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlm.methods.rali.readers import CONSTANT
from vlm.metrics import correlation

Record = Mapping[str, Any]

IN_DOMAIN = ('koniq',)  # what RALI and Q-Insight are trained on


def greedy(record: Record) -> float:
  """The rating of the greedy answer, or the constant."""
  return CONSTANT if record['score'] is None else record['score']


def mean_of_drawn(record: Record) -> float:
  """The mean rating of the drawn answers; see the module for unread ones."""
  found = record['drawn_scores']
  return float(np.mean([greedy(record) if s is None else s for s in found]))


def score(
  records: Sequence[Record], in_domain: Sequence[str] = IN_DOMAIN
) -> dict[str, Any]:
  """Scores all records.

  Returns:
    For `greedy` and, where answers were drawn, `mean_of_drawn`: `sets`, for
    each the scores of `correlation.scores`, intervals of plcc and srcc and the
    count; `mean`, `in_domain` and `out_of_domain`, plain means over sets, with
    the sets whose score is not defined left out and named. And `counts`, by
    set. NaN is null.
  """
  shown = [record for record in records if not record['problem']]
  ways = {'greedy': greedy}
  if shown and shown[0].get('drawn_scores'):
    ways['mean_of_drawn'] = mean_of_drawn
  names = dict.fromkeys(record['dataset'] for record in records)
  out: dict[str, Any] = {
    'counts': {name: counts(_of(records, name)) for name in names}
  }
  for way, rate in ways.items():
    sets = {
      name: set_scores(
        [rate(r) for r in _of(shown, name)],
        [r['mos'] for r in _of(shown, name)],
        [r['reference'] for r in _of(shown, name)],
      )
      for name in names
      if _of(shown, name)
    }
    out[way] = {'sets': sets} | over_sets(sets, in_domain)
  return plain(out)


def _of(records: Sequence[Record], name: str) -> list[Record]:
  return [record for record in records if record['dataset'] == name]


def set_scores(
  predicted: Sequence[float], mos: Sequence[float], references: Sequence[str]
) -> dict[str, Any]:
  """Scores of one set, with 95 % intervals over references."""
  found: dict[str, Any] = correlation.scores(predicted, mos)
  intervals = correlation.intervals(predicted, mos, np.array(references))
  found['intervals'] = {
    name: [interval.low, interval.high] for name, interval in intervals.items()
  }
  found['count'] = len(mos)
  return found


def counts(records: Sequence[Record]) -> dict[str, Any]:
  """Images, and what went wrong, by name."""
  by = lambda values: dict(sorted(Counter(values).items()))
  shown = [record for record in records if not record['problem']]
  drawn = [s for r in shown for s in r.get('drawn_scores') or ()]
  return {
    'images': len(records),
    'problems': by(r['problem'].split(':')[0] for r in records if r['problem']),
    'unread': by(r['failure'] for r in shown if r['failure']),
    'drawn': len(drawn),
    'drawn_unread': sum(s is None for s in drawn),
  }


def over_sets(
  sets: Mapping[str, Mapping[str, Any]], in_domain: Sequence[str]
) -> dict[str, Any]:
  """Plain means over all sets, over those trained on, and over the others."""
  groups = {
    'mean': list(sets),
    'in_domain': [name for name in sets if name in in_domain],
    'out_of_domain': [name for name in sets if name not in in_domain],
  }
  return {name: _mean(sets, names) for name, names in groups.items() if names}


def _mean(sets, names: Sequence[str]) -> dict[str, Any]:
  out: dict[str, Any] = {'sets': list(names), 'undefined': {}}
  for metric in sets[names[0]]:
    if metric in ('intervals', 'count'):
      continue
    values = {name: sets[name][metric] for name in names}
    known = [value for value in values.values() if not math.isnan(value)]
    out[metric] = float(np.mean(known)) if known else math.nan
    lost = [name for name, value in values.items() if math.isnan(value)]
    if lost:
      out['undefined'][metric] = lost
  return out


def plain(value: Any) -> Any:
  """NaN to None: JSON has none."""
  if isinstance(value, dict):
    return {key: plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  return None if isinstance(value, float) and math.isnan(value) else value
