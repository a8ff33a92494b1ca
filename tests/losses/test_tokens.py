"""Chunked token losses equal the naive ones and never hold the logits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vlm.losses.tokens import (
  cross_entropy,
  next_tokens,
  token_logprobs,
  token_scores,
)
from vlm.sharding.mesh import make_mesh

B, T, D, V, CHUNK = 3, 11, 6, 17, 4  # T is not a multiple of CHUNK


@pytest.fixture(scope='module')
def inputs():
  rng = np.random.default_rng(0)
  return {
    'hidden': rng.normal(size=(B, T, D)).astype(np.float32),
    'kernel': rng.normal(size=(D, V)).astype(np.float32),
    'tokens': rng.integers(0, V, (B, T)).astype(np.int32),
  }


def oracle(hidden, kernel, targets, temperature=1.0):
  """Log-probability, entropy and correctness, one token at a time."""
  logprob, entropy = np.zeros((B, T)), np.zeros((B, T))
  correct = np.zeros((B, T), bool)
  for b in range(B):
    for t in range(T):
      logits = hidden[b, t].astype(np.float64) @ kernel / temperature
      p = np.exp(logits - logits.max())
      p /= p.sum()
      logprob[b, t] = np.log(p[targets[b, t]])
      entropy[b, t] = -np.sum(p * np.log(p))
      correct[b, t] = np.argmax(p) == targets[b, t]
  return logprob, entropy, correct


@pytest.mark.parametrize('chunk', [1, CHUNK, T, 100])
def test_scores_equal_the_oracle(inputs, chunk):
  hidden, kernel, targets = inputs.values()
  # Make some targets right, so that both outcomes occur.
  targets = targets.copy()
  targets[0] = np.argmax(hidden[0] @ kernel, axis=-1)
  got = token_scores(
    jnp.asarray(hidden), jnp.asarray(kernel), jnp.asarray(targets),
    chunk=chunk, temperature=0.7,
  )  # fmt: skip
  logprob, entropy, correct = oracle(hidden, kernel, targets, 0.7)
  np.testing.assert_allclose(got.logprob, logprob, atol=1e-5)
  np.testing.assert_allclose(got.entropy, entropy, atol=1e-5)
  np.testing.assert_array_equal(got.correct, correct)
  assert got.logprob.dtype == jnp.float32 and correct.any()
  assert not correct.all()


def naive(hidden, kernel, targets, weights, entropy_weight=0.0):
  logits = jnp.einsum('BTD,DV->BTV', hidden, kernel).astype(jnp.float32)
  logprob = jax.nn.log_softmax(logits / 0.7)
  chosen = jnp.take_along_axis(logprob, targets[..., None], axis=-1)[..., 0]
  entropy = -jnp.sum(jnp.exp(logprob) * logprob, axis=-1)
  return jnp.sum((chosen + entropy_weight * entropy) * weights)


@pytest.mark.parametrize('chunk', [CHUNK, T])
def test_gradients_equal_the_naive_ones(inputs, chunk):
  hidden, kernel, targets = map(jnp.asarray, inputs.values())
  weights = jnp.linspace(-1, 2, B * T).reshape(B, T)

  def chunked(hidden, kernel):
    scores = token_scores(hidden, kernel, targets, chunk=chunk, temperature=0.7)
    return jnp.sum((scores.logprob + 0.3 * scores.entropy) * weights)

  got = jax.jit(jax.value_and_grad(chunked, (0, 1)))(hidden, kernel)
  want = jax.jit(jax.value_and_grad(naive, (0, 1)))(
    hidden, kernel, targets, weights, 0.3
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want
  )


def test_kernel_gradient_accumulates_in_float32():
  """512 equal contributions: a bfloat16 sum would stop at 256 * 0.75."""
  hidden = jnp.ones((1, 512, 2), jnp.bfloat16)
  kernel = jnp.zeros((2, 4), jnp.float32)
  targets = jnp.zeros((1, 512), jnp.int32)
  grad = jax.jit(
    jax.grad(lambda k: jnp.sum(token_logprobs(hidden, k, targets, chunk=1)))
  )(kernel)
  # d logprob / d logit = onehot - 1/4, summed over 512 positions.
  np.testing.assert_allclose(grad, [[384, -128, -128, -128]] * 2)


def test_shift_respects_segments():
  tokens = jnp.array([[5, 6, 7, 8, 9, 0, 0]])
  segments = jnp.array([[1, 1, 1, 2, 2, 0, 0]])
  mask = jnp.array([[1.0, 0, 1, 1, 1, 1, 1]])
  targets, weights = next_tokens(tokens, mask, segments)
  np.testing.assert_array_equal(targets, [[6, 7, 8, 9, 0, 0, 0]])
  # 6 is unsupervised, 8 opens another sample, 0 is padding.
  np.testing.assert_array_equal(weights, [[0, 1, 0, 1, 0, 0, 0]])


def test_padding_changes_nothing(inputs):
  hidden, kernel, tokens = map(jnp.asarray, inputs.values())
  mask = (tokens % 2).astype(jnp.float32)
  segments = jnp.ones_like(tokens).at[:, 6:].set(2)

  @jax.jit
  def loss(hidden, tokens, mask, segments):
    return cross_entropy(hidden, kernel, tokens, mask, segments, chunk=CHUNK)

  def padded(array, value):
    widths = ((0, 2), (0, 5)) + ((0, 0),) * (array.ndim - 2)
    return jnp.pad(array, widths, constant_values=value)

  want = loss(hidden, tokens, mask, segments)
  got = loss(
    padded(hidden, 3.0), padded(tokens, 1), padded(mask, 1.0),
    padded(segments, 0),
  )  # fmt: skip
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert want[1] == np.sum(np.asarray(mask)[:, 1:]) - np.sum(
    np.asarray(mask)[:, 6]
  )


def sizes(jaxpr):
  """Sizes of every array of a jaxpr, inner ones included."""
  for equation in jaxpr.eqns:
    for variable in equation.outvars:
      yield int(np.prod(getattr(variable.aval, 'shape', ())))
    for value in equation.params.values():
      for inner in jax.tree.leaves(
        value, is_leaf=lambda x: hasattr(x, 'eqns') or hasattr(x, 'jaxpr')
      ):
        inner = getattr(inner, 'jaxpr', inner)
        if hasattr(inner, 'eqns'):
          yield from sizes(inner)


def test_logits_of_the_batch_never_exist():
  batch, length, width, vocab, chunk = 4, 64, 8, 512, 8
  shapes = (
    jax.ShapeDtypeStruct((batch, length, width), jnp.float32),
    jax.ShapeDtypeStruct((width, vocab), jnp.float32),
    jax.ShapeDtypeStruct((batch, length), jnp.int32),
    jax.ShapeDtypeStruct((batch, length), jnp.float32),
  )

  def chunked(hidden, kernel, targets, weights):
    segments = jnp.ones_like(targets)
    total, _ = cross_entropy(
      hidden, kernel, targets, weights, segments, chunk=chunk
    )
    return total

  def largest(loss):
    step = jax.value_and_grad(loss, (0, 1))
    return max(sizes(jax.make_jaxpr(step)(*shapes).jaxpr))

  assert largest(naive) >= batch * length * vocab  # the probe sees logits
  assert largest(chunked) == batch * chunk * vocab

  compiled = jax.jit(jax.value_and_grad(chunked, (0, 1))).lower(*shapes)
  temporary = compiled.compile().memory_analysis().temp_size_in_bytes
  assert temporary < 4 * batch * length * vocab


def test_no_device_gathers_the_whole_head():
  """Under fsdp, the kernel and its gradient cross devices block by block."""
  rows, length, width, vocab = 8, 32, 64, 4096
  mesh = make_mesh(dict(fsdp=8))

  def place(shape, dtype, *spec):
    return jax.ShapeDtypeStruct(
      shape, dtype, sharding=NamedSharding(mesh, P(*spec))
    )

  def loss(hidden, kernel, targets):
    return jnp.sum(token_logprobs(hidden, kernel, targets, chunk=4))

  arguments = (
    place((rows, length, width), jnp.float32, ('data', 'fsdp')),
    place((width, vocab), jnp.float32, 'fsdp', 'tensor'),
    place((rows, length), jnp.int32, ('data', 'fsdp')),
  )
  step = jax.jit(
    jax.value_and_grad(loss, (0, 1)),
    out_shardings=(
      NamedSharding(mesh, P()),
      (arguments[0].sharding, arguments[1].sharding),
    ),
  )
  hlo = step.lower(*arguments).compile().as_text()
  shapes = re.findall(r'(?:f32|bf16)\[([\d,]+)\]', hlo)
  largest = max(np.prod([int(n) for n in shape.split(',')]) for shape in shapes)
  # What one device must hold: its eighth of the kernel, a block of it, and the
  # logits of 4 positions of its row.
  assert largest == width * vocab // 8
