"""Attention split, image removal, swap and domain classifier on a tiny VLM."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.assistant import Assistant, user_turn
from tests import tiny_checkpoint
from vlm.methods.rali.analysis import attention, domains, removal, rows
from vlm.methods.rali.analysis.swap import swap
from vlm.models.functional import Runtime
from vlm.rollout.sampler import sample
from vlm.rollout.settings import Sampling

QUESTION = 'rate it'


@pytest.fixture(scope='module')
def assistant(tmp_path_factory):
  pytest.importorskip('torch')
  folder = tiny_checkpoint.write(tmp_path_factory.mktemp('qwen'))
  loaded = Assistant.load(folder, Runtime(attention='xla'))
  # Attention that looks somewhere: random weights are almost even.
  louder = jax.tree.map(lambda leaf: 4 * leaf, loaded.params['decoder'])
  loaded.params['decoder'] |= {'layers': louder['layers']}
  return loaded


def prompts_of(assistant, pictures):
  """A batch of prompts, one picture each."""
  return assistant.prompts(
    [
      {'images': [picture], 'messages': [user_turn(QUESTION, [picture])]}
      for picture in pictures
    ]
  )


def on_device(batch):
  return jax.tree.map(jnp.asarray, batch)


def ids_of(assistant, text):
  return assistant.chat.tokenizer.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope='module')
def thought(assistant):
  return ids_of(assistant, '<think>\nsharp\n</think>\n<answer>')


def answered(assistant, batch, masked=False, length=6):
  return removal.answers(
    assistant.model,
    assistant.params,
    batch,
    length=length,
    eos_ids=assistant.stop,
    masked=masked,
  )


class TestRows:
  def test_positions_go_on_behind_a_prompt_as_in_the_sampler(self, assistant):
    """Greedy answers behind a prompt are those of the sampler."""
    prompts = prompts_of(
      assistant,
      [tiny_checkpoint.picture(60, 40), tiny_checkpoint.picture(30, 90, 1)],
    )
    settings = Sampling(6, assistant.stop, temperature=0)
    want = sample(assistant.model, assistant.params, prompts, settings)
    got = answered(assistant, rows.continued(prompts, [[], []]))
    np.testing.assert_array_equal(got.tokens, want.tokens[:, 0])
    np.testing.assert_allclose(
      got.logprobs, want.model_logprobs[:, 0], atol=1e-4
    )
    # In two parts, the second from what the first has said.
    parts = want.tokens[:, 0, :3].tolist()
    rest = answered(assistant, rows.continued(prompts, parts), length=3)
    np.testing.assert_array_equal(rest.tokens, want.tokens[:, 0, 3:])

  def test_a_prompt_may_be_continued_several_times(self, assistant):
    prompts = prompts_of(
      assistant,
      [tiny_checkpoint.picture(60, 40), tiny_checkpoint.picture(30, 90, 1)],
    )
    batch = rows.continued(prompts, [[7, 8], [9], []], rows=[1, 0, 1])
    assert batch['tokens'][0, -2:].tolist() == [7, 8]
    np.testing.assert_array_equal(batch['pixels'][2], prompts['pixels'][1])
    assert all(len(x) == 3 for x in jax.tree.leaves(batch))
    # Each row ends with its last token, whatever its length.
    assert (batch['segment_ids'][:, -1] == 1).all()


class TestAttention:
  def test_parts_of_a_row(self, assistant, thought):
    prompts = prompts_of(assistant, [tiny_checkpoint.picture(60, 40)])
    batch = rows.continued(prompts, [[*thought, 30, 31]])
    parts = attention.parts_of(assistant.model, batch, [len(thought)], [2])[0]
    assert parts[-2:].tolist() == [3, 3]
    assert (parts[-2 - len(thought) : -2] == 2).all()
    placeholder = batch['tokens'][0] == assistant.model.config.image_token
    assert (parts[placeholder] == 0).all() and placeholder.sum() > 1
    counts = np.bincount(parts[parts >= 0], minlength=4)
    assert counts.sum() == batch['segment_ids'].sum()
    with pytest.raises(ValueError, match='more tokens than their row'):
      attention.parts_of(assistant.model, batch, [len(parts)], [2])

  def test_masses_are_those_of_the_weights_and_sum_to_one(
    self, assistant, thought
  ):
    prompts = prompts_of(
      assistant,
      [tiny_checkpoint.picture(60, 40), tiny_checkpoint.picture(90, 30, 1)],
    )
    batch = rows.continued(
      prompts, [[*thought, 30], thought, [*thought, 30, 31]], rows=[0, 0, 1]
    )
    model, params = assistant.model, assistant.params
    parts = attention.parts_of(model, batch, [len(thought)] * 3, [1, 0, 2])
    split = functools.partial(attention.attention_split, model)
    got = np.asarray(jax.jit(split)(params, batch, parts))
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-5)
    weights = model.attention_of(params, on_device(batch))
    weights = np.asarray(weights, np.float64)
    depth, count, heads, _ = weights.shape
    for layer in range(depth):
      for number in range(len(attention.PARTS)):
        want = sum(
          weights[layer, b, n, t]
          for b in range(count)
          for n in range(heads)
          for t in np.flatnonzero(parts[b] == number)
        )
        want /= count * heads
        np.testing.assert_allclose(got[layer, number], want, rtol=1e-4)
    assert np.abs(got[0] - got[1]).max() > 1e-3


class TestRemoval:
  def continued(self, assistant, thought, picture):
    return rows.continued(prompts_of(assistant, [picture]), [thought])

  def test_text_only_does_not_change_when_the_image_is_replaced(
    self, assistant, thought
  ):
    found, seen = [], []
    for height, width, seed in ((60, 40, 0), (60, 40, 1), (100, 90, 2)):
      picture = tiny_checkpoint.picture(height, width, seed)
      batch = self.continued(assistant, thought, picture)
      seen.append(answered(assistant, batch).logprobs)
      alone = rows.without_image(assistant.model, batch)
      assert 'pixels' not in alone and 'plan' not in alone
      found.append(answered(assistant, alone))
    for other in found[1:]:
      jax.tree.map(np.testing.assert_array_equal, found[0], other)
    assert np.abs(seen[0] - seen[1]).max() > 1e-4  # The image did count.

  def test_masked_keys_leave_what_hidden_states_carry(self, assistant, thought):
    masked = []
    for seed in (0, 1):
      picture = tiny_checkpoint.picture(60, 40, seed)
      batch = self.continued(assistant, thought, picture)
      masked.append(answered(assistant, batch, masked=True).logprobs)
      seen = answered(assistant, batch).logprobs
      assert np.abs(masked[-1] - seen).max() > 1e-4
    assert np.abs(masked[0] - masked[1]).max() > 1e-6

  def test_masking_is_that_of_a_mask(self, assistant, thought):
    """One layer of attention, where masked keys are the same as none."""
    model, params = assistant.model, assistant.params
    picture = tiny_checkpoint.picture(60, 40)
    batch = on_device(self.continued(assistant, thought, picture))
    first = removal.answers(
      model, params, batch, length=1, eos_ids=(2,), masked=True
    )
    inputs = model.inputs(params, batch)
    image = model.is_placeholder(batch['tokens'])
    # The last token in a cache whose image has another segment.
    _, cache = model.decode(
      params,
      *(x[:, :-1] for x in inputs[:3]),
      model.init_cache(1, image.shape[1]),
    )
    # Values of the image's keys must not matter either.
    noise = 1e3 * image[None, :, :, None, None]
    cache = cache | {
      'segment_ids': jnp.where(image, 7, cache['segment_ids']),
      'v': cache['v'] + noise,
    }
    hidden, _ = model.decode(params, *(x[:, -1:] for x in inputs[:3]), cache)
    want = jax.nn.log_softmax(model.logits(params, hidden)[0, 0])
    token = int(first.tokens[0, 0])
    assert token == int(want.at[jnp.asarray([5, 6])].set(-jnp.inf).argmax())
    np.testing.assert_allclose(first.logprobs[0, 0], want[token], atol=1e-4)

  def test_nothing_is_said_behind_an_end(self, assistant, thought):
    batch = self.continued(assistant, thought, tiny_checkpoint.picture(60, 40))
    said = answered(assistant, batch).tokens[0]
    stop = int(said[1])
    first = np.flatnonzero(np.asarray(said) == stop)[0]
    ended = removal.answers(
      assistant.model, assistant.params, batch, length=6, eos_ids=(stop,)
    )
    assert (ended.tokens[0, first:] == stop).all()
    assert (ended.logprobs[0, first + 1 :] == 0).all()


class TestSwap:
  def test_the_tower_is_of_one_and_the_decoder_of_the_other(self, assistant):
    x = assistant.params
    y = jax.tree.map(lambda leaf: leaf + 1, x)
    mixed = swap(x, y)
    jax.tree.map(np.testing.assert_array_equal, mixed['vision'], x['vision'])
    jax.tree.map(np.testing.assert_array_equal, mixed['decoder'], y['decoder'])
    jax.tree.map(np.testing.assert_array_equal, swap(x, x), x)

  def test_other_architectures_are_refused(self, assistant):
    x = assistant.params
    wider = x | {'decoder': jax.tree.map(lambda a: a[..., :1], x['decoder'])}
    with pytest.raises(ValueError, match='of other shapes'):
      swap(x, wider)
    with pytest.raises(ValueError, match=r"\['vision'\]"):
      swap({'vision': x['vision']}, {'vision': x['vision']})


class TestDomains:
  def test_matched_domains_have_the_same_quality(self):
    rng = np.random.default_rng(0)
    quality = np.r_[rng.uniform(1, 4, 200), rng.uniform(2, 5, 300)]
    names = ['a'] * 200 + ['b'] * 300
    chosen = domains.matched(quality, names, bins=8)
    inside = np.floor((quality - quality.min()) / np.ptp(quality) * 8)
    for number in range(8):
      here = inside[chosen] == number
      counts = [(here & (np.array(names)[chosen] == n)).sum() for n in 'ab']
      assert counts[0] == counts[1]
    assert 100 < len(chosen) < 300 and len(set(chosen)) == len(chosen)
    with pytest.raises(ValueError, match='no bin of quality'):
      domains.matched(np.array([0.0, 1.0]), ['a', 'b'])

  def test_accuracy_is_high_for_what_is_apart_and_chance_for_noise(self):
    rng = np.random.default_rng(1)
    names = np.repeat(['a', 'b', 'c'], 60)
    x = rng.normal(size=(180, 10))
    domain = names.tolist()
    noise = domains.linear_accuracy(x, domain)
    assert abs(noise.mean - noise.chance) < 0.12
    assert noise.chance == pytest.approx(1 / 3)
    x[:, 3] += 6.0 * (names == 'b')
    x[:, 4] -= 6.0 * (names == 'c')
    apart = domains.linear_accuracy(x, domain)
    assert apart.mean > 0.97 and len(apart.folds) == 5
    # Neither units nor more features than images break it.
    wide = np.c_[1e4 * x, np.zeros((180, 300))]
    assert domains.linear_accuracy(wide, domain).mean == apart.mean

  def test_too_few_images_are_named(self):
    with pytest.raises(ValueError, match=r"'b': 2.*at least 5 images"):
      domains.linear_accuracy(np.ones((9, 2)), ['a'] * 7 + ['b'] * 2)

  def test_embeddings_of_images_and_texts(self, assistant, thought):
    model, params = assistant.model, assistant.params
    batch = prompts_of(
      assistant,
      [tiny_checkpoint.picture(60, 40), tiny_checkpoint.picture(30, 90, 1)],
    )
    batch = on_device(batch)
    got = domains.visual_embeddings(model, params, batch)
    visual = model.encode_visual(params, batch['pixels'], batch['plan'])
    count = int(visual.valid[0].sum())
    want = visual.tokens[0, :count].mean(axis=0)
    np.testing.assert_allclose(got[0], want, atol=1e-5)
    none = {
      name: np.zeros((2, 0), np.int32) for name in ('tokens', 'segment_ids')
    }
    texts = on_device(rows.continued(none, [thought, thought[:4]]))
    got = domains.text_embeddings(model, params, texts)
    alone = on_device(rows.continued(none, [thought[:4]], rows=[1]))
    want = model.hidden(params, alone)[0].mean(axis=0)
    np.testing.assert_allclose(got[1], want, atol=1e-4)
