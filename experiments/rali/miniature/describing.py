"""Has a teacher of the miniature describe its training photographs."""

import json
from typing import Any

from data.chunks import filled
from experiments.rali import sets
from experiments.rali.miniature import described, vocabulary
from vlm.methods.rali.descriptions import describe


def write(config: Any, rater: Any) -> dict[str, Any]:
  """Has the families of `config.measure.describe` described, and keeps it.

  Args:
    config: the run's; its `workdir` gets the files.
    rater: a `measure.Rater`.

  Returns:
    {family: {'records', 'silent', 'distinct', 'dropped'}}: photographs with a
    description, without one, different texts, and completions that had none, by
    reason.
  """
  found = {}
  for family in config.measure.describe:
    rows = sets.open_set(config, family, 'train')
    said = _completions(rater, rows, config)
    made = describe(
      [rows[n] for n in range(len(rows))], said, readable=vocabulary.readable
    )
    text = json.dumps(made.records)
    described.path_of(config.workdir, family).write_text(text)
    texts = {t for record in made.records for t in record['descriptions']}
    found[family] = {
      'records': len(made.records),
      'silent': made.silent,
      'distinct': len(texts),
      'dropped': dict(made.dropped),
    }
  return found


def _completions(rater, rows, config) -> list[list[str]]:
  size, found = config.eval.batch_size, []
  for start in range(0, len(rows), size):
    stop = min(start + size, len(rows))
    images = [rows[number]['image'] for number in range(start, stop)]
    said = rater.said(filled(images, size), config.measure.samples, start)
    found += said[: stop - start]
  return found
