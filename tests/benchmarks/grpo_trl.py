"""Steps of GRPO (rollout, reward, update) against TRL's GRPOTrainer.

    pip install --target=/tmp/trl --no-deps trl accelerate datasets ...
    JAX_PLATFORMS=cpu PYTHONPATH=.:/tmp/trl python tests/benchmarks/grpo_trl.py

Both sides, in float32 on the same cores: the same random Qwen2-shaped weights,
4 prompts of 32 tokens, 8 completions each of up to 48 tokens drawn from the
whole distribution at temperature 1, one reward in Python, one AdamW step of all
completions at once, no reference. Trained and drawn tokens per second of whole
steps, the first of each side left out; sides take turns.
"""

import logging
import os
import statistics
import time

import jax
import numpy as np
import side_by_side
import tokenizers
import torch
import transformers
from absl import app, flags

from vlm.losses.policy import PolicySettings
from vlm.models.functional import Runtime
from vlm.rollout.groups import Roller
from vlm.rollout.on_policy import OnPolicy
from vlm.rollout.rewards import Reward, Scorer
from vlm.rollout.sampler import prepare
from vlm.rollout.settings import Sampling
from vlm.sharding.batch import to_global
from vlm.sharding.mesh import make_mesh
from vlm.train.optimizer import make_optimizer
from vlm.train.rl import grpo
from vlm.train.state import state_from_params, state_shardings
from vlm.train.step import make_step

ROUNDS = flags.DEFINE_integer('rounds', 2, 'Turns of each side.')
STEPS = flags.DEFINE_integer('steps', 4, 'Steps of a turn that count.')
PROMPTS, GROUP, PROMPT, NEW, VOCAB = 4, 8, 32, 48, 4096
EOS, PAD = 0, 1
SHAPE = dict(
  vocab_size=VOCAB,
  hidden_size=256,
  num_hidden_layers=4,
  num_attention_heads=8,
  num_key_value_heads=2,
  intermediate_size=1024,
  tie_word_embeddings=True,
  bos_token_id=None,
  eos_token_id=EOS,
  pad_token_id=PAD,
)


def reward(text: str, record=None) -> float:
  """The share of words with an even number."""
  words = text.split()
  return sum(word[-1] in '02468' for word in words) / max(len(words), 1)


def word_tokenizer() -> tokenizers.Tokenizer:
  """Token i is the word 'wi'; 0 ends, 1 pads."""
  words = {'<end>': EOS, '<pad>': PAD} | {f'w{i}': i for i in range(2, VOCAB)}
  made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, 'w2'))
  made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  made.add_special_tokens(['<end>', '<pad>'])
  return made


class Prompts:
  """The same prompts in every batch."""

  def __init__(self, tokens):
    self._batch = {
      'tokens': tokens.astype(np.int32),
      'segment_ids': np.ones(tokens.shape, np.int32),
      'positions': np.tile(np.arange(PROMPT, dtype=np.int32), (PROMPTS, 1)),
      '_record': [{}] * PROMPTS,
      '_prompt': [''] * PROMPTS,
    }

  def __next__(self):
    return dict(self._batch)

  def get_state(self):
    return {}

  def close(self):
    pass


class Ours:
  """Our loop's parts, a step at a time."""

  def __init__(self, torch_model, tokens, decode):
    model, params = side_by_side.ours(torch_model, Runtime(unroll=True))
    self._mesh = make_mesh({'fsdp': 1})
    optimizer = make_optimizer(
      {'lr': 1e-5, 'schedule': 'constant'}, model.abstract_params, 1000
    )
    self._state = state_from_params(params, optimizer, self._mesh)
    self._step = make_step(
      grpo(model, PolicySettings()),
      optimizer,
      mesh=self._mesh,
      state_shardings=state_shardings(self._state),
    )
    roller = Roller(
      model, Sampling(NEW, (EOS,)), Scorer([Reward('even', reward)]),
      self._mesh, PROMPT, GROUP, decode,
    )  # fmt: skip
    self._batches = OnPolicy(
      Prompts(tokens),
      roller,
      publish=lambda state: prepare(model, state['params']),
      logprobs=lambda state, batch: {},
    )

  def run(self, steps: int) -> list[tuple[float, float, int]]:
    """(wall clock, CPU seconds, completion tokens) of each step."""
    found = []
    for _ in range(steps):
      began = time.perf_counter(), time.process_time()
      batch = self._batches.next_with(self._state)
      self._state, metrics = self._step(
        self._state, to_global(batch, self._mesh)
      )
      jax.block_until_ready(metrics)
      count = int(batch['lengths'].sum())
      found.append((*_since(began), count))
    return found


