"""Drift by hand, and its blindness to what lies behind a sample's end."""

import jax.numpy as jnp
import numpy as np

from vlm.losses.drift import drift


def test_drift_by_hand():
  sampler = jnp.asarray([[-1.0, -2.0, 0.0], [-0.5, jnp.nan, 9.0]])
  trainer = jnp.asarray([[-1.1, -1.8, 5.0], [-0.5, 0.0, 0.0]])
  mask = jnp.asarray([[1.0, 1, 0], [1, 0, 0]])
  found = drift(trainer, sampler, mask)
  means = {key: float(top / bottom) for key, (top, bottom) in found.items()}
  d = np.array([-0.1, 0.2, 0.0])
  want = {
    'drift/mean': np.abs(d).mean(),
    'drift/max': 0.2,
    'drift/kl': (np.exp(d) - 1 - d).mean(),
    'drift/ratio': np.exp(d).mean(),
    'drift/ratio_spread': ((np.exp(d) - 1) ** 2).mean(),
  }
  assert means.keys() == want.keys()
  for key, value in want.items():
    np.testing.assert_allclose(means[key], value, rtol=1e-5, err_msg=key)
