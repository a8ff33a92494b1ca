"""Muon's updates equal their formula through singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vlm.models import registry
from vlm.models.functional import Runtime
from vlm.models.qwen2 import Qwen2Config
from vlm.sharding import mesh as mesh_lib
from vlm.sharding.rules import flatten
from vlm.train import muon
from vlm.train.optimizer import make_optimizer
from vlm.train.state import abstract_state

CONFIG = Qwen2Config(
  vocab_size=32,
  width=16,
  depth=2,
  heads=4,
  kv_heads=2,
  head_dim=8,
  mlp_width=24,
  rope_theta=1e4,
  tied_head=False,
)


def orthogonalised(matrix):
  """Five quintic iterations act on the singular values alone."""
  u, s, v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
  s = s / np.linalg.norm(s)
  for _ in range(5):
    s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
  return (u * s) @ v * 0.2 * np.sqrt(max(matrix.shape))


def test_two_updates_of_stacked_kernels_equal_the_formula():
  rng = np.random.default_rng(0)
  shapes = {
    'q': (2, 6, 2, 4),  # two layers of [width, heads, head-dim]
    'o': (2, 2, 4, 6),
  }
  grads = [
    {'layers': {k: {'kernel': rng.normal(size=s)} for k, s in shapes.items()}}
    for _ in range(2)
  ]
  tx = muon.muon_and(optax.identity())
  state = tx.init(jax.tree.map(jnp.asarray, grads[0]))
  mean = jax.tree.map(np.zeros_like, grads[0])
  for step, grad in enumerate(grads, 1):
    got, state = tx.update(jax.tree.map(jnp.asarray, grad), state)
    mean = jax.tree.map(lambda m, g: 0.95 * m + 0.05 * g, mean, grad)
    ahead = jax.tree.map(
      lambda m, g, n=step: (
        0.95 * m / (1 - 0.95 ** (n + 1)) + 0.05 * g / (1 - 0.95**n)
      ),
      mean,
      grad,
    )
    for name, fold in (('q', (2, 6, 8)), ('o', (2, 8, 6))):
      want = [
        orthogonalised(layer)
        for layer in ahead['layers'][name]['kernel'].reshape(fold)
      ]
      np.testing.assert_allclose(
        got['layers'][name]['kernel'].reshape(fold), want, atol=2e-4
      )


def test_only_maps_between_hidden_states_are_orthogonalised():
  model = registry.build(CONFIG, Runtime())
  left = {
    path
    for path, _ in flatten(model.abstract_params)
    if not muon.match(path, muon.MATRICES)
  }
  assert {path.split('/')[-1] for path in left} == {
    'embedding',
    'scale',
    'bias',
    'kernel',
  }
  assert [path for path in left if path.endswith('kernel')] == [
    'decoder/head/kernel'
  ]


def test_state_follows_the_shardings_of_the_parameters():
  model = registry.build(CONFIG, Runtime())
  optimizer = make_optimizer({'kind': 'muon'}, model.abstract_params, 10)
  mesh = mesh_lib.make_mesh({'data': 1, 'fsdp': 8, 'tensor': 1})
  state = abstract_state(model.abstract_params, optimizer, mesh)
  moments = dict(flatten(state['opt_state']))
  kernels = [path for path in moments if 'layers/mlp/' in path]
  assert len(kernels) == 3  # a moment each, of gate, up and down
  for path in kernels:
    inside = path[path.index('decoder/layers/') :]
    want = dict(flatten(state['params']))[inside]
    assert moments[path].sharding == want.sharding
