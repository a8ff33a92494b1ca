"""Samples against a loop without a cache, and against the trainer's forward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.losses.drift import drift
from vlm.losses.tokens import token_logprobs
from vlm.rollout import decoding, filters
from vlm.rollout.sampler import Decoding, prepare, sample
from vlm.rollout.settings import Buckets, Sampling
from vlm.sharding import mesh as mesh_lib
from vlm.sharding import rules
from vlm.sharding.batch import to_global

VOCAB, EOS, IMAGE = 64, 0, 59
SEEDS = (7, 7, 8, 9)


@pytest.fixture(scope='module', autouse=True)
def exact_matmuls():
  with jax.default_matmul_precision('highest'):
    yield


def sequences(prompts, out):
  """Prompts and samples as the trainer's rows [B * n, T], padded right."""
  rows, samples, length = out.tokens.shape
  count = prompts['segment_ids'].sum(axis=1)
  tokens = np.zeros((rows, samples, count.max() + length), np.int32)
  starts = np.zeros((rows, samples), np.int64)
  for row in range(rows):
    prompt = prompts['tokens'][row, -count[row] :]
    for j in range(samples):
      size = count[row] + out.lengths[row, j]
      said = out.tokens[row, j, : out.lengths[row, j]]
      tokens[row, j, :size] = np.concatenate([prompt, said])
      starts[row, j] = count[row]
  sizes = (starts + out.lengths).reshape(-1)
  tokens = tokens.reshape(rows * samples, -1)
  places = np.arange(tokens.shape[1])
  batch = {
    'tokens': tokens,
    'positions': np.tile(places, (len(tokens), 1)).astype(np.int32),
    'segment_ids': (places < sizes[:, None]).astype(np.int32),
  }
  again = lambda x: np.repeat(x, samples, axis=0)
  for key in ('pixels', 'plan'):
    if key in prompts:
      batch[key] = jax.tree.map(again, prompts[key])
  return batch, starts.reshape(-1)


def trainer_logprobs(model, params, prompts, out):
  """Log-probabilities of the samples as the trainer computes them."""
  batch, starts = sequences(prompts, out)

  @jax.jit
  def run(params, batch):
    targets = jnp.roll(batch['tokens'], -1, axis=1)
    hidden, head = model.hidden(params, batch), model.head_kernel(params)
    return token_logprobs(hidden, head, targets, chunk=8)

  found = np.asarray(run(params, batch))
  length = out.tokens.shape[2]
  rows = [
    np.pad(row, (0, length))[s - 1 : s - 1 + length]
    for row, s in zip(found, starts)
  ]
  return np.stack(rows).reshape(out.tokens.shape)


@pytest.mark.parametrize('unroll', [False, True])
@pytest.mark.parametrize('sees', [False, True])
def test_samples_are_those_of_a_loop_without_a_cache(
  build, text_prompts, image_prompts, sees, unroll
):
  """Each step recomputes everything: the oracle of prefix, cache and keys."""
  model, params = build(sees, unroll=unroll)
  prompts = image_prompts if sees else text_prompts
  rows, n, steps = len(prompts['tokens']), 3, 6
  settings = Sampling(steps, (EOS,), temperature=0.8, top_k=20)
  out = sample(model, params, prompts, settings, samples=n, seeds=SEEDS[:rows])
  keys = filters.row_keys(jnp.asarray(SEEDS[:rows]), n)
  # Room for the new tokens, behind the prompts.
  again = lambda x: np.repeat(x, n, axis=0)
  base = {k: jax.tree.map(again, v) for k, v in prompts.items()}
  start = base['tokens'].shape[1]
  grow = lambda x: np.pad(x, ((0, 0), (0, steps)))
  tokens, segments = grow(base['tokens']), grow(base['segment_ids'])

  @jax.jit
  def logits_at(params, base, tokens, segments, place):
    positions = jnp.maximum(jnp.cumsum(segments, axis=1) - 1, 0)
    batch = base | {
      'tokens': tokens, 'segment_ids': segments, 'positions': positions
    }  # fmt: skip
    hidden = model.hidden(params, batch)
    hidden = jax.lax.dynamic_slice_in_dim(hidden, place, 1, axis=1)
    return model.logits(params, hidden)[:, 0]

  done = np.zeros((rows, n), bool)
  for step in range(steps):
    logits = logits_at(params, base, tokens, segments, start + step - 1)
    logits = logits.reshape(rows, n, -1)
    allowed = ~np.isin(np.arange(VOCAB), (IMAGE, IMAGE + 1) if sees else ())
    scores = filters.scores(logits, settings, None, jnp.asarray(allowed))
    drawn = np.array(filters.draw(scores, keys, jnp.int32(step), 0.8))
    drawn[done] = EOS
    np.testing.assert_array_equal(out.tokens[..., step], drawn, f'step {step}')
    raw = np.asarray(filters.logprob(logits, jnp.asarray(drawn)))
    tempered = np.asarray(filters.logprob(scores, jnp.asarray(drawn)))
    for got, want in (
      (out.model_logprobs, raw),
      (out.sampler_logprobs, tempered),
    ):
      want = np.where(done, 0, want)
      np.testing.assert_allclose(got[..., step], want, atol=1e-4)
    done |= drawn == EOS
    tokens[:, start + step] = drawn.reshape(-1)
    segments[:, start + step] = 1
  assert len(np.unique(out.tokens)) > 10


