"""The benchmarks: who reads them, and how they are asked and scored."""

import dataclasses
from collections.abc import Callable, Mapping

from etils import epath

from data.sources import egoschema, longvideobench, mlvu, mvbench, videomme
from data.sources.video_qa import Question
from vlm.metrics.choice import Invalid


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """Facts of a benchmark; spec section 5.

  Attributes:
    read: its reader.
    splits: what it can be asked for, the usual one first.
    max_new_tokens: longest answer.
    invalid: what an answer counts that names no option.
    average: category whose means are averaged for the headline; '' averages
      over questions.
  """

  read: Callable[[epath.PathLike, str], list[Question]]
  splits: tuple[str, ...]
  max_new_tokens: int = 16
  invalid: Invalid = 'wrong'
  average: str = ''


BENCHMARKS: Mapping[str, Benchmark] = {
  'videomme': Benchmark(videomme.read, videomme.SPLITS),
  'egoschema': Benchmark(egoschema.read, egoschema.SPLITS),
  'longvideobench': Benchmark(
    longvideobench.read,
    longvideobench.SPLITS,
    max_new_tokens=32,
    invalid='chance',
  ),
  'mvbench': Benchmark(mvbench.read, mvbench.SPLITS, average='task'),
  'mlvu': Benchmark(mlvu.read, mlvu.SPLITS, average='task'),
}


def questions(
  name: str, folder: epath.PathLike, split: str = '', limit: int = 0
) -> list[Question]:
  """The questions of a benchmark.

  Args:
    name: of the benchmark.
    folder: as published.
    split: the usual one if empty.
    limit: how many, evenly spread over the split; 0 for all.

  Raises:
    ValueError: naming the flag, for a split there is not.
    FileNotFoundError: where the folder is not laid out as published.
  """
  benchmark = BENCHMARKS[name]
  if split and split not in benchmark.splits:
    raise ValueError(
      f'--split={split}: {name} has {" and ".join(benchmark.splits)}'
    )
  found = benchmark.read(folder, split or benchmark.splits[0])
  if not 0 < limit < len(found):
    return found
  return [found[number * len(found) // limit] for number in range(limit)]
