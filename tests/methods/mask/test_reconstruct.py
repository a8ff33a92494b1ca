"""Prototypes from neighbours equal loops; ties, zero vectors, few words."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.methods.mask import reconstruct as module
from vlm.methods.mask.reconstruct import Reconstruction, reconstruct

KNOWN, ASKED, VECTOR, CODE = 11, 6, 5, 4


def problem(seed=0):
  """(vectors, known, prototypes) with equal words and words of zeros."""
  rng = np.random.default_rng(seed)
  known = rng.normal(size=(KNOWN, VECTOR)).astype(np.float32)
  known[7] = known[2]  # equal vectors, other prototypes
  known[5] = 0
  vectors = rng.normal(size=(ASKED, VECTOR)).astype(np.float32)
  vectors[1] = 2 * known[2]
  vectors[4] = 0
  prototypes = rng.normal(size=(KNOWN, CODE)).astype(np.float32)
  return tuple(map(jnp.asarray, (vectors, known, prototypes)))


def by_loops(vectors, known, prototypes, settings):
  """Eq. 11 to 13: (prototypes, names of the neighbours)."""
  vectors, known, prototypes = (
    np.asarray(x, float) for x in (vectors, known, prototypes)
  )
  out, named = np.zeros((len(vectors), CODE)), []
  for row, w in enumerate(vectors):
    length = lambda x: math.sqrt(x @ x)
    cosine = {
      k: round((w @ q) / (length(w) * length(q)), 6)
      for k, q in enumerate(known)
      if w.any() and q.any()
    }
    best = sorted(cosine, key=lambda k: (-cosine[k], k))
    best = best[: settings.neighbours]
    named.append(best)
    logits = [
      (w @ known[k] if settings.mode == 'raw' else cosine[k])
      / settings.temperature
      for k in best
    ]
    odds = [math.exp(x) for x in logits]
    for k, odd in zip(best, odds):
      out[row] += odd / sum(odds) * prototypes[k]
  return out, named


@pytest.mark.parametrize('mode', module.MODES)
@pytest.mark.parametrize('neighbours', [3, 50])
def test_it_equals_loops(mode, neighbours):
  settings = Reconstruction(neighbours, mode, 0.5)
  vectors, known, prototypes = problem()
  want, named = by_loops(vectors, known, prototypes, settings)
  given = dataclasses.asdict(settings)
  got = jax.jit(lambda *x: reconstruct(*x, **given))(vectors, known, prototypes)
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
  assert not np.any(got[4])  # of a zero vector nothing is known
  near = module.neighbours_of(vectors, known, **given, block=4)
  for row, names in enumerate(named):
    live = np.asarray(near.cosine[row]) > -np.inf
    assert np.asarray(near.index[row])[live].tolist() == names
    assert not np.any(np.asarray(near.weight[row])[~live])
  total = np.asarray(near.weight.sum(1))
  np.testing.assert_allclose(total, [1, 1, 1, 1, 0, 1], rtol=1e-5)


def test_equal_words_go_by_their_number():
  vectors, known, prototypes = problem()
  near = module.neighbours_of(vectors, known, neighbours=2)
  assert near.index[1].tolist() == [2, 7]
  one = reconstruct(vectors, known, prototypes, neighbours=1)
  np.testing.assert_allclose(one[1], prototypes[2], rtol=1e-6)


def test_presets():
  assert module.PRESETS['paper'] == Reconstruction(10, 'raw', 1.0)
  assert module.PRESETS['recommended'] == Reconstruction(10, 'cos', 0.1)


def test_effective_neighbours_count_what_weighs():
  weight = jnp.asarray([[0.5, 0.5, 0, 0], [1, 0, 0, 0], [0.25] * 4])
  got = module.effective_neighbours(weight)
  np.testing.assert_allclose(got, [2, 1, 4], rtol=1e-6)


def test_what_is_out_of_range_is_named():
  vectors, known, prototypes = problem()
  with pytest.raises(ValueError, match=r'reconstruct.neighbours=0, expected'):
    reconstruct(vectors, known, prototypes, neighbours=0)
  with pytest.raises(ValueError, match=r"reconstruct.mode='dot', expected"):
    reconstruct(vectors, known, prototypes, mode='dot')
  with pytest.raises(ValueError, match=r'temperature=0.0, expected'):
    reconstruct(vectors, known, prototypes, temperature=0.0)
  with pytest.raises(
    ValueError, match='word vectors of 4 numbers and 11 known'
  ):
    reconstruct(vectors[:, :4], known, prototypes)
  with pytest.raises(ValueError, match='11 known words and 10 prototypes'):
    reconstruct(vectors, known, prototypes[:10])


class TestProcrustes:
  def test_it_inverts_a_similarity(self):
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    prototypes = rng.normal(size=(20, 6))
    shift = rng.normal(size=6)
    vectors = 2.5 * prototypes @ rotation.T + shift
    found = module.procrustes(vectors[:15], prototypes[:15])
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-12)
    assert found.scale == pytest.approx(2.5)
    np.testing.assert_allclose(found.shift, shift, atol=1e-12)
    got = found.invert(vectors[15:])
    np.testing.assert_allclose(got, prototypes[15:], atol=1e-12)

  def test_no_other_map_of_the_kind_is_nearer(self):
    rng = np.random.default_rng(1)
    vectors, prototypes = rng.normal(size=(30, 3)), rng.normal(size=(30, 5))
    found = module.procrustes(vectors, prototypes)
    cost = lambda a, scale, shift: np.square(
      vectors - scale * prototypes @ a.T - shift
    ).sum()
    least = cost(*found)
    turn = np.linalg.qr(np.eye(3) + 0.05 * rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.diag(turn))
    # The rotation maximises the trace; the scale is the best for the rotation
    # in the direction that an inverse needs, so only it is compared.
    centred = vectors - vectors.mean(0), prototypes - prototypes.mean(0)
    trace = lambda a: np.trace(a.T @ centred[0].T @ centred[1])
    assert trace(found.rotation) > trace(turn @ found.rotation)
    assert least < np.square(vectors - vectors.mean(0)).sum()

  def test_equal_words_have_no_map(self):
    with pytest.raises(ValueError, match='equal vectors or equal prototypes'):
      module.procrustes(np.ones((4, 3)), np.ones((4, 2)))
