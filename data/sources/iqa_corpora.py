"""The published image-quality sets: where they lie, what their scores mean."""

import dataclasses
import math
import re
from collections.abc import Sequence

from etils import epath

_LEVEL = re.compile(r'\.(\d+)\.\w+$')  # 1600.BLUR.3.png


@dataclasses.dataclass(frozen=True)
class Corpus:
  """A published set.

  Attributes:
    folder: under the data root.
    images: under the folder.
    low, high: of raw opinions, where they are published.
    lower_is_better: raw opinions are differential (DMOS).
    reference: what a file's name says about its pristine image.
    density: of soft labels; see vlm/methods/rali/soft_labels.py.
  """

  folder: str
  images: str = 'images'
  low: float = -math.inf
  high: float = math.inf
  lower_is_better: bool = False
  reference: str = ''
  density: str = 'pdf'


CORPORA = {
  'koniq': Corpus('KONIQ'),
  'spaq': Corpus('SPAQ', low=0, high=100, density='cdf'),
  # Named DMOS, and higher is better all the same.
  'kadid': Corpus('KADID10K', low=1, high=5, reference=r'(I\d+)_'),
  'pipal': Corpus('PIPAL', reference=r'(A\d+)_'),
  'livew': Corpus('LIVE-WILD', low=0, high=100),
  'agiqa': Corpus('AGIQA3K'),
  'csiq': Corpus(
    *('CSIQ', 'images/dst_imgs', 0, 1),
    lower_is_better=True,
    reference=r'(\w+)\.',
  ),
  'tid2013': Corpus(
    *('TID2013', 'images/distorted_images', 0, 9), reference=r'([iI]\d+)_'
  ),
}


def reference_of(image: str, dataset: str) -> str:
  """What distorted images of one pristine image share; else the image."""
  pattern = CORPORA[dataset].reference if dataset in CORPORA else ''
  found = re.match(pattern, epath.Path(image).name) if pattern else None
  return found.group(1) if found else image


def rises_with_level(scores: Sequence[tuple[str, float]], name: str) -> bool:
  """Whether opinions are differential: they rise with the distortion.

  Copies of a set hold them as they were published or turned round, and nothing
  but the levels in the images' names tells which.

  Args:
    scores: (image, opinion).
    name: of the set, for messages.

  Raises:
    ValueError: the names do not say, or levels make no difference.
  """
  pairs = [
    (int(found.group(1)), score)
    for image, score in scores
    if (found := _LEVEL.search(image))
  ]
  mean = sum(level for level, _ in pairs) / max(len(pairs), 1)
  rise = sum((level - mean) * score for level, score in pairs)
  if abs(rise) < 1e-9:
    raise ValueError(
      f'{name}: whether lower is better cannot be told; expected images named '
      'NAME.TYPE.LEVEL.png of several levels'
    )
  return rise > 0
