"""Losses over pairs equal loops, whatever the tiles and the mesh."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vlm.losses.contrastive import clamped_scale, info_nce, sigmoid
from vlm.sharding.mesh import BATCH_AXES, make_mesh

ROWS, WIDTH = 24, 12
# Rows 1 to 3 and 20 are of one thing, 5 and 17 of another; 9 and 23 are
# padding.
IDS = np.arange(1, ROWS + 1, dtype=np.int32)
IDS[[1, 2, 3, 20]] = 2
IDS[[5, 17]] = 6
IDS[[9, 23]] = 0
SCALE, BIAS = 20.0, -3.0


def towers(seed=0, rows=ROWS):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(2, rows, WIDTH))
  # Near pairs, so that some are found and some are not.
  x[1] = 0.4 * x[0] + x[1]
  unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
  return jnp.asarray(unit, jnp.float32)


def by_loops(kind, images, texts, ids):
  """(image_loss, text_loss, image_right, text_right) in float64."""
  bias = BIAS if kind == 'sigmoid' else 0.0
  logits = SCALE * np.asarray(images, float) @ np.asarray(texts, float).T + bias
  rows = [a for a in range(len(ids)) if ids[a]]
  out = np.zeros((4, len(ids)))
  for a in rows:
    for way, towards in enumerate((logits[a], logits[:, a])):
      own = [towards[b] for b in rows if ids[b] == ids[a]]
      other = [towards[b] for b in rows if ids[b] != ids[a]]
      if kind == 'softmax':
        total = sum(math.exp(x) for x in own + other)
        out[way, a] = math.log(total) - sum(own) / len(own)
      else:
        out[way, a] = sum(math.log1p(math.exp(-x)) for x in own)
        out[way, a] += sum(math.log1p(math.exp(x)) for x in other)
      out[2 + way, a] = max(own) > max(other)
  return out


def naive(kind, images, texts, scale, bias, ids):
  """Mean loss from all logits at once."""
  logits = scale * images @ texts.T + bias
  present = (ids > 0)[:, None] & (ids > 0)
  positive = present & (ids[:, None] == ids)
  if kind == 'softmax':
    logits = jnp.where(present, logits, -1e30)
    share = positive / jnp.maximum(positive.sum(1, keepdims=True), 1)
    wanted = sum(share * jax.nn.log_softmax(logits, axis) for axis in (0, 1))
    total = -jnp.sum(jnp.where(present, wanted, 0)) / 2
  else:
    sign = jnp.where(positive, 1, -1)
    total = -jnp.sum(jnp.where(present, jax.nn.log_sigmoid(sign * logits), 0))
  return total / jnp.sum(ids > 0)


def ours(kind, images, texts, scale, bias, ids, **options):
  ids = jnp.asarray(ids)
  if kind == 'softmax':
    scores = info_nce(images, texts, scale, ids, **options)
  else:
    scores = sigmoid(images, texts, scale, bias, ids, **options)
  losses = scores.image_loss + scores.text_loss
  return jnp.sum(losses) / (2 * jnp.sum(ids > 0)), scores


def on_mesh(mesh, function, arguments):
  """Runs with rows over the mesh, as the training step does."""
  spread = NamedSharding(mesh, P(BATCH_AXES))
  images, texts, scale, bias, ids = arguments
  placed = jax.device_put((images, texts, ids), spread)
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    return jax.jit(function)(placed[0], placed[1], scale, bias, placed[2])


@pytest.mark.parametrize('kind', ['softmax', 'sigmoid'])
def test_one_device_equals_loops(kind):
  images, texts = towers()
  want = by_loops(kind, images, texts, IDS)
  scale, bias = jnp.float32(SCALE), jnp.float32(BIAS)
  _, scores = ours(kind, images, texts, scale, bias, IDS, block=7)
  np.testing.assert_allclose(scores.image_loss, want[0], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(scores.text_loss, want[1], rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(scores.image_right, want[2].astype(bool))
  np.testing.assert_array_equal(scores.text_right, want[3].astype(bool))
  assert 0 < want[2].sum() < len(IDS) - 2  # some are found, some are not


@pytest.mark.parametrize(
  ('kind', 'shape'), [('softmax', (8, 1, 1)), ('sigmoid', (2, 2, 2))]
)
def test_eight_devices_equal_the_naive_form(devices, kind, shape):
  mesh = make_mesh(dict(zip(('data', 'fsdp', 'tensor'), shape)))
  images, texts = towers(1)
  arguments = images, texts, jnp.float32(SCALE), jnp.float32(BIAS), IDS
  gradients = lambda f: jax.value_and_grad(f, argnums=(0, 1, 2, 3))
  loss = lambda *args: ours(kind, *args, block=2, axes=BATCH_AXES)[0]
  got = on_mesh(mesh, gradients(loss), arguments)
  want = gradients(lambda *args: naive(kind, *args))(*arguments)
  for ring, whole in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    np.testing.assert_allclose(ring, whole, rtol=1e-5, atol=1e-5)
  moved = np.linalg.norm(want[1][0])
  error = np.linalg.norm(np.asarray(got[1][0]) - want[1][0]) / moved
  assert moved > 0.1 and error < 1e-5


def test_no_device_holds_all_logits(devices):
  rows, block = 256, 16
  mesh = make_mesh({'data': 8, 'fsdp': 1, 'tensor': 1})
  spread = NamedSharding(mesh, P(BATCH_AXES))
  tower = jax.ShapeDtypeStruct((rows, WIDTH), jnp.float32, sharding=spread)
  ids = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=spread)
  scalar = jax.ShapeDtypeStruct((), jnp.float32)
  loss = lambda *args: ours('softmax', *args, block=block, axes=BATCH_AXES)[0]
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    compiled = step.lower(tower, tower, scalar, scalar, ids).compile()
  text = compiled.as_text()
  assert f'f32[{block},{block}]' in text and 'collective-permute' in text
  for wide in (rows, rows // 8):
    for tall in (rows, rows // 8):
      assert f'f32[{tall},{wide}]' not in text
  assert f'f32[{rows},{WIDTH}]' not in text  # nor all embeddings


def test_equal_rows_tie_and_are_not_right():
  images, texts = towers(2, 4)
  texts = texts.at[1].set(texts[0])
  scale = jnp.float32(SCALE)
  ids = jnp.arange(1, 5, dtype=jnp.int32)
  alone = info_nce(images, texts, scale, ids)
  assert not alone.image_right[0] and not alone.image_right[1]
  shared = info_nce(images, texts, scale, ids.at[1].set(1))
  # Half the target each, of two equal logits: ln 2 above one of them alone.
  rest = jnp.array([0, 2, 3])
  one = info_nce(images[rest], texts[rest], scale, ids[:3])
  gap = float(shared.image_loss[0] - one.image_loss[0])
  assert 0 < gap <= math.log(2) + 1e-5
  # Equal texts have equal logits: the loss of the batch does not change.
  total = lambda scores: float(jnp.sum(scores.image_loss + scores.text_loss))
  assert total(shared) == pytest.approx(total(alone), rel=1e-6)
  assert shared.image_right[0] >= alone.image_right[0]


def test_a_batch_of_one_and_of_padding():
  images, texts = towers(3, 1)
  scale = jnp.float32(SCALE)
  one = info_nce(images, texts, scale, jnp.ones(1, jnp.int32))
  np.testing.assert_allclose(one.image_loss, 0, atol=1e-6)
  loss = lambda x: info_nce(x, texts, scale, jnp.zeros(1, jnp.int32)).image_loss
  np.testing.assert_array_equal(loss(images), 0)
  np.testing.assert_array_equal(jax.jacrev(loss)(images), 0)


def test_the_scale_stops_at_its_limit_and_comes_back():
  up, down = (
    jax.grad(lambda t, s=s: s * clamped_scale(t)) for s in (-1.0, 1.0)
  )
  inside, outside = jnp.float32(math.log(50)), jnp.float32(math.log(101))
  np.testing.assert_allclose(clamped_scale(inside), 50, rtol=1e-6)
  np.testing.assert_allclose(up(inside), -50, rtol=1e-6)
  np.testing.assert_allclose(clamped_scale(outside), 100)
  assert float(up(outside)) == 0 and float(down(outside)) == 100


def test_a_block_of_nothing_is_refused():
  images, texts = towers(4, 2)
  with pytest.raises(ValueError, match='block of 0 rows'):
    ids = jnp.ones(2, jnp.int32)
    info_nce(images, texts, jnp.float32(1), ids, block=0)