@pytest.mark.parametrize('sees', [False, True])
def test_log_probabilities_are_the_trainers(
  build, text_prompts, image_prompts, sees
):
  model, params = build(sees)
  prompts = image_prompts if sees else text_prompts
  settings = Sampling(10, (EOS,), temperature=1.2, top_p=0.9)
  seeds = SEEDS[: len(prompts['tokens'])]
  out = sample(model, params, prompts, settings, samples=3, seeds=seeds)
  theirs = trainer_logprobs(model, params, prompts, out)
  found = drift(
    jnp.asarray(theirs), jnp.asarray(out.model_logprobs), jnp.asarray(out.mask)
  )
  worst = float(found['drift/max'][0])
  print(f'sampler and trainer differ by {worst:.1e} nats at most')
  assert worst < 1e-3
  assert float(found['drift/mean'][1]) == out.lengths.sum()
  # The other log-probability is of another distribution.
  assert np.abs(theirs - out.sampler_logprobs)[out.mask > 0].max() > 0.05


def test_the_prefix_is_held_once_however_many_samples(build, text_prompts):
  model, params = build()
  sizes = {}
  for n in (1, 16):
    settings = Sampling(8, (EOS,)).compiled()
    prefix, state = jax.eval_shape(
      lambda params, prompts, n=n, settings=settings: decoding.prefill(
        model, params, prompts, np.zeros(4, np.uint32), None,
        settings=settings, samples=n, length=8, unstacked=False,
      ),
      params,
      text_prompts,
    )  # fmt: skip
    assert prefix['prefix_k'].shape == (3, 4, 2, 9, 8)  # [L, B, K, P, H]
    assert state['cache']['own_k'].shape == (3, 4, n, 2, 8, 8)
    sizes[n] = sum(leaf.size for leaf in jax.tree.leaves(prefix))
  assert sizes[1] == sizes[16]


@pytest.mark.parametrize('unroll', [False, True])
def test_a_decode_step_copies_no_cache(build, text_prompts, unroll):
  """Temporaries stay below one layer's share times a few; state is reused."""
  model, params = build(unroll=unroll)
  prompts = Buckets(prompt=(2048,)).fit(text_prompts)
  settings = Sampling(512, (EOS,)).compiled()
  weights = prepare(model, params)
  prefix, state = decoding.prefill(
    model, params, prompts, np.zeros(4, np.uint32), None,
    settings=settings, samples=2, length=512, unstacked=unroll,
  )  # fmt: skip
  compiled = decoding.decode.lower(
    model, weights.decode, prefix, state, np.zeros((4, 2), bool), np.int32(9),
    None, settings=settings,
  ).compile()  # fmt: skip
  memory = compiled.memory_analysis()
  held = sum(leaf.nbytes for leaf in jax.tree.leaves(prefix))
  own = sum(leaf.nbytes for leaf in jax.tree.leaves(state['cache']))
  assert memory.temp_size_in_bytes < held
  assert memory.alias_size_in_bytes >= own


def test_a_sample_does_not_depend_on_its_company(build, text_prompts, take):
  model, params = build()
  settings = Sampling(12, (EOS,), temperature=1.0, top_p=0.95)
  run = lambda prompts, seeds, **more: sample(
    model, params, prompts, settings, seeds=seeds, **{'samples': 4} | more
  )
  together = run(text_prompts, SEEDS)
  for row in range(4):
    alone = run(take(text_prompts, [row]), SEEDS[row : row + 1])
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
  fewer = run(text_prompts, SEEDS, samples=2)
  np.testing.assert_array_equal(fewer.tokens, together.tokens[:, :2])
  wide = run(text_prompts, SEEDS, buckets=Buckets(prompt=(50,), new=(33,)))
  np.testing.assert_array_equal(wide.tokens, together.tokens)
  np.testing.assert_array_equal(run(text_prompts, SEEDS).tokens, wide.tokens)
  other = run(text_prompts, [s + 100 for s in SEEDS])
  assert (other.tokens != together.tokens).any(axis=2).mean() > 0.9
  group = {tuple(tokens) for tokens in together.tokens[0]}
  assert len(group) == 4, 'the samples of a group are copies'


