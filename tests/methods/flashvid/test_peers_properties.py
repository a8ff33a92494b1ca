"""What holds for every peer: order, counts, budgets, mass, R = 1."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods.flashvid import peers_clips as clips
from vlm.methods.flashvid import peers
from vlm.methods.flashvid.peers import budgets
from vlm.models.prune import Prune

# At each place they keep stands what stood there.
SELECTING = ('random', 'stride', 'frame_drop', 'fastv', 'dycoke')
DEPTH = 28


def _sizes(name):
  return clips.videos()[name].shape[:2]


@pytest.mark.parametrize('case', clips.CASES)
class TestEveryPeer:
  def test_places_ascend_once_each_inside_the_video_before_the_padding(
    self, case
  ):
    out = clips.reduced(case)
    _, _, valid = clips.batch()
    for i in range(len(valid)):
      count = out.counts[i].sum()
      index = out.index[i]
      assert out.valid[i].tolist() == [k < count for k in range(len(index))]
      assert (np.diff(index[:count]) > 0).all()
      assert valid[i].ravel()[index[:count]].all()
      np.testing.assert_array_equal(index[count:], clips.F * clips.N)
      np.testing.assert_array_equal(out.tokens[i, count:], 0)
      frames = np.bincount(index[:count] // clips.N, minlength=clips.F)
      np.testing.assert_array_equal(out.counts[i], frames)

  def test_room_holds_every_video_and_is_monotonic(self, case):
    peer = clips.CASES[case]
    out = clips.reduced(case)
    assert out.index.shape[1] == peer.room(clips.F, clips.N)
    for i, name in enumerate(clips.videos()):
      assert 0 < out.counts[i].sum() <= peer.room(*_sizes(name))
    rooms = np.array(
      [[peer.room(f, n) for n in range(1, 31)] for f in range(1, 20)]
    )
    assert (np.diff(rooms, axis=0) >= 0).all()
    assert (np.diff(rooms, axis=1) >= 0).all()
    assert (rooms <= np.outer(range(1, 20), range(1, 31))).all()

  def test_a_constant_video_stays_constant(self, case):
    out = clips.reduced(case)
    at = list(clips.videos()).index('constant')
    vector = clips.videos()['constant'][0, 0]
    tokens = out.tokens[at][out.valid[at]]
    if case.startswith('visionzip'):
      # As released: the mean of what came is added, not averaged.
      doubled = np.isclose(tokens, 2 * vector, atol=1e-5).all(1)
      tokens = np.where(doubled[:, None], tokens / 2, tokens)
    np.testing.assert_allclose(
      tokens, np.broadcast_to(vector, tokens.shape), atol=1e-5
    )

  def test_what_is_not_merged_is_bit_identical(self, case):
    out = clips.reduced(case)
    features, _, _ = clips.batch()
    flat = features.reshape(len(features), -1, clips.D)
    same = 0
    for i, name in enumerate(clips.videos()):
      if name in ('constant', 'broken'):
        continue
      kept = out.tokens[i][out.valid[i]]
      before = flat[i][out.index[i][out.valid[i]]]
      equal = (kept == before).all(1)
      # Nothing is nearly what it was: it is, or it was merged.
      near = np.isclose(kept, before, rtol=1e-6, atol=1e-7).all(1)
      if name not in ('static', 'black', 'half static'):
        np.testing.assert_array_equal(equal, near, err_msg=name)
      if case in SELECTING:
        assert equal.all(), name
      same += equal.sum()
    assert same


@pytest.mark.parametrize('name', peers.PEERS)
class TestEveryClass:
  def test_r_1_returns_every_token_as_it_is(self, name):
    peer = peers.PEERS[name].aligned(1.0, DEPTH)
    assert peer.prune(DEPTH) is None
    features, attention, valid = (x[:4, :3, :5] for x in clips.batch())
    valid = jnp.asarray(valid).at[1, 2:].set(False)
    features = jnp.asarray(features, jnp.bfloat16)
    attention = jnp.asarray(attention)
    out = peer.reduce(features, attention, valid)
    assert out.tokens.dtype == jnp.bfloat16
    for i in range(4):
      index = np.flatnonzero(valid[i])
      np.testing.assert_array_equal(out.index[i, : len(index)], index)
      np.testing.assert_array_equal(
        np.asarray(out.tokens[i, : len(index)], np.float32),
        features[i].reshape(15, -1)[index].astype(np.float32),
      )
    assert out.counts.sum() == valid.sum()
    assert out.tokens.shape[1] == peer.room(3, 5) == 15

  def test_settings_are_hashable_and_retention_is_checked(self, name):
    peer = peers.PEERS[name](0.3)
    assert hash(peer) == hash(peers.PEERS[name](0.3))
    assert peer != dataclasses.replace(peer, retention=0.4)
    for retention in (0.0, -0.1, 1.1, float('nan')):
      with pytest.raises(ValueError, match='retention: expected a share'):
        peers.PEERS[name](retention)

  def test_attention_is_demanded_where_it_is_used(self, name):
    peer = peers.PEERS[name](0.3)
    features = jnp.zeros((1, 2, 3, 4))
    if not peer.needs_attention:
      jax.eval_shape(peer.reduce, features)
      return
    with pytest.raises(ValueError, match='received attention'):
      peer.reduce(features)


# Eager mode compiles every operation by itself: half a minute for all of them.
@pytest.mark.parametrize(
  'case',
  [
    case
    if case in ('stride', 'dycoke')
    else pytest.param(case, marks=pytest.mark.slow)
    for case in clips.CASES
  ],
)
def test_eager_equals_jitted(case):
  rows = [1, 4, 5]
  batch = [jnp.asarray(array[rows]) for array in clips.batch()]
  eager = clips.CASES[case].reduce(*batch)
  want = jax.tree.map(lambda array: array[rows], clips.reduced(case))
  np.testing.assert_array_equal(eager.index, want.index)
  np.testing.assert_allclose(eager.tokens, want.tokens, atol=1e-6)


@pytest.mark.parametrize('case', ['tome', 'holitom'])
def test_bfloat16_is_computed_in_float32_and_returned_as_it_came(case):
  features, attention, valid = map(jnp.asarray, clips.batch())
  features = features.astype(jnp.bfloat16)
  coarse = clips.jitted(case)(features, attention, valid)
  fine = clips.jitted(case)(features.astype(jnp.float32), attention, valid)
  assert coarse.tokens.dtype == jnp.bfloat16
  np.testing.assert_array_equal(coarse.index, fine.index)
  np.testing.assert_array_equal(
    coarse.tokens.astype(jnp.float32),
    fine.tokens.astype(jnp.bfloat16).astype(jnp.float32),
  )


@pytest.mark.parametrize('case', ['visionzip', 'fastvid'])
def test_gradients_flow_through_merged_tokens(case):
  features, attention, valid = clips.batch()
  features = np.nan_to_num(features)
  total = lambda x: clips.jitted(case)(x, attention, valid).tokens.sum()
  slope = jax.grad(total)(features)
  assert jnp.isfinite(slope).all()
  assert not slope[~valid].any()
  # Linear in the features, so the slope says how much of each token is left.
  np.testing.assert_allclose(
    jnp.sum(slope * features), total(features), rtol=1e-4
  )


class TestBudgets:
  @pytest.mark.parametrize(
    'case', ['random', 'stride', 'visionzip', 'tome', 'tome, three rounds']
  )
  def test_per_frame_methods_keep_round_rn_of_every_frame(self, case):
    counts = clips.reduced(case).counts
    for i, name in enumerate(clips.videos()):
      frames, tokens = _sizes(name)
      m = max(1, round(clips.CASES[case].retention * tokens))
      assert counts[i].tolist() == [m] * frames + [0] * (clips.F - frames)

  def test_pooling_keeps_at_most_rn_as_a_grid(self):
    counts = clips.reduced('pooling').counts
    for i, name in enumerate(clips.videos()):
      frames, tokens = _sizes(name)
      m = max(1, round(0.3 * tokens))
      assert set(counts[i, :frames]) <= set(range((m + 1) // 2, m + 1))

  @pytest.mark.parametrize(
    ('tokens', 'retention', 'cells'),
    [
      (196, 0.1, (4, 5)),
      (196, 0.25, (7, 7)),
      (169, 0.1, (4, 4)),
      (64, 0.25, (4, 4)),
      (240, 0.25, (7, 8)),
      (7, 0.5, (1, 4)),
    ],
  )
  def test_pooling_grids_are_nearly_square(self, tokens, retention, cells):
    assert peers.Pooling(retention)._sizes(tokens)[2:] == cells

  def test_a_given_grid_is_pooled_as_such(self):
    assert peers.Pooling(0.25, grid=(12, 20))._sizes(240) == (12, 20, 6, 10)
    assert peers.Pooling(0.25, grid=(12, 20))._sizes(64)[:2] == (8, 8)

  def test_dycoke_is_the_released_rate_and_never_above_its_budget(self):
    peer = peers.DyCoke(0.475)
    assert peer._kept(32, 196)[32, 196] == int(0.3 * 196)
    counts = clips.reduced('dycoke').counts
    for i, name in enumerate(clips.videos()):
      frames, tokens = _sizes(name)
      whole = -(-frames // 4) * tokens
      assert counts[i].sum() <= max(whole, 0.475 * frames * tokens + 1e-9)
    with pytest.raises(ValueError, match='at least 1/4'):
      peers.DyCoke(0.2)

  @pytest.mark.parametrize('case', ['holitom', 'holitom, aligned'])
  def test_holitom_meets_m_within_a_token_per_frame_and_window(self, case):
    peer = clips.CASES[case]
    counts = clips.reduced(case).counts.sum(1)
    for i, name in enumerate(clips.videos()):
      frames, tokens = _sizes(name)
      m = round(peer.retention * peer.expansion * frames * tokens)
      assert counts[i] <= m + frames + frames // 2
      if name in ('random', 'odd', 'one frame'):  # More is left than M.
        assert counts[i] >= m - frames // 2

  def test_fastvid_never_exceeds_int_nr_per_frame_on_average(self):
    for case, share in (('fastvid', 0.3), ('fastvid, long segments', 0.4)):
      counts = clips.reduced(case).counts.sum(1)
      for i, name in enumerate(clips.videos()):
        frames, tokens = _sizes(name)
        b = max(1, int(share * tokens + 1e-9))
        assert b * frames * 0.6 <= counts[i] <= b * frames

  def test_framefusion_meets_its_total_unless_merging_left_less(self):
    counts = clips.reduced('framefusion').counts.sum(1)
    for i, name in enumerate(clips.videos()):
      frames, tokens = _sizes(name)
      total = max(1, round(0.3 * frames * tokens))
      if name in ('static', 'constant'):
        assert counts[i] == min(tokens, total)
      elif name in ('random', 'black', 'one frame'):
        assert counts[i] == total
      assert counts[i] <= total


class TestEqualAverages:
  @pytest.mark.parametrize('name', ['prunevid', 'holitom', 'fastv'])
  @pytest.mark.parametrize('depth', [28, 36, 6])
  def test_aligned_settings_average_to_r_over_the_layers(self, name, depth):
    peer = peers.PEERS[name].aligned(0.4, depth)
    prune = peer.prune(depth)
    entering = getattr(peer, 'expansion', 1 / 0.4) * 0.4
    mean = entering * (prune.layer + (depth - prune.layer) * prune.share)
    assert mean / depth == pytest.approx(0.4)

  def test_published_settings(self):
    assert peers.PruneVID(0.25).expansion * 0.25 == pytest.approx(
      0.407, abs=5e-4
    )
    assert peers.PruneVID(0.1).expansion * 0.1 == pytest.approx(0.163, abs=5e-4)
    assert peers.PruneVID(0.1).prune(28) == Prune(10, 0.4)
    assert peers.PruneVID.aligned(0.1, 28) == peers.PruneVID(0.1)
    assert peers.HoliTom(0.1).prune(28) == Prune(18, 0.5)
    assert peers.HoliTom(0.1).expansion == 1
    assert peers.HoliTom.aligned(0.1, 28).layer == 18
    assert peers.FastV(0.25).prune(28) == Prune(2, 0.25)
    assert peers.FastV.aligned(0.25, 28).prune(28) == Prune(2, 5 / 26)
    assert peers.ToMe.aligned(0.1, 28) == peers.ToMe(0.1)
    assert peers.ToMe(0.1).prune(28) is None

  def test_layers_scale_with_the_decoder(self):
    assert [budgets.scaled_layer(18, d) for d in (28, 36, 24, 4, 2)] == [
      18,
      23,
      15,
      3,
      1,
    ]
    with pytest.raises(ValueError, match='at least 2 layers'):
      budgets.scaled_layer(18, 1)

  def test_what_cannot_be_aligned_says_what_would_help(self):
    with pytest.raises(ValueError, match=r'more than 0.071, or layer=1'):
      peers.FastV.aligned(0.05, 28)
    assert peers.FastV.aligned(0.05, 28, layer=1).prune(28).layer == 1
    with pytest.raises(ValueError, match='a method that acts before it'):
      peers.FastV.aligned(0.03, 28, layer=1)
    with pytest.raises(ValueError, match=r'at most 0.6143 = 1 / expansion'):
      peers.PruneVID(0.7)
    with pytest.raises(ValueError, match='less than the 8 layers'):
      peers.PruneVID(0.1).prune(8)

  @pytest.mark.parametrize(
    ('make', 'field'),
    [
      (lambda: peers.VisionZip(0.1, contextual=1.0), 'contextual'),
      (lambda: peers.FastV(0.1, layer=0), 'layer'),
      (lambda: peers.FastV(0.1, share=0.0), 'share'),
      (lambda: peers.HoliTom(0.1, threshold=2.0), 'threshold'),
      (lambda: peers.HoliTom(0.1, share=1.0), 'share'),
      (lambda: peers.PruneVID(0.1, gamma=0.0), 'gamma'),
      (lambda: peers.FastVID(0.1, spacing=0), 'spacing'),
      (lambda: peers.FrameFusion(0.1, threshold=-2.0), 'threshold'),
      (lambda: peers.Pooling(0.1, grid=(0, 4)), 'grid'),
    ],
  )
  def test_bad_fields_are_named(self, make, field):
    with pytest.raises(ValueError, match=rf'\.{field}: expected .* got'):
      make()


@pytest.mark.parametrize(
  'peer', [peers.ToMe(0.3), peers.Pooling(0.3), peers.FrameFusion(1 - 1e-9)]
)
def test_merged_tokens_hold_every_token_once(peer):
  """Tokens carry who they are, so a mean says whose mean it is."""
  frames, tokens = 3, 20
  rng = np.random.default_rng(2)
  names = np.eye(frames * tokens).reshape(frames, tokens, -1)
  drift = np.tile(rng.normal(size=(1, tokens, 8)), (frames, 1, 1))
  drift += 0.5 * rng.normal(size=drift.shape)
  x = np.concatenate([names, drift], -1).astype(np.float32)
  out = jax.jit(peer.reduce)(x[None], np.ones((1, frames, tokens), np.float32))
  left = np.asarray(out.tokens[0])[np.asarray(out.valid[0])]
  sizes = 1 / left[:, : frames * tokens].max(1)
  assert (np.round(sizes) > 1).any()
  shares = sizes[:, None] * left[:, : frames * tokens]
  np.testing.assert_allclose(np.sort(shares, 0)[-1], 1, atol=1e-5)
  np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)
  np.testing.assert_allclose(sizes @ left, x.sum((0, 1)), atol=1e-4)
  # The anchor is one of its own.
  own = shares[np.arange(len(left)), np.asarray(out.index[0])[: len(left)]]
  np.testing.assert_allclose(own, 1, atol=1e-5)