class Theirs(transformers.TrainerCallback):
  """TRL's trainer, whose steps a callback measures."""

  def __init__(self, torch_model, tokens, tokenizer):
    self._model, self._found = torch_model, []
    text = lambda row: ' '.join(f'w{i}' for i in row)
    self._rows = [text(row) for row in tokens]
    self._tokenizer = transformers.PreTrainedTokenizerFast(
      tokenizer_object=tokenizer, eos_token='<end>', pad_token='<pad>'
    )

  def run(self, steps: int) -> list[tuple[float, float, int]]:
    """See `Ours.run`."""
    import datasets
    import pyarrow
    import trl

    self._found, self._counts = [], []

    def score(completions, completion_ids, **unused):
      self._counts.append(sum(map(len, completion_ids)))
      return [reward(text) for text in completions]

    settings = trl.GRPOConfig(
      output_dir='/tmp/grpo-trl', max_steps=steps, use_cpu=True, bf16=False,
      per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP,
      steps_per_generation=1, max_completion_length=NEW, temperature=1.0,
      top_k=0, top_p=1.0, beta=0.0, num_iterations=1, loss_type='grpo',
      learning_rate=1e-5, lr_scheduler_type='constant', report_to=[],
      save_strategy='no', logging_strategy='no', disable_tqdm=True,
      gradient_checkpointing=False, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
      self._model.train(),
      reward_funcs=score,
      args=settings,
      # With a fingerprint of its own, a table need not be pickled for one.
      train_dataset=datasets.Dataset(
        pyarrow.table({'prompt': self._rows}), fingerprint='prompts'
      ),
      processing_class=self._tokenizer,
      callbacks=[self],
    )
    trainer.train()
    return [
      (*spent, count)
      for spent, count in zip(self._found, self._counts, strict=True)
    ]

  def on_step_begin(self, args, state, control, **unused):
    """The clock starts before completions are drawn."""
    self._began = time.perf_counter(), time.process_time()

  def on_step_end(self, args, state, control, **unused):
    self._found.append(_since(self._began))


def _since(began: tuple[float, float]) -> tuple[float, float]:
  return time.perf_counter() - began[0], time.process_time() - began[1]


def main(argv):
  del argv
  tokenizer = word_tokenizer()
  config = transformers.Qwen2Config(**SHAPE)
  model = side_by_side.published(transformers.Qwen2ForCausalLM, config)
  tokens = np.random.default_rng(0).integers(2, VOCAB, (PROMPTS, PROMPT))
  sides = {
    'ours': Ours(model, tokens, tokenizer.decode),
    'trl': Theirs(model, tokens, tokenizer),
  }
  rates = {'wall': {}, 'cpu': {}}
  for _ in range(ROUNDS.value):
    for name, side in sides.items():
      time.sleep(side_by_side.PAUSE)
      # The first step of ours compiles; the first of either warms up.
      for wall, cpu, count in side.run(STEPS.value + 1)[1:]:
        rates['wall'].setdefault(name, []).append(count / wall)
        rates['cpu'].setdefault(name, []).append(count / cpu)
  print(f'{os.cpu_count()} cores, {torch.get_num_threads()} torch threads')
  for clock, found in rates.items():
    ours, trl = (statistics.median(found[name]) for name in ('ours', 'trl'))
    print(
      f'{clock}: completion tokens per second of rollout and update: ours '
      f'{ours:.0f}, TRL {trl:.0f}, ratio {ours / trl:.2f}'
    )


if __name__ == '__main__':
  logging.disable(logging.INFO)
  app.run(main)
