"""The losses equal Eq. 4 to 9 written as loops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.methods.mask import losses
from vlm.sharding.mesh import BATCH_AXES, make_mesh

PAIRS, CODE, VECTOR = 16, 6, 5
NUMBERS = (3, 1, 3, -1, 0, 7, 1, 3, 8, -1, 2, 5, 6, 4, 9, 1)
WORDS = jnp.asarray(NUMBERS)
LIVE = [p for p in range(PAIRS) if NUMBERS[p] >= 0]


def drawn(*shape, seed=0):
  rng = np.random.default_rng([seed, *shape])
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def cosine(a, b):
  a, b = np.asarray(a, float), np.asarray(b, float)
  length = math.sqrt((a @ a) * (b @ b))
  return (a @ b) / length if length else 0.0


class TestRetention:
  def test_it_equals_loops_and_padding_costs_nothing(self):
    regions, rebuilt = drawn(2, 3, 4), drawn(2, 3, 4, seed=1)
    mean, log_variance = drawn(2, 3, CODE), drawn(2, 3, CODE, seed=1)
    valid = jnp.asarray([[True, False, True], [False, False, False]])
    regions = regions.at[0, 1].set(jnp.nan)
    got = jax.jit(losses.retention)(regions, rebuilt, mean, log_variance, valid)
    for b in range(2):
      for i in range(3):
        error = divergence = 0.0
        if valid[b, i]:
          error = sum(float(x) ** 2 for x in regions[b, i] - rebuilt[b, i])
          for m, s in zip(mean[b, i], log_variance[b, i]):
            variance = math.exp(s)
            divergence += 0.5 * (float(m) ** 2 + variance - 1 - float(s))
        assert float(got.error[b, i]) == pytest.approx(error, rel=1e-5)
        assert float(got.divergence[b, i]) == pytest.approx(
          divergence, rel=1e-5
        )

  def test_a_standard_normal_code_diverges_by_nothing(self):
    zero, x = jnp.zeros((1, 2, CODE)), drawn(1, 2, 4)
    got = losses.retention(x, x, zero, zero, jnp.ones((1, 2), bool))
    assert not np.any(got.divergence) and not np.any(got.error)

  def test_padding_has_no_gradient_even_where_it_is_not_finite(self):
    x, valid = drawn(1, 2, 4).at[0, 1].set(jnp.inf), jnp.array([[True, False]])
    code = drawn(1, 2, CODE)
    cost = lambda y: losses.retention(x, y, code, code, valid).error.sum()
    slope = jax.grad(cost)(drawn(1, 2, 4, seed=1))
    assert np.isfinite(slope).all() and not np.any(slope[0, 1])

  def test_drawn_codes_have_the_mean_and_the_variance(self):
    mean = jnp.full((20000, 1), 3.0)
    log_variance = jnp.full((20000, 1), math.log(0.25))
    z = np.asarray(losses.draw(jax.random.key(0), mean, log_variance))
    assert z.mean() == pytest.approx(3, abs=0.02)
    assert z.std() == pytest.approx(0.5, abs=0.02)


class TestCrossModal:
  @pytest.mark.parametrize('block', [5, 1024])
  def test_it_equals_loops(self, block):
    words, predicted = drawn(PAIRS, VECTOR), drawn(PAIRS, VECTOR, seed=1)
    codes = drawn(PAIRS, CODE).at[4].set(0)  # a region without a code
    got = losses.cross_modal(words, predicted, codes, WORDS, block=block)
    for p in range(PAIRS):
      word = structure = 0.0
      if p in LIVE:
        word = 1 - cosine(words[p], predicted[p])
        gaps = [
          cosine(predicted[p], predicted[q]) - cosine(codes[p], codes[q])
          for q in LIVE
          if q != p
        ]
        structure = sum(gap * gap for gap in gaps) / len(gaps)
      assert float(got.word[p]) == pytest.approx(word, abs=1e-6)
      assert float(got.structure[p]) == pytest.approx(structure, abs=1e-6)

  def test_words_that_copy_the_codes_cost_no_structure(self):
    codes = drawn(PAIRS, CODE)
    got = losses.cross_modal(codes, 4 * codes, codes, WORDS)
    np.testing.assert_allclose(got.structure, 0, atol=1e-6)
    np.testing.assert_allclose(got.word, 0, atol=1e-6)

  def test_one_pair_alone_has_no_structure(self):
    got = losses.cross_modal(
      drawn(2, VECTOR), drawn(2, VECTOR), drawn(2, CODE), jnp.array([1, -1])
    )
    assert not np.any(got.structure)

  def test_both_the_map_and_the_encoder_learn_from_the_structure(self):
    words, predicted = drawn(PAIRS, VECTOR), drawn(PAIRS, VECTOR, seed=1)
    cost = lambda predicted, codes: losses.cross_modal(
      words, predicted, codes, WORDS, block=4
    ).structure.sum()
    slopes = jax.jit(jax.grad(cost, (0, 1)))(
      predicted, drawn(PAIRS, CODE).at[0].set(0)
    )
    for slope in slopes:
      assert np.isfinite(slope).all()
      assert np.abs(slope)[LIVE].max() > 1e-3
      assert not np.any(np.delete(slope, LIVE, axis=0))


def one_by_one(prototypes, codes, temperature, negatives):
  """Eq. 6 and its variants."""
  out = np.zeros(PAIRS)
  for k in LIVE:
    logits = {n: cosine(prototypes[k], codes[n]) / temperature for n in LIVE}
    own = [n for n in LIVE if NUMBERS[n] == NUMBERS[k]]
    among = LIVE
    if negatives == 'others':
      among = [n for n in LIVE if n == k or NUMBERS[n] != NUMBERS[k]]
    total = math.log(sum(math.exp(logits[n]) for n in among))
    right = [logits[n] for n in own]
    if negatives != 'multi_positive':
      right = [logits[k]]
    out[k] = total - sum(right) / len(right)
  return out


class TestConsistency:
  @pytest.mark.parametrize('negatives', losses.NEGATIVES)
  @pytest.mark.parametrize('block', [3, 1024])
  def test_it_equals_loops(self, negatives, block):
    prototypes, codes = drawn(PAIRS, CODE), drawn(PAIRS, CODE, seed=1)
    codes = codes.at[3].set(jnp.nan)  # padding
    got = losses.consistency(
      prototypes,
      jnp.nan_to_num(codes),
      WORDS,
      temperature=0.2,
      negatives=negatives,
      block=block,
    )
    want = one_by_one(prototypes, codes, 0.2, negatives)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)

  def test_a_cold_temperature_stays_finite(self):
    prototypes, codes = drawn(PAIRS, CODE), drawn(PAIRS, CODE, seed=1)
    cost = lambda x: losses.consistency(
      prototypes, x, WORDS, temperature=1e-3, block=4
    ).sum()
    value, slope = jax.jit(jax.value_and_grad(cost))(codes.at[0].set(0))
    assert np.isfinite(value) and np.isfinite(slope).all()

  def test_what_is_out_of_range_is_named(self):
    x = drawn(PAIRS, CODE)
    with pytest.raises(ValueError, match="negatives='all', expected one of"):
      losses.consistency(x, x, WORDS, negatives='all')
    with pytest.raises(ValueError, match='temperature=0.0, expected'):
      losses.consistency(x, x, WORDS, temperature=0.0)


def test_eight_devices_equal_one_with_gradients():
  mesh = make_mesh({'data': 2, 'fsdp': 4})
  prototypes, codes = drawn(PAIRS, CODE), drawn(PAIRS, CODE, seed=1)
  words = drawn(PAIRS, VECTOR)

  def cost(codes, words, prototypes, ids):
    near = losses.consistency(prototypes, codes, ids, block=5)
    made = losses.cross_modal(words, words[::-1], codes, ids, block=5)
    return (near + made.word + made.structure).sum()

  run = jax.jit(jax.value_and_grad(cost))
  given = codes, words, prototypes, WORDS
  rows = jax.NamedSharding(mesh, jax.P(BATCH_AXES))
  value, slope = run(*(jax.device_put(x, rows) for x in given))
  want, want_slope = run(*given)
  assert float(value) == pytest.approx(float(want), rel=1e-6)
  np.testing.assert_allclose(slope, want_slope, atol=1e-5)
