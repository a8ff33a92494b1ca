"""Numbers that a model reads off pictures or prompts, in bulk.

See vlm/train/regression.py for how one is read, and how that is trained.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from data.chunks import chunks, filled, in_order, share
from data.examples import Encoder
from data.pack import RowSpec
from data.pairs import PairEncoder
from vlm.models.functional import Params
from vlm.sharding.batch import to_global

Example = Mapping[str, Any]
Encode = Callable[[Sequence[Example]], dict[str, Any]]


def encode_with(encoder: Encoder | PairEncoder, spec: RowSpec | None) -> Encode:
  """Examples to the arrays of a batch.

  Args:
    encoder: of prompts, or of pairs, whose texts are left out.
    spec: shape of the rows of prompts.

  Returns:
    encode(examples); each has 'images', and 'messages' for prompts.
  """
  if isinstance(encoder, Encoder):
    return lambda examples: encoder.prompts(examples, spec)
  picture = lambda example: encoder.picture(example['images'][0])[0]
  return lambda examples: {'pixels': np.stack([picture(e) for e in examples])}


@dataclasses.dataclass(frozen=True)
class Regressor:
  """A model with all that a number needs.

  Attributes:
    read: (params, batch) -> float32 [B], see `regression.reader`.
    params: of the model, on `mesh`.
    encode: see `encode_with`.
    mesh: rows of a batch are spread over it.
    batch_size: of all devices and processes together.
  """

  read: Callable[[Params, Any], jax.Array]
  params: Params
  encode: Encode
  mesh: jax.sharding.Mesh
  batch_size: int

  def __call__(
    self, examples: Iterable[Example]
  ) -> Iterator[tuple[Example, float]]:
    """Yields each example with its number, in their order.

    Raises:
      BadRecord: a prompt that is too long, a picture that cannot be shown.
    """
    for chunk in chunks(examples, self.batch_size):
      own = share(filled(chunk, self.batch_size))
      batch = to_global(self.encode(own), self.mesh)
      found = in_order(np.asarray(self._run(self.params, batch)))
      for example, number in zip(chunk, found, strict=False):
        yield example, float(number)

  @functools.cached_property
  def _run(self) -> Callable:
    def run(params, batch):
      with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
        return self.read(params, batch)

    return jax.jit(run, out_shardings=NamedSharding(self.mesh, P()))
