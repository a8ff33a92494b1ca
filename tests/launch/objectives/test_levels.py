"""Rows of the objective 'levels': where answers name their level."""

import jax
import numpy as np
import pytest

from experiments.rali import q_insight
from launch.objectives import levels
from vlm.methods.rali.levels import LEVELS
from vlm.sharding import mesh as mesh_lib


@pytest.fixture(scope='module')
def made():
  config = q_insight.get_config('smoke,arm=deqa')
  config.data.workers = 0
  return levels.prepare(config)


def test_rows_name_the_likeliest_level(made):
  batches = levels.batches(made, None)
  batch = next(batches)
  batches.close()
  chat = made.chat
  for row in range(3):
    at = batch['tokens'].shape[1] - 1 - batch['level_at'][row]
    word = chat.decode([batch['tokens'][row, at]]).strip()
    assert word == LEVELS[np.argmax(batch['label'][row])]
    ids = [chat.decode([one]).strip() for one in batch['level_ids'][row]]
    assert ids == list(LEVELS)
    said = batch['tokens'][row, -levels.TAIL :][batch['others'][row] > 0]
    assert word not in chat.decode(said) and 'quality' in chat.decode(said)
    mean = batch['label'][row] @ [5, 4, 3, 2, 1]
    assert mean == pytest.approx(batch['target'][row], abs=0.11)
  shapes = levels.shapes(made.config, made.model)
  held = {n: x for n, x in batch.items() if n[0] != '_'}
  assert jax.tree.map(lambda x: (x.shape, x.dtype), held) == jax.tree.map(
    lambda x: (x.shape, x.dtype), shapes
  )


def test_scores_are_numbers(made):
  mesh = mesh_lib.make_mesh({'data': 1, 'fsdp': -1})
  params = made.model.init(jax.random.key(0))
  found = levels.evaluate(made, params, mesh)
  for name in made.config.sets.eval:
    numbers = [one['prediction'] for one in found[name]['records']]
    assert len(numbers) == 24 and all(1 <= one <= 5 for one in numbers)
    assert found[name]['scores']['unread'] == 0


def test_words_of_several_tokens_are_refused(made):
  answers = [made.task.level_answer(one) for one in LEVELS]
  longer = [answers[0] + 'bad', *answers[1:]]
  with pytest.raises(ValueError, match='not five single tokens'):
    levels.Frame.of(made.chat, longer)
  with pytest.raises(ValueError, match='not five single tokens'):
    levels.Frame.of(made.chat, [answers[0], *answers[:4]])
  long = [answer + 'bad' * 20 for answer in answers]
  with pytest.raises(ValueError, match='more than 16 tokens'):
    levels.Frame.of(made.chat, long)
