"""FlashVID equals loops that are obviously right."""

import functools

import jax
import numpy as np
import pytest

from tests.methods.flashvid import clips, oracle
from vlm.methods.flashvid import FlashVID
from vlm.methods.flashvid.compress import compress

run = functools.partial(jax.jit, static_argnums=(3, 4))(compress)


def check(x, attention, settings, noise=None, rtol=1e-5):
  """One video against the loops: places exactly, vectors, counts, forest."""
  frames, n, _ = x.shape
  with np.errstate(invalid='ignore', over='ignore'):
    want, places, parents, place = oracle.compress(
      x, attention, settings, noise
    )
  batched = None if noise is None else noise[None]
  got = run(x[None], attention[None], None, settings, True, batched)
  assert got.tokens.shape == (1, settings.room(frames, n), x.shape[2])
  index = [f * n + i for f, i in places]
  count = len(index)
  np.testing.assert_array_equal(got.index[0, :count], index)
  assert (got.index[0, count:] == frames * n).all()
  assert got.valid[0].tolist() == [True] * count + [False] * (
    got.valid.shape[1] - count
  )
  scale = np.abs(want).max() or 1
  np.testing.assert_allclose(
    got.tokens[0, :count] / scale, want / scale, atol=rtol
  )
  assert not np.asarray(got.tokens[0, count:]).any()
  np.testing.assert_array_equal(
    got.counts[0], np.bincount([f for f, _ in places], minlength=frames)
  )
  number = lambda t: t[0] * n + t[1]
  want = np.full((2, frames, n), -1)
  for kind, edges in enumerate((parents, place)):
    for t, end in edges.items():
      want[(kind, *t)] = number(end)
  np.testing.assert_array_equal(got.forest.parents[0], want[0])
  np.testing.assert_array_equal(got.forest.roots[0], want[1])
  return got


# Each takes a compilation; the default run has what covers every branch once.
slow = lambda *args: pytest.param(*args, marks=pytest.mark.slow)

VARIANTS = [
  dict(selection='attn_div_v2', relevance='video'),
  dict(selection='div', parents='same'),
  dict(selection='attn', aggregation='children'),
  dict(mode='official', selection='attn_div_v2'),
  dict(mode='official', selection='attn_div', complementary=False),
  slow(dict(selection='attn_div_v2')),
  slow(dict(selection='attn_div')),
  slow(dict(mode='official', selection='attn_div', aggregation='mean')),
  slow(dict(mode='official', selection='div')),
  slow(dict(mode='official', selection='attn')),
  slow(dict(mode='official', relevance='video', tau=0.3)),
]


@pytest.mark.parametrize('variant', VARIANTS, ids=str)
def test_equals_the_loops(variant):
  shape = 9, 40
  settings = FlashVID(0.2, **{'tau': 0.7, 'min_segments': 3} | variant)
  for seed in range(2):
    attention = clips.attention(seed, *shape)
    check(clips.noise(seed, *shape), attention, settings)
    for speed in (0.05, 0.4, 0.9):
      x = clips.drifting(seed, *shape, speed=speed, cuts={4, 6})
      check(x, attention, settings)


@pytest.mark.parametrize(
  'frames, n, mode, retention',
  [
    (3, 196, 'paper', 0.1),
    (4, 169, 'official', 0.1),
    (5, 1, 'paper', 0.5),
    slow(1, 49, 'paper', 0.1),
    slow(1, 49, 'official', 0.1),
    slow(12, 7, 'paper', 0.5),
    slow(12, 7, 'official', 0.1),
    slow(5, 1, 'official', 0.1),
  ],
)
def test_equals_the_loops_at_other_sizes(frames, n, mode, retention):
  settings = FlashVID(retention, mode=mode, min_segments=2)
  x = clips.drifting(n, frames, n, cuts={2})
  check(x, clips.attention(n, frames, n), settings)


@pytest.mark.parametrize(
  'mode, alpha',
  [
    ('paper', 0.0),
    ('official', 1.0),
    slow('paper', 1.0),
    slow('official', 0.0),
  ],
)
def test_equals_the_loops_at_other_shares(mode, alpha):
  settings = FlashVID(
    0.3, expansion=1.1, alpha=alpha, mode=mode, min_segments=2
  )
  x = clips.drifting(3, 7, 25, speed=0.1)
  check(x, clips.attention(3, 7, 25), settings)


def test_equals_the_loops_with_the_released_noise():
  settings = FlashVID(0.15, mode='official', min_segments=1)
  noise = np.random.default_rng(0).random((6, 30)).astype(np.float32)
  x = clips.drifting(5, 6, 30, speed=0.2)
  attention = clips.attention(5, 6, 30)
  still = check(x, attention, settings)
  drawn = check(x, attention, settings, noise)
  assert not np.array_equal(still.index, drawn.index)


def degenerate():
  x = clips.signs(0, 6, 20, 5)
  flat = np.broadcast_to(x[:, :1], x.shape)
  zeros = np.zeros_like(x)
  half = x.copy()
  half[2:4] = 0

  def damaged(x):
    x = x.copy()
    x[1, 3], x[2, :, 5], x[4, 7:9, 0] = np.nan, np.inf, 3e38
    return x

  return dict(
    few_kinds=x,
    flat=flat,
    still=np.broadcast_to(x[:1], x.shape),
    twice=np.repeat(x[::2], 2, axis=0),
    zeros=zeros,
    black_frames=half,
    broken=damaged(x),
    broken_noise=damaged(clips.drifting(0, 6, 20)),
    all_broken=np.full_like(x, np.nan),
  )


@pytest.mark.parametrize('mode', ['paper', 'official'])
@pytest.mark.parametrize('name', degenerate())
def test_equals_the_loops_on_degenerate_videos(name, mode):
  x = degenerate()[name]
  attention = np.float32(2.0) ** np.arange(-3, 3)[:, None] * np.ones((6, 20))
  attention = attention.astype(np.float32)
  attention[0, 4], attention[1, 2] = np.nan, np.inf
  # Where kinds are equally frequent, rounding decides whose relevance is more.
  one_kind = name in ('flat', 'zeros', 'all_broken', 'broken_noise')
  selection = 'attn_div_v2' if one_kind else 'attn_div'
  settings = FlashVID(0.3, mode=mode, min_segments=2, selection=selection)
  check(x, attention, settings)
