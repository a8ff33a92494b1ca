"""Every peer equals numpy loops on unlike videos in one padded batch."""

import numpy as np
import pytest

from tests.methods.flashvid import peers_clips as clips
from tests.methods.flashvid import peers_oracle


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
