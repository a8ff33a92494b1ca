"""Published depth corpora, read in the layouts they are downloaded in.

  python -m launch.prepare --corpus=NAME --source=DIR --output=DIR

A corpus lists its scenes; a scene gives frames; a frame gives an image, its
camera and metric depth at some pixels (`frames`). `curate` turns scenes into
rows (`data.sources.depth`) in parallel, `store` writes them.

Two kinds of labels. 'correct' are ranges, metres from the camera centre, by
the corpus's own documentation. 'official' repeat what the curation scripts
released with DepthLM write, errors included (its specification, 2.4 and 10.2),
so that published numbers can be compared; the random choice of pixels is ours.
"""

import importlib

from data.sources.depth_corpora.frames import Corpus

_PLACES = {
  'argoverse2': ('argoverse2', 'CORPUS'),
  'ddad': ('ddad', 'CORPUS'),
  'eth3d': ('eth3d', 'CORPUS'),
  'hm3d': ('omnidata', 'HM3D'),
  'ibims1': ('ibims1', 'CORPUS'),
  'matterport3d': ('matterport3d', 'CORPUS'),
  'nuscenes': ('nuscenes', 'CORPUS'),
  'nyuv2': ('nyuv2', 'CORPUS'),
  'scannetpp': ('scannetpp', 'CORPUS'),
  'sunrgbd': ('sunrgbd', 'CORPUS'),
  'taskonomy': ('omnidata', 'TASKONOMY'),
  'waymo': ('waymo', 'CORPUS'),
}
NAMES = tuple(_PLACES)


def open_corpus(name: str) -> Corpus:
  """The reader of a corpus.

  Raises:
    ValueError: for an unknown name.
  """
  if name not in _PLACES:
    raise ValueError(f'--corpus={name}: expected one of {", ".join(NAMES)}')
  # Imported when needed: pyarrow and tables of one corpus serve no other.
  module, attribute = _PLACES[name]
  return getattr(importlib.import_module(f'{__name__}.{module}'), attribute)
