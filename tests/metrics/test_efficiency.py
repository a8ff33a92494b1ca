"""Figures that were published, from the formulas."""

import numpy as np
import pytest

from vlm.metrics import efficiency
from vlm.models import qwen2_5_vl

SHAPE = efficiency.DecoderShape.of(qwen2_5_vl.published('7b').decoder)


@pytest.mark.parametrize(
  ('entering', 'layer', 'kept', 'tera'),
  [(6272, None, 0, 113.4), (1568, None, 0, 22.4), (784, 20, 235, 8.55)],
)
def test_printed_flops_are_the_published_ones(entering, layer, kept, tera):
  tokens = efficiency.tokens_per_layer(28, entering, layer, kept)
  found = efficiency.printed_flops(tokens, SHAPE) / 1e12
  assert found == pytest.approx(tera, abs=0.05 if tera > 10 else 0.005)


def test_equation_12_is_what_the_paper_says():
  """48.8 for the whole video, and 8.3 % of it for 608 tokens."""
  full = efficiency.macs(efficiency.tokens_per_layer(28, 6272), SHAPE)
  less = efficiency.macs(efficiency.tokens_per_layer(28, 608), SHAPE)
  assert full / 1e12 == pytest.approx(48.8, abs=0.05)
  assert less / full == pytest.approx(0.083, abs=0.0005)


def test_tokens_change_at_the_layer_that_prunes():
  tokens = efficiency.tokens_per_layer(5, 100, 3, 30)
  np.testing.assert_array_equal(tokens, [100, 100, 100, 30, 30])
  assert efficiency.compression(tokens, 400) == pytest.approx(72 / 400)
  with pytest.raises(ValueError, match='layer 5 of 5'):
    efficiency.tokens_per_layer(5, 100, 5, 30)
  with pytest.raises(ValueError, match='101 of 100'):
    efficiency.tokens_per_layer(5, 100, 3, 101)
