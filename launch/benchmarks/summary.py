"""What a benchmark run leaves: scores, efficiency, videos not shown."""

import json
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from data.assistant import Assistant
from experiments.asking.clock import Clock
from experiments.video_qa import efficiency, scores
from experiments.video_qa.benchmarks import BENCHMARKS
from launch import console

PROBLEMS_PRINTED = 20


def report_of(
  benchmark: str,
  records: Sequence[dict[str, Any]],
  assistant: Assistant,
  clock: Clock,
  visual_transform: Any = None,
) -> dict[str, Any]:
  """Everything scores.json says but the settings.

  Args:
    benchmark: its name.
    records: of all questions.
    assistant: who answered.
    clock: what was measured in this run, maybe of a part of them.
    visual_transform: what was left of a video's tokens.
  """
  decoder = assistant.model.decoder_config
  return {
    'scores': scores.score(records, BENCHMARKS[benchmark]),
    'efficiency': efficiency.report(records, decoder, visual_transform),
    'measured': clock.report(),
    'problems': problems_of(records),
    'environment': environment(assistant),
  }


def problems_of(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """The questions that could not be asked, and why."""
  return [
    {'id': record['id'], 'problem': record['problem']}
    for record in records
    if record['problem']
  ]


def environment(assistant: Assistant) -> dict[str, Any]:
  """Where a run took place."""
  return {
    'jax': jax.__version__,
    'devices': jax.device_count(),
    'kind': jax.devices()[0].device_kind,
    'processes': jax.process_count(),
    'mesh': dict(assistant.mesh.shape) if assistant.mesh else {},
  }


def write(
  folder: epath.Path,
  report: dict[str, Any],
  records: Sequence[dict[str, Any]],
) -> None:
  """Writes scores.json, and what a server wants; see the docstring above."""
  (folder / 'scores.json').write_text(json.dumps(report, indent=1))
  settings = report['settings']
  if (settings['benchmark'], settings['split']) == ('egoschema', 'total'):
    answers = json.dumps(scores.submission(records))
    (folder / 'submission.json').write_text(answers)


def show(benchmark: str, report: dict[str, Any]) -> None:
  """Prints scores, efficiency, and the videos that were not shown."""
  found = report['scores']
  rows = [
    [name, console.number(found[name]), '']
    for name in ('accuracy', 'accuracy_shown', 'accuracy_strict')
    if found.get(name) is not None
  ]
  for category, values in found.get('by', {}).items():
    rows += [
      [f'{category}: {value}', console.number(v['accuracy']), v['questions']]
      for value, v in values.items()
    ]
  rows += [[name, '', count] for name, count in _counts(found['counts'])]
  text = [[str(cell) for cell in row] for row in rows]
  console.print_table(benchmark, ['', 'share', 'questions'], text)
  show_efficiency(report['efficiency'], report['measured'])
  show_problems(report['problems'])


def show_problems(problems: Sequence[dict[str, Any]]) -> None:
  """Names the first questions that could not be asked."""
  for problem in problems[:PROBLEMS_PRINTED]:
    console.say(f'not shown: {problem["id"]}: {problem["problem"]}')
  if len(problems) > PROBLEMS_PRINTED:
    console.say(f'and {len(problems) - PROBLEMS_PRINTED} more, in scores.json')


def _counts(counts: dict[str, Any]) -> list[tuple[str, int]]:
  plain = [(name, n) for name, n in counts.items() if name != 'problems']
  return plain + list(counts['problems'].items())


def show_efficiency(found: dict[str, Any], measured: dict[str, Any]) -> None:
  """Prints tokens and FLOPs where they are known, and what was measured."""
  rows = []
  if found:
    layers = found['tokens_per_layer']
    rows += [
      ['visual tokens', f'{found["tokens_full"]:.1f}'],
      [
        'of them in the first and last layer',
        f'{layers[0]:.1f}, {layers[-1]:.1f}',
      ],
      ['of them in an average layer', f'{found["compression"]:.1%}'],
      ['TFLOP of their prefill, as printed', f'{found["tflops"]:.4g}'],
      ['with all of them', f'{found["tflops_full"]:.4g}'],
      ['TMAC, eq. 12', f'{found["tera_macs"]:.4g}'],
      ['with all of them', f'{found["tera_macs_full"]:.4g}'],
    ]
  rows += [
    [name.replace('_', ' '), f'{value:.4g}']
    for name, value in measured.items()
    if isinstance(value, int | float)
  ]
  memory = measured['peak_memory']
  rows.append([f'peak GB of {memory["of"]}', f'{memory["bytes"] / 1e9:.3g}'])
  console.print_table('efficiency', ['', ''], rows)
