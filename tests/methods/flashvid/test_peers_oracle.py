"""Every peer equals numpy loops on unlike videos in one padded batch."""

import jax
import numpy as np
import pytest

from tests.methods.flashvid import peers_clips as clips
from tests.methods.flashvid import peers_oracle
from vlm.methods.flashvid.peers import holitom, prunevid


@pytest.mark.parametrize('case', clips.CASES)
def test_places_and_vectors_are_those_of_the_loops(case):
  out = clips.reduced(case)
  oracle = peers_oracle.ORACLES[case.split(',')[0]]
  _, attention, _ = clips.batch()
  for i, (name, video) in enumerate(clips.videos().items()):
    if name == 'broken':
      continue
    frames, tokens, _ = video.shape
    want = oracle(
      video.astype(np.float64),
      attention[i, :frames, :tokens].astype(np.float64),
      clips.CASES[case],
    )
    places = sorted(want)
    index = out.index[i][out.valid[i]]
    expected = [f * clips.N + n for f, n in places]
    np.testing.assert_array_equal(index, expected, err_msg=name)
    np.testing.assert_allclose(
      out.tokens[i][out.valid[i]],
      np.array([want[place] for place in places]),
      atol=1e-5,
      err_msg=name,
    )


def test_scenes_are_made_contiguous_as_by_loops():
  rng = np.random.default_rng(3)
  labels = rng.integers(0, 4, (300, 14)).astype(np.int32)
  frames = rng.integers(1, 15, 300)
  live = np.arange(14) < frames[:, None]
  labels = np.where(live, labels, -1)
  scenes = jax.jit(jax.vmap(prunevid._contiguous))(labels, live)
  for got, label, count in zip(np.asarray(scenes), labels, frames):
    want = peers_oracle.contiguous(label[:count].tolist())
    assert got[:count].tolist() == want


def test_windows_save_most_as_by_trying_all():
  rng = np.random.default_rng(4)
  linked = rng.random((40, 9, 5)) < rng.random((40, 9, 1)) ** 0.3
  linked[:, 0] = False
  live = np.ones(linked.shape, bool)
  solve = jax.vmap(lambda a, b: holitom._windows(holitom._began(a), b))
  starts, saved = jax.jit(solve)(linked, live)
  for i in range(len(linked)):
    best, windows = peers_oracle.windows(linked[i])
    assert saved[i] == best
    assert np.flatnonzero(starts[i]).tolist() == [a for a, _ in windows]
