"""Embeddings of pictures and texts by a checkpoint of two towers, in bulk.

embedder = Embedder.load('openai/clip-vit-large-patch14-336')
vectors = embedder.pictures(pictures_in('photos')).vectors
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from data.checkpoint import load_processor
from data.chunks import chunks, filled, in_order, share
from data.image import SUFFIXES
from data.pairs import TextEncoder
from data.processors.registry import processor_from_hf
from data.records import BadRecord
from vlm.convert import folder as folders
from vlm.convert.reader import load_params
from vlm.models import registry
from vlm.models.functional import Params, Runtime
from vlm.sharding import rules
from vlm.sharding.batch import to_global
from vlm.sharding.mesh import check_batch_size, make_mesh

READERS = 8


class Embedded(NamedTuple):
  """What became of a list of things.

  Attributes:
    vectors: float32 [N, E], not of unit length.
    kept: int [N], the places of those embedded in the list.
    bad: findings of the others, as they come.
  """

  vectors: np.ndarray
  kept: np.ndarray
  bad: tuple[BadRecord, ...]


@dataclasses.dataclass(frozen=True)
class Embedder:
  """A model with all that an embedding needs.

  Attributes:
    model: has `encode_image`, and `encode_text` for texts; see
      `vlm.models.clip`. A tower without a space of its own (DINOv2) gives its
      pooled state.
    params: its parameters, on `mesh`.
    picture: processor of one picture, to uint8 [1, S, S, 3].
    text: encoder of texts; None for an image tower alone.
    mesh: rows of a batch are spread over it.
    batch_size: rows embedded at a time, over all devices of the mesh.
  """

  model: Any
  params: Params
  picture: Callable[[Any], np.ndarray]
  text: TextEncoder | None
  mesh: jax.sharding.Mesh
  batch_size: int = 64

  @classmethod
  def load(
    cls,
    source: epath.PathLike,
    *,
    runtime: Runtime | None = None,
    mesh: jax.sharding.Mesh | None = None,
    batch_size: int = 64,
    texts: bool = True,
  ) -> 'Embedder':
    """Loads an HF-style folder, local or gs://, or a hub id.

    Args:
      source: the checkpoint.
      runtime: execution choices.
      mesh: over which batches are spread; all devices if None. One of this
        process's devices alone embeds what the others need not know of.
      batch_size: rows at a time.
      texts: it must embed texts too; False takes an image tower alone.

    Raises:
      FileNotFoundError: naming the folder or file that is missing.
      ValueError: for a model without a text tower, a batch that does not divide
        over the mesh, or broken weights.
    """
    folder = folders.resolve(source)
    facts = registry.config_from_hf(folders.read_config(folder))
    model = registry.build(facts, runtime or Runtime(attention='xla'))
    if texts and not hasattr(model, 'encode_text'):
      raise ValueError(f'{source}: {facts.model_type} has no text tower')
    if not hasattr(model, 'encode_image'):
      raise ValueError(f'{source}: {facts.model_type} has no image tower')
    mesh = mesh or make_mesh({'data': -1, 'fsdp': 1})
    check_batch_size(mesh, batch_size)
    # A tower of images alone has no published settings of ours.
    picture = load_processor(folder) or processor_from_hf(folder)
    text = TextEncoder.load(folder, facts.text.context) if texts else None
    placed = rules.shardings(mesh, model.abstract_params)
    dtype = model.runtime.param_dtype
    params = load_params(folder, model, placed, dtype=dtype)
    return cls(model, params, picture, text, mesh, batch_size)

  @property
  def width(self) -> int:
    """E."""
    config = self.model.config
    return config.embedding if hasattr(config, 'embedding') else config.width

  def pictures(self, sources: Iterable[Any], *, skip: bool = False) -> Embedded:
    """Embeds pictures: anything that `image.open_image` takes.

    Args:
      sources: paths, encoded bytes, arrays or Pillow images.
      skip: leave out pictures that cannot be read, and say so in `bad`.

    Raises:
      BadRecord: naming the first such picture, without `skip`.
      ValueError: for an embedding that is not finite, naming the picture.
    """
    read = lambda source: {'pixels': self.picture(source)[0]}
    return self._embed('picture', sources, read, skip)

  def texts(self, texts: Iterable[str], *, skip: bool = False) -> Embedded:
    """Embeds texts, those too long without their last sentences.

    Takes and raises what `pictures` does.
    """
    read = lambda text: {'tokens': self.text(text)[0]}
    return self._embed('text', texts, read, skip)

  def _embed(self, what: str, things, read, skip: bool) -> Embedded:
    batches, kept, bad = [], [], []
    with ThreadPoolExecutor(READERS) as pool:

      def usable():
        for place, row in _read(pool, what, things, read):
          if not isinstance(row, BadRecord):
            kept.append(place)
            yield row
          elif skip:
            bad.append(row)
          else:
            raise row

      for rows in chunks(usable(), self.batch_size):
        batches.append(self._batch(rows))
        # The host is one batch ahead of the devices, not more.
        batches[:-1] = map(np.asarray, batches[:-1])
    found = self._in_order(batches)[: len(kept)]
    odd = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(odd):
      raise ValueError(
        f'the embedding of {what} {kept[odd[0]]} is not finite ({len(odd)} of '
        f'{len(found)} are not); the checkpoint is broken, or its numbers too '
        f'large for {self.model.runtime.dtype}'
      )
    return Embedded(found, np.array(kept, int), tuple(bad))

  def _batch(self, rows: list[dict[str, np.ndarray]]) -> jax.Array:
    """Vectors of up to `batch_size` rows, those of a process together."""
    own = share(filled(rows, self.batch_size), self.mesh)
    batch = {key: np.stack([row[key] for row in own]) for key in rows[0]}
    return self._run(self.params, to_global(batch, self.mesh))

  def _in_order(self, batches: list[Any]) -> np.ndarray:
    """All vectors in the order of their things; see `_batch`."""
    ordered = [in_order(np.asarray(batch), self.mesh) for batch in batches]
    return np.concatenate([np.zeros((0, self.width), np.float32), *ordered])

  @functools.cached_property
  def _run(self) -> Callable:
    def run(params, batch):
      with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
        if 'pixels' in batch:
          found = self.model.encode_image(params, batch['pixels'])
        else:
          found = self.model.encode_text(params, batch['tokens'])
        embedding = getattr(found, 'embedding', None)
        vectors = found.pooled if embedding is None else embedding
        return vectors.astype('float32')

    return jax.jit(run, out_shardings=NamedSharding(self.mesh, P()))


def pictures_in(folder: epath.PathLike) -> list[epath.Path]:
  """Paths of the pictures of a folder, by name.

  Raises:
    FileNotFoundError: when there are none.
  """
  paths = sorted(
    path
    for path in epath.Path(folder).iterdir()
    if path.name.lower().endswith(SUFFIXES)
  )
  if not paths:
    raise FileNotFoundError(
      f'{folder} has no picture; expected files ending in {SUFFIXES}'
    )
  return paths


def _read(pool, what: str, things, read) -> Iterator[tuple[int, Any]]:
  """(place, row or finding) of all things, read by several threads in order."""

  def careful(numbered):
    place, thing = numbered
    try:
      return place, read(thing)
    except BadRecord as bad:
      name = str(thing) if isinstance(thing, epath.PathLike | str) else ''
      where = f'{what} {place}' + (f' ({name})' if name else '')
      return place, bad.at(where)

  for chunk in chunks(enumerate(things), 4 * READERS):
    yield from pool.map(careful, chunk)
