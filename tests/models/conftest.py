"""Published torch classes with random weights, loaded the way users load."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from vlm.convert.reader import load_params
from vlm.models import registry
from vlm.models.functional import Runtime

TOLERANCE = 1e-4


@pytest.fixture(scope='module')
def torch():
  torch = pytest.importorskip('torch')
  torch.manual_seed(0)
  torch.set_num_threads(2)
  with torch.no_grad():
    yield torch


@pytest.fixture(scope='module')
def randomise(torch):
  """Gives every parameter, norms and biases included, a telling value."""

  def apply(model, seed=0, attention=1):
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
      noise = torch.randn(value.shape, generator=generator)
      if 'norm' in name and name.endswith('weight'):
        value.copy_(1 + 0.2 * noise)
      elif 'logit_scale' in name:
        value.copy_(torch.full(value.shape, 1.3))
      elif value.ndim < 2:
        value.copy_(0.1 * noise)
      elif ('embed' in name and value.ndim == 2) or 'probe' in name:
        value.copy_(0.5 * noise)
      else:
        gain = attention if 'attn' in name else 1
        value.copy_(gain * noise / value[0].numel() ** 0.5)
    return model.eval()

  return apply


@pytest.fixture(scope='module')
def through_disk(tmp_path_factory):
  """save_pretrained -> our config, model and parameters."""

  def load(published, runtime=Runtime(attention='xla'), **changes):
    folder = tmp_path_factory.mktemp('checkpoint')
    published.save_pretrained(folder)
    facts = json.loads((folder / 'config.json').read_text())
    config = dataclasses.replace(registry.config_from_hf(facts), **changes)
    model = registry.build(config, runtime)
    return model, load_params(folder, model)

  return load


@pytest.fixture
def close(record_property):
  """Compares to the tolerance and prints the measured difference."""

  def check(name, got, want, mask=None, tolerance=TOLERANCE):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f'{name}: {got.shape} != {want.shape}'
    if mask is not None:
      got, want = got[mask], want[mask]
    worst = float(np.abs(got - want).max())
    print(
      f'{name}: max |difference| {worst:.1e}, scale {np.abs(want).max():.1e}'
    )
    assert worst <= tolerance, f'{name}: {worst}'
    return worst

  return check


@pytest.fixture(scope='module', autouse=True)
def exact_matmuls():
  with jax.default_matmul_precision('highest'):
    yield


def _truncate(params, part, depth):
  """The parameters of a model whose `part` has only its first layers."""
  cut = jax.tree.map(lambda leaf: leaf[:depth], params[part]['layers'])
  return params | {part: params[part] | {'layers': cut}}


@pytest.fixture(scope='session')
def truncate():
  return _truncate


@pytest.fixture(scope='session')
def stages():
  """Every stage of a whole model, from one compile."""

  def run(model, params, batch):
    visual = model.encode_visual(params, batch['pixels'], batch['plan'])
    x = model.embed(params, batch['tokens'], visual)
    shape = batch['positions'], batch['segment_ids']
    decoder = dataclasses.replace(model.config.decoder, depth=1)
    short = dataclasses.replace(model.config, decoder=decoder)
    first = registry.build(short, model.runtime)
    layer, _ = first.decode(_truncate(params, 'decoder', 1), x, *shape)
    hidden, _ = model.decode(params, x, *shape)
    return visual, x, layer, hidden, model.logits(params, hidden)

  return jax.jit(run, static_argnums=0)
