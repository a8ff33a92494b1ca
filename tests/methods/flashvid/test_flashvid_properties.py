"""What holds for every video: counts, order, trees, padding, batches, jit."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods.flashvid import clips
from vlm.methods.flashvid import FlashVID
from vlm.methods.flashvid.compress import compress

run = functools.partial(jax.jit, static_argnums=(3, 4))(compress)

F, N, D = 8, 24, 16


def video(seed=0, frames=F, tokens=N, **kwargs):
  x = clips.drifting(seed, frames, tokens, **kwargs)[None]
  return x, clips.attention(seed, frames, tokens)[None]


def assert_same(a, b, atol=1e-5):
  np.testing.assert_array_equal(a.index, b.index)
  np.testing.assert_array_equal(a.valid, b.valid)
  np.testing.assert_array_equal(a.counts, b.counts)
  np.testing.assert_allclose(a.tokens, b.tokens, atol=atol)


SETTINGS = [
  FlashVID(0.25, min_segments=3),
  FlashVID(0.06, tau=0.3, min_segments=1),
  FlashVID(0.25, alpha=0.0, parents='same', min_segments=3, selection='div'),
]


@hypothesis.settings(deadline=None, max_examples=25, derandomize=True)
@hypothesis.given(
  which=st.integers(0, len(SETTINGS) - 1),
  kind=st.sampled_from(['noise', 'drifting', 'signs', 'twice', 'flat', 'nan']),
  there=st.tuples(st.integers(1, F), st.integers(1, N)),
  seed=st.integers(0, 1000),
)
def test_any_video_in_paper_mode(which, kind, there, seed):
  settings, rng = SETTINGS[which], np.random.default_rng(seed)
  x = {
    'noise': lambda: clips.noise(seed, F, N),
    'drifting': lambda: clips.drifting(seed, F, N, speed=rng.random()),
    'signs': lambda: clips.signs(seed, F, N, 3),
    'twice': lambda: np.repeat(clips.noise(seed, F // 2, N), 2, axis=0),
    'flat': lambda: np.ones((F, N, D), np.float32) * rng.normal(size=D),
    'nan': lambda: np.where(
      rng.random((F, N, 1)) < 0.3, np.nan, clips.noise(seed, F, N)
    ),
  }[kind]().astype(np.float32)
  frames, tokens = there
  valid = (np.arange(F) < frames)[:, None] & (np.arange(N) < tokens)
  weight = clips.attention(seed, F, N)
  got = run(x[None], weight[None], valid[None], settings, True)
  parents, roots = (np.asarray(y[0]) for y in got.forest)
  count = int(got.valid.sum())
  index = np.asarray(got.index[0, :count])
  budget = int(settings.budget(N).total[tokens])

  assert count == frames * budget and got.valid[0, :count].all()
  assert (np.diff(index) > 0).all()
  assert valid.reshape(-1)[index].all()
  assert np.isfinite(np.asarray(got.tokens)).all()
  np.testing.assert_array_equal(
    got.counts[0], np.bincount(index // N, minlength=F)
  )
  assert (got.counts[0] >= settings.budget(N).selected[tokens])[:frames].all()
  # Whoever has a parent has one in the frame before, and no place of its own.
  child = np.flatnonzero(parents.reshape(-1) >= 0)
  assert (child // N - 1 == parents.reshape(-1)[child] // N).all()
  assert not np.isin(child, index).any()
  # Nothing that is there is left out if anything is merged at all.
  merged = settings.budget(N).merged[tokens] > 0
  ends = roots[valid]
  assert np.isin(ends[ends >= 0], index).all()
  assert (ends >= 0).all() if merged else (ends >= 0).sum() == count
  assert (roots[~valid] == -1).all() and (parents[~valid] == -1).all()


def test_selected_tokens_are_bit_identical_and_merged_ones_are_means():
  x, weight = video(speed=0.1)
  got = run(x, weight, None, FlashVID(0.3, tau=0.5, min_segments=2), True)
  rows, roots = x[0].reshape(F * N, D), np.asarray(got.forest.roots).reshape(-1)
  alone = 0
  for token, place in zip(np.asarray(got.tokens[0]), got.index[0].tolist()):
    members = np.flatnonzero(roots == place)
    if len(members) == 1:
      alone += 1
      np.testing.assert_array_equal(token, rows[place])
    low, high = rows[members].min(0), rows[members].max(0)
    assert (token >= low - 1e-5).all() and (token <= high + 1e-5).all()
  assert F * 7 <= alone < got.valid.sum()


def test_no_tree_crosses_a_cut():
  x, weight = video(speed=0.02, cuts={3, 6})
  settings = FlashVID(0.2, complementary=False, segment_threshold=0.7)
  parents = np.asarray(run(x, weight, None, settings, True).forest.parents[0])
  linked = (parents >= 0).any(1).tolist()
  assert linked == [False, True, True, False, True, True, False, True]


def test_a_constant_video_stays_constant_under_the_mean_only():
  x = np.full((1, F, N, D), 0.7, np.float32)
  weight = np.ones((1, F, N), np.float32)
  settings = FlashVID(0.2, min_segments=1)
  tokens = run(x, weight, None, settings).tokens
  np.testing.assert_allclose(tokens, 0.7, rtol=1e-5)
  children = FlashVID(0.2, min_segments=1, aggregation='children')
  assert run(x, weight, None, children).tokens.max() > 1.0


def test_same_place_links_only_the_same_place():
  x, weight = video(speed=0.05)
  settings = FlashVID(0.2, tau=0.5, parents='same', min_segments=1)
  parents = np.asarray(run(x, weight, None, settings, True).forest.parents[0])
  linked = parents >= 0
  assert linked.any()
  np.testing.assert_array_equal(
    parents[linked], (np.arange(F * N).reshape(F, N) - N)[linked]
  )


@pytest.mark.parametrize(
  'mode', ['paper', pytest.param('official', marks=pytest.mark.slow)]
)
def test_padding_has_no_influence(mode):
  settings = FlashVID(0.3, mode=mode, min_segments=3, tau=0.6)
  frames, tokens = 5, 17
  x, weight = video(1, frames, tokens, speed=0.2, cuts={3})
  want = run(x, weight, None, settings)
  room = want.tokens.shape[1]
  padded = np.full((1, F, N, D), np.nan, np.float32)
  padded[:, :frames, :tokens] = x
  heavy = np.full((1, F, N), 9.0, np.float32)
  heavy[:, :frames, :tokens] = weight
  valid = np.zeros((1, F, N), bool)
  valid[:, :frames, :tokens] = True
  got = run(padded, heavy, valid, settings)
  assert int(got.valid.sum()) == int(want.valid.sum())
  number = np.arange(F * N).reshape(F, N)[:frames, :tokens].reshape(-1)
  number = np.append(number, F * N)
  np.testing.assert_array_equal(got.index[:, :room], number[want.index])
  np.testing.assert_array_equal(got.counts[:, :frames], want.counts)
  assert not got.counts[:, frames:].any() and not got.valid[:, room:].any()
  np.testing.assert_allclose(got.tokens[:, :room], want.tokens, atol=1e-5)


def test_a_row_without_a_video_gives_nothing():
  x, weight = video()
  got = run(x, weight, np.zeros((1, F, N), bool), SETTINGS[0], True)
  assert not got.valid.any() and not got.counts.any()
  assert not np.asarray(got.tokens).any()
  assert (got.forest.roots == -1).all()


@pytest.mark.parametrize(
  'mode', ['paper', pytest.param('official', marks=pytest.mark.slow)]
)
def test_batched_and_sharded_equal_one_by_one(mode):
  settings = FlashVID(0.25, min_segments=3, tau=0.6, mode=mode)
  rows = [video(seed, speed=0.1 + 0.1 * seed) for seed in range(8)]
  x, weight = (np.concatenate(y) for y in zip(*rows))
  reduce = jax.jit(settings.reduce)
  single = [reduce(*row) for row in rows]
  want = jax.tree.map(lambda *y: jnp.concatenate(y), *single)
  assert_same(reduce(x, weight), want)
  mesh = jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spread = jax.sharding.NamedSharding(mesh, jax.P('data'))
  with jax.set_mesh(mesh):
    got = reduce(*jax.device_put((x, weight), spread))
  assert_same(got, want)
  assert got.tokens.sharding.is_equivalent_to(spread, 3)


@pytest.mark.slow
def test_eager_equals_jit():
  x, weight = video(2, 4, 12, speed=0.2)
  want = run(x, weight, None, SETTINGS[0], True)
  got = compress(jnp.asarray(x), jnp.asarray(weight), None, SETTINGS[0], True)
  assert_same(got, want)
  np.testing.assert_array_equal(got.forest.roots, want.forest.roots)


@pytest.mark.parametrize(
  'dtype', ['bfloat16', pytest.param('float16', marks=pytest.mark.slow)]
)
def test_half_precision_decides_as_its_values_in_float32(dtype):
  x, weight = video(speed=0.3)
  half = jnp.asarray(x, dtype)
  got = run(half, jnp.asarray(weight, dtype), None, SETTINGS[0])
  exact = jnp.asarray(jnp.asarray(weight, dtype), jnp.float32)
  want = run(half.astype(jnp.float32), exact, None, SETTINGS[0])
  assert got.tokens.dtype == half.dtype
  np.testing.assert_array_equal(got.index, want.index)
  np.testing.assert_array_equal(
    got.tokens.astype(jnp.float32),
    want.tokens.astype(dtype).astype(jnp.float32),
  )


def test_gradients_flow_to_all_that_is_merged():
  x, weight = video(speed=0.1)
  settings = FlashVID(0.25, min_segments=2, tau=0.5)
  out = run(x, weight, None, settings, True)
  target = np.random.default_rng(0).normal(size=out.tokens.shape)
  loss = lambda x: jnp.sum(
    settings.reduce(x, jnp.asarray(weight)).tokens * target
  )
  gradient = np.asarray(jax.jit(jax.grad(loss))(x))[0].reshape(F * N, D)
  # A place's gradient is shared among its tokens by weights that add up to 1.
  roots = np.asarray(out.forest.roots).reshape(-1)
  for place, want in zip(out.index[0].tolist(), target[0]):
    members = gradient[roots == place]
    np.testing.assert_allclose(members.sum(0), want, atol=1e-4)
    assert (np.abs(members).max(1) > 0).all()
  assert np.isfinite(gradient).all()


def test_retention_of_one_changes_nothing():
  settings = FlashVID(1.0)
  x, _ = video()
  x[0, 1, 2, 3] = np.nan
  got = settings.reduce(jnp.asarray(x))
  np.testing.assert_array_equal(got.tokens, x.reshape(1, F * N, D))
  np.testing.assert_array_equal(got.index[0], np.arange(F * N))
  assert got.valid.all() and (got.counts == N).all()
  assert settings.prune(28) is None and settings.room(F, N) == F * N
  assert not settings.needs_attention
  valid = (np.arange(F) < 2)[:, None] & (np.arange(N) < 3)
  got = settings.reduce(jnp.asarray(x), valid=jnp.asarray(valid)[None])
  assert got.index[0, :7].tolist() == [0, 1, 2, N, N + 1, N + 2, F * N]
  np.testing.assert_array_equal(got.tokens[0, :6], x[0, :2, :3].reshape(6, D))
