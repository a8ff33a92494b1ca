"""One process of a job that embeds; started by test_embedding_processes.py.

python embed_worker.py PICTURES OUTPUT.npz [--process_id=0 ...]
"""

import jax
import numpy as np
from absl import app

from data.embeddings import Embedder, pictures_in
from experiments.contrastive import contrastive
from launch.objectives import pairs
from launch.pods import distributed
from vlm.sharding import rules
from vlm.sharding.mesh import make_mesh


def main(argv):
  jax.config.update('jax_platforms', 'cpu')
  distributed.initialize_from_flags()
  made = pairs.prepare(contrastive.get_config('smoke'))
  mesh = make_mesh({'data': 1, 'fsdp': -1})
  placed = rules.shardings(mesh, made.model.abstract_params)
  params = jax.jit(made.model.init, out_shardings=placed)(jax.random.key(0))
  parts = made.model, params, made.encoder.picture, made.encoder.text
  embedder = Embedder(*parts, mesh, batch_size=4)
  seen = embedder.pictures(pictures_in(argv[1]), skip=True)
  read = embedder.texts(['a red disc .', 'a blue bar .', 'a red disc .'])
  # Every process has all of them.
  name = argv[2].replace('.npz', f'-{jax.process_index()}.npz')
  np.savez(
    name,
    pictures=seen.vectors,
    kept=seen.kept,
    texts=read.vectors,
    bad=[str(bad) for bad in seen.bad],
  )


if __name__ == '__main__':
  app.run(main)
