"""What an experiment adds to the trainer and the evaluator.

A config names a module in `config.task`; the module has a class `Task`:

  task = Task(config)
  task.chat()          the tokenizer and chat template
  task.layout          how images become tokens (vlm.models.plan.Layout)
  task.train_rows()    (sources, weights): random-access sources of rows
  task.example(row, rng) -> {'images': [...], 'messages': [...]} or BadRecord
  task.eval_sets()     {name: sequence of rows}
  task.queries(rows)   iterator of {'images', 'messages', 'record'}; `messages`
                       ends with the user's turn, `record` is JSON and keeps
                       what scoring needs
  task.skipped         {reason: count} of queries that could not be asked
  task.score(records)  {metric: (value, low, high) or value}; every record has
                       'prediction', the text the model wrote

A task that rewards can train (launch/objectives/rl.py) has

  task.prompt(row, rng) -> {'images', 'messages', 'record'} or BadRecord;
                       `messages` ends with the user's turn, `record` is JSON,
                       and its 'task', if any, names what is logged by itself
  task.rewards()       sequence of `vlm.rollout.rewards` Reward or GroupReward;
                       one Reward is named 'format'
  task.specimen(record)  the answer that the prompt gives as its example; it
                       must earn the full format reward

A task may also have

  task.measure(job, params)  what its miniature shows beside scores, as JSON;
                             `job` has the model and the chat
  task.processor(p)    the checkpoint's processor with what the task changes
  task.model(model)    the model with what the task changes
  task.files()         {name: text} that belong beside the checkpoint's
                       tokenizer.json: what inference has to know
  task.adopt(folder)   reads them back from a workdir or an export

and '_'-keys of an example travel with its batch on the host.

A task of the objective 'contrastive' has no chat; it has

  task.tokenizer_json()  the text tower's tokenizer.json
  task.train_rows()      as above
  task.pair(row, rng)    (picture, text) of a row, or BadRecord
  task.eval_sets()       {name: sequence of rows}
  task.texts(row)        (picture, all its texts), or BadRecord

and may have

  task.probe(rows, vectors)  {metric: value} of the rows' image embeddings
  task.evaluate(job, params, mesh)  scores of its sets instead of retrieval,
                             as launch/evaluate.py gives them

A task of the objective 'regression' (launch/objectives/regression.py) has all
that its model's other objectives want, and

  task.target(row)       the number that is to be read, or BadRecord

Every record it scores has 'prediction', a number. So has one of the objective
'levels' (launch/objectives/levels.py), which wants `task.prompt` and

  task.level_answer(level)  the answer that names one of five words
  task.opinion(row)      `soft_labels.Opinion` of a row, or BadRecord

A task of the objectives 'prototypes' and 'region_text' has neither; it has

  task.train_rows()      as above
  task.words()           (words, their vectors float32 [K, N]), of 'prototypes'
  task.regions(row)      (features [i, M], a list of numbers of words for each
                         region) of a row, or BadRecord
  task.counts()          regions of each word, where data.subsample is set
  task.vocabulary()      words, of 'region_text'
  task.region_caption(row, rng)  (features [i, M], numbers of a caption's words)

and may have

  task.evaluate(job, params, progress)  {set: records, scores, skipped}

`images` are uint8 arrays [H, W, 3] or lists of frames.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def load(config: Any) -> Any:
  """The task that `config.task` names.

  Raises:
    ValueError: if the module or its class is not there.
  """
  try:
    return importlib.import_module(config.task).Task(config)
  except ModuleNotFoundError as error:
    if error.name == config.task:
      raise ValueError(
        f'--config.task={config.task!r}: no such module; expected for example '
        'experiments.depthlm.task'
      ) from error
    raise


def scored(
  task: Any,
  answer: Callable[[Iterator[Any]], Iterable[dict[str, Any]]],
  progress: Callable[[str, int], None] = lambda name, done: None,
) -> dict[str, dict[str, Any]]:
  """Every question of every set answered, and the answers scored.

  Args:
    task: of these experiments.
    answer: queries -> records with `prediction`, in order.
    progress: called with the set's name and the answers so far.

  Returns:
    {set: {'records': [...], 'scores': {...}, 'skipped': {...}}}.

  Raises:
    ValueError: for a set of which nothing could be asked.
  """
  results = {}
  for name, rows in task.eval_sets().items():
    task.skipped.clear()
    records = []
    for record in answer(task.queries(rows)):
      records.append(record)
      progress(name, len(records))
    if not records:
      raise ValueError(
        f'{name}: no question could be asked; skipped {task.skipped}'
      )
    results[name] = {
      'records': records,
      'scores': task.score(records),
      'skipped': dict(task.skipped),
    }
  return results
