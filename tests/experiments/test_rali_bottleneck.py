"""Answers that never see the image: in training, in sampling, by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.sources.photo_rows import PhotoRows
from experiments.rali import q_insight
from experiments.rali.miniature import vocabulary
from launch import job
from vlm.methods.rali.bottleneck import bottleneck
from vlm.models.attention import BLIND, VISUAL, sees
from vlm.rollout.sampler import sample
from vlm.rollout.settings import Sampling
from vlm.train.rl import completion_scores

CAPTIONED = 4


def config_of(arm, depth=2):
  config = q_insight.get_config(f'smoke,arm={arm}')
  config.model.decoder.depth = depth
  return config


@pytest.fixture(scope='module')
def made():
  return job.prepare(config_of('base_bottleneck'))


@pytest.fixture(scope='module')
def params(made):
  drawn = jax.jit(made.model.init)(jax.random.key(0))
  # Attention that looks somewhere: random weights are almost even.
  layers = jax.tree.map(lambda leaf: 4 * leaf, drawn['decoder']['layers'])
  return drawn | {'decoder': drawn['decoder'] | {'layers': layers}}


def test_who_sees_whom():
  plain, other, image, blind = 1, 2, 1 | VISUAL, 1 | BLIND
  ids = jnp.array([0, -1, plain, other, image, blind, other | VISUAL])
  got = np.asarray(sees(ids[:, None], ids[None, :]))
  for i, q in enumerate(ids.tolist()):
    for j, k in enumerate(ids.tolist()):
      same = q == k or {q, k} <= {plain, image, blind}
      same |= {q, k} <= {other, other | VISUAL}
      assert got[i, j] == (same and not (q == blind and k == image)), (q, k)


def test_with_one_layer_an_answer_knows_nothing_of_the_image():
  """Its keys and values are those of words alone; thoughts do see."""
  blind = job.prepare(config_of('base_bottleneck', depth=1))
  usual = job.prepare(config_of('base', depth=1))
  params = jax.jit(blind.model.init)(jax.random.key(0))
  batch = next(iter(job.training_batches(blind)))
  batch = {k: v for k, v in batch.items() if not k.startswith('_')}
  other = batch | {'pixels': 255 - batch['pixels']}
  opens = [blind.chat.tokenizer.token_to_id(t) for t in vocabulary.OPENINGS]
  real = batch['segment_ids'] != 0
  answers = (np.cumsum(np.isin(batch['tokens'], opens), axis=1) > 0) & real
  thoughts = real & ~answers & (batch['loss_mask'] > 0)
  assert answers.any() and thoughts.any()
  for model, silent in ((blind.model, True), (usual.model, False)):
    run = jax.jit(model.hidden)
    moved = np.abs(run(params, batch) - run(params, other)).max(axis=-1)
    assert moved[thoughts].max() > 1e-3
    assert (moved[answers].max() == 0) == silent


def test_sampler_and_trainer_hide_the_same_keys(made, params):
  """Log-probabilities of samples are the trainer's, behind a tag too."""
  photos = PhotoRows(0, 'A', 0, CAPTIONED, 20)
  prompts = made.encoder.prompts(
    [made.task.prompt(photos[n], None) for n in range(CAPTIONED)],
    made.prompt_spec,
  )
  out = sample(
    made.model,
    params,
    prompts,
    Sampling(24, job.stop_ids(made)),
    samples=8,
    seeds=range(CAPTIONED),
  )
  batch = jax.tree.map(jnp.asarray, prompts) | {
    'completions': jnp.asarray(out.tokens),
    'lengths': jnp.asarray(out.lengths),
  }
  logprobs = lambda model: np.asarray(
    jax.jit(functools.partial(completion_scores, model, chunk=64))(
      params, batch
    ).logprob
  ).reshape(out.tokens.shape)
  said = np.arange(24) < out.lengths[..., None]
  opens = np.isin(out.tokens, made.model.tags) & said
  behind = said & (np.cumsum(opens, axis=-1) - opens > 0)
  assert behind.sum() > 20
  gap = np.abs(logprobs(made.model) - out.model_logprobs)
  assert gap[said].max() < 1e-3
  usual = job.prepare(config_of('base')).model
  assert np.abs(logprobs(usual) - out.model_logprobs)[behind].max() > 1e-2


def test_packed_samples_answer_each_for_itself(made):
  model = made.model
  tag, word = model.tags[0], made.chat.tokenizer.token_to_id('blur')
  tokens = jnp.array([[word, tag, word, word, word, tag, 0]])
  ids = jnp.array([[1, 1, 1, 2, 2, 2, 0]])
  blind = model._answers(tokens, ids) & (ids != 0)
  assert blind.tolist() == [[False, True, True, False, False, True, False]]


def test_the_kernel_is_refused(made):
  splash = config_of('base')
  splash.runtime.attention = 'splash'
  with pytest.raises(ValueError, match="bottleneck needs 'xla'"):
    bottleneck(job.prepare(splash).model, (1,))
  splash.iqa.bottleneck = True
  with pytest.raises(ValueError, match="attention='splash'"):
    job.prepare(splash)