@pytest.mark.parametrize(
  ('shape', 'unroll'),
  [
    (dict(fsdp=4, tensor=2), False),
    (dict(data=2, fsdp=2, tensor=2), True),
  ],
  ids=str,
)
def test_eight_devices_draw_what_one_does(build, text_prompts, shape, unroll):
  model, params = build(unroll=unroll)
  settings = Sampling(
    9, (EOS,), temperature=0.9, top_k=30, top_p=0.9, repetition_penalty=1.2
  )
  once = sample(model, params, text_prompts, settings, samples=2, seeds=SEEDS)
  mesh = mesh_lib.make_mesh(dict(data=1) | shape)
  placed = jax.device_put(params, rules.shardings(mesh, model.abstract_params))
  batch = to_global(text_prompts, mesh)
  with jax.set_mesh(mesh):
    prefix, state = decoding.prefill(
      model, placed, batch, np.asarray(SEEDS, np.uint32), None,
      settings=settings.compiled(), samples=2, length=16, unstacked=False,
    )  # fmt: skip
    spread = sample(model, placed, batch, settings, samples=2, seeds=SEEDS)
  np.testing.assert_array_equal(spread.tokens, once.tokens)
  np.testing.assert_allclose(
    spread.model_logprobs, once.model_logprobs, atol=1e-4
  )
  # Rows over data and fsdp, kv heads over tensor.
  for cache, heads in ((prefix['prefix_k'], 2), (state['cache']['own_k'], 3)):
    part = cache.sharding.shard_shape(cache.shape)
    assert part[1] == 1 and part[heads] == 1, cache.sharding


def test_one_compile_per_bucket(build, text_prompts, take):
  model, params = build(remat='dots')  # of its own, with an empty cache
  buckets = Buckets(prompt=(4, 16), new=(8, 32))
  prefills, decodes = decoding.prefill._cache_size, decoding.decode._cache_size
  before = prefills(), decodes()
  for rows in ([0], [1], [2], [3]):
    for count in (2, 5, 8, 9, 31):
      for stop in ((), ('never',)):
        sample(
          model,
          params,
          take(text_prompts, rows),
          Sampling(count, (EOS,), stop=stop),
          seeds=[count],
          detokenize=str,
          buckets=buckets,
        )
  assert prefills() - before[0] == 4
  assert decodes() - before[1] == 4


def test_why_samples_end(build, text_prompts):
  model, params = build()
  free = sample(model, params, text_prompts, Sampling(12, (60,), temperature=0))
  end = int(free.tokens[0, 0, 3])
  first = free.tokens[0, 0].tolist().index(end)
  out = sample(
    model, params, text_prompts, Sampling(12, (end, 60), temperature=0)
  )
  assert out.reasons[0] == ['eos'] and out.lengths[0, 0] == first + 1
  np.testing.assert_array_equal(
    out.tokens[0, 0, : first + 1], free.tokens[0, 0, : first + 1]
  )
  assert (out.tokens[0, 0, first + 1 :] == end).all()
  assert (out.model_logprobs[0, 0, first + 1 :] == 0).all()
  assert (out.sampler_logprobs == 0).all()
  for row in range(4):
    if end not in free.tokens[row, 0] and 60 not in free.tokens[row, 0]:
      assert out.reasons[row] == ['length'] and out.lengths[row, 0] == 12


def test_greedy_is_the_same_for_all_samples_of_a_prompt(build, text_prompts):
  model, params = build()
  out = sample(
    model, params, text_prompts, Sampling(8, (EOS,), temperature=0), samples=3
  )
  for j in (1, 2):
    np.testing.assert_array_equal(out.tokens[:, j], out.tokens[:, 0])


def test_logits_that_are_not_numbers_are_named(build, text_prompts):
  model, params = build()
  table = params['decoder']['embed']['embedding']
  word = int(text_prompts['tokens'][1, -1])
  assert (text_prompts['tokens'] == word).sum() == 1
  broken = params | {
    'decoder': params['decoder']
    | {'embed': {'embedding': table.at[word].set(jnp.nan)}}
  }
  with pytest.raises(FloatingPointError, match='prompt 1, sample 0, new token'):
    sample(
      model, broken, text_prompts, Sampling(4, (EOS,), temperature=0), samples=2
    )


def test_what_is_missing_is_named(build, text_prompts):
  model, params = build()
  run = lambda settings, **more: sample(
    model, params, text_prompts, settings, **more
  )
  with pytest.raises(ValueError, match='pass one seed per prompt'):
    run(Sampling(4, (EOS,)))
  with pytest.raises(ValueError, match='3 seeds for 4 prompts'):
    run(Sampling(4, (EOS,)), seeds=[1, 2, 3])
  with pytest.raises(ValueError, match='pass detokenize'):
    run(Sampling(4, (EOS,), stop=('x',)), seeds=SEEDS)
  with pytest.raises(ValueError, match=r'Buckets.prompt.: 9 does not fit'):
    run(Sampling(4, (EOS,)), seeds=SEEDS, buckets=Buckets(prompt=(8,)))


def test_branches_carry_on_in_chunks(build, text_prompts):
  """Two calls with limits give what one gives."""
  model, params = build()
  settings = Sampling(11, (EOS,), temperature=0.7)
  whole = sample(model, params, text_prompts, settings, samples=2, seeds=SEEDS)
  run = Decoding(model, params, text_prompts, settings, 2, SEEDS)
  while not run.finished:
    run.advance(3)
  out = run.result(None, None)
  np.testing.assert_array_equal(out.tokens, whole.tokens)
  np.testing.assert_array_equal(out.model_logprobs, whole.model_logprobs)
