"""Real photographs with metric depth, of the packages that are installed.

  motorcycle   scikit-image's wheel, a dependency
  aloe         Debian's opencv-doc (apt-get install opencv-doc)
  castle       Debian's visp-images-data, 30 frames

The Debian packages may also be unpacked anywhere (dpkg-deb -x FILE.deb DIR):
$VLM_DEBIAN names that folder, / by default.
"""

import os
from collections.abc import Iterator

from etils import epath

from data.sources import middlebury, sr300
from data.sources.depth_photo import DepthPhoto

ALOE = 'usr/share/doc/opencv-doc/examples/data'
CASTLE = 'usr/share/visp-images-data/ViSP-images/mbt-depth/castel'


def installed() -> Iterator[tuple[str, list[DepthPhoto]]]:
  """Names and photographs of the sets that are there."""
  yield 'motorcycle', [middlebury.motorcycle()]
  root = epath.Path(os.environ.get('VLM_DEBIAN', '/'))
  if (root / ALOE / 'aloeGT.png').exists():
    yield 'aloe', [middlebury.aloe(root / ALOE)]
  if (root / CASTLE / sr300.POSE).exists():
    yield 'castle', list(sr300.frames(root / CASTLE))
