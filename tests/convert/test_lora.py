"""Adapters lie over any family, merge into it, and leave as plain weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from data.processors.registry import processor_of
from vlm.convert.plan import flatten
from vlm.convert.reader import load_params
from vlm.convert.writer import save_params
from vlm.models import lora, registry
from vlm.models.functional import Runtime
from vlm.train.optimizer import make_optimizer

pytestmark = pytest.mark.parity

EVERYWHERE = lora.Lora(rank=2, alpha=6.0, targets='.*')


def adapted(published, family, settings=EVERYWHERE):
  """A published checkpoint's model with adapters, and random ones."""
  source = published(family)
  base = source.model()
  model = registry.build(base.config, Runtime(lora=settings))
  params = load_params(source.folder, base)
  drawn = lora.draw(model, jax.random.key(0))
  drawn = jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      0.1 * jax.random.normal(jax.random.key(len(str(path))), leaf.shape)
    ),
    drawn,
  )
  return base, model, params, drawn


def output(model, params):
  """What a model makes of fixed inputs."""
  rng = np.random.default_rng(0)
  if hasattr(model, 'encode_image'):
    pixels = rng.uniform(-1, 1, (2, 28, 28, 3)).astype(np.float32)
    return jax.tree.leaves(model.encode_image(params, jnp.asarray(pixels)))[0]
  tokens = jnp.asarray(rng.integers(3, 60, (2, 7)))
  batch = {
    'tokens': tokens,
    'segment_ids': jnp.ones_like(tokens),
    'positions': jnp.tile(jnp.arange(7), (2, 1)),
  }
  axes = len(model.decoder_config.mrope_section)
  if axes:
    batch['positions'] = jnp.tile(batch['positions'][..., None], axes)
  text = model.logits(params, model.hidden(params, batch))
  if not hasattr(model, 'encode_visual'):
    return text
  processor = processor_of(model.config)
  prepared = processor.prepare(
    [Image.fromarray(rng.integers(0, 256, (90, 60, 3), np.uint8))] * 2
  )
  plan = prepared.plan | {'valid': np.ones(len(prepared.plan['grid']), bool)}
  plan = {key: jnp.asarray(value)[None] for key, value in plan.items()}
  pixels = jnp.asarray(prepared.pixels)[None]
  seen = model.encode_visual(params, pixels, plan).tokens
  return jnp.concatenate([text.ravel(), seen.ravel()])


def test_merged_weights_say_what_the_adapters_said(published, family):
  base, model, params, drawn = adapted(published, family)
  laid = lora.overlay(params, drawn)
  assert flatten(laid).keys() == flatten(model.abstract_params).keys()
  merged = lora.merge(laid, EVERYWHERE)
  assert flatten(merged).keys() == flatten(base.abstract_params).keys()
  want = np.asarray(output(base, merged))
  got = np.asarray(jax.jit(lambda p: output(model, p))(laid))
  scale = np.abs(want).max()
  assert np.abs(got - want).max() < 1e-4 * scale
  plain = np.asarray(output(base, params))
  assert np.abs(want - plain).max() > 1e-2 * scale


def test_fresh_adapters_change_nothing(published):
  base, model, params, _ = adapted(published, 'qwen2')
  laid = lora.overlay(params, lora.draw(model, jax.random.key(3)))
  np.testing.assert_array_equal(output(model, laid), output(base, params))
  a = laid['decoder']['layers']['attn']['q']['lora_a']
  assert a.shape == (3, 24, 2) and 0.1 < float(a.std()) < 0.4
  assert a.dtype == jnp.float32


def test_only_adapters_train(published):
  _, model, _, _ = adapted(published, 'qwen2')
  settings = {'rules': (lora.FREEZE_BASE,)}
  optimizer = make_optimizer(settings, model.abstract_params, 10)
  trainable, frozen = optimizer.split(model.abstract_params)
  paths = flatten(trainable).keys()
  assert all(path.endswith(('/lora_a', '/lora_b')) for path in paths)
  assert len(paths) == 2 * 8 and len(flatten(frozen)) == 15


def test_targets_that_match_nothing_are_an_error(published):
  config = published('qwen2').model().config
  settings = lora.Lora(targets='decoder/blocks/.*')
  with pytest.raises(ValueError, match='model.lora.targets'):
    registry.build(config, Runtime(lora=settings))
  with pytest.raises(ValueError, match='rank 0.*model.lora.rank'):
    lora.Lora(rank=0)


def test_a_merged_export_loads_in_transformers(published, tmp_path):
  import torch
  import transformers

  source = published('llama')
  settings = lora.Lora(rank=2, targets=r'decoder/layers/.*/(q|o|down)')
  base, _, params, drawn = adapted(published, 'llama', settings)
  merged = lora.merge(lora.overlay(params, drawn), settings)
  save_params(tmp_path, base, merged, source.config, source=source.folder)
  theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
  tokens = np.random.default_rng(0).integers(3, 60, (2, 7))
  with torch.no_grad():
    want = theirs(torch.from_numpy(tokens)).logits.numpy()
  got = np.asarray(output(base, merged))
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
