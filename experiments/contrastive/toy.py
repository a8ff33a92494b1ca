"""The task of small pictures of shapes, for tests and first steps."""

import tokenizers
from tokenizers import models, pre_tokenizers, processors

from data.worlds import shapes
from experiments.contrastive import task

START, END = '<start>', '<end>'


class Task(task.Task):
  """See experiments/contrastive/task.py; rows are made, not read.

  Args:
    config: with `toy` and `contrastive.texts`.
  """

  def tokenizer_json(self) -> str:
    """Whole words between a start and an end token."""
    vocab = {word: i for i, word in enumerate((START, *shapes.WORDS, END))}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab, START))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
      single=f'{START} $A {END}',
      special_tokens=[(START, vocab[START]), (END, vocab[END])],
    )
    return tokenizer.to_str()

  def train_rows(self):
    """(sources, weights): the training pictures."""
    return [_Rows(self._rows('train_rows', seed=1))], None

  def eval_sets(self):
    """Other pictures of the same kinds."""
    return {'shapes': self._rows('eval_rows', seed=2)}

  def _rows(self, number: str, seed: int):
    toy = self._config.toy
    return shapes.shape_rows(toy[number], toy.size, seed)


class _Rows(list):
  """Rows with the name that messages want."""

  name = 'shapes'
