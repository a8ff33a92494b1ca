"""Vision-language models in JAX: `vlm.load`, and the rooms below.

import vlm
assistant = vlm.load('Qwen/Qwen2.5-VL-3B-Instruct')
print(assistant.ask('What is on the table?', ['kitchen.jpg']))
"""

from typing import Any


def load(
  source: Any,
  runtime: Any = None,
  mesh: Any = None,
  visual_transform: Any = None,
) -> Any:
  """A published checkpoint with everything an answer needs, in one call.

  Args:
    source: an HF-style folder, local or gs://, or a hub id.
    runtime: a `vlm.models.functional.Runtime`; dtypes by the machine if None.
    mesh: shards the parameters over a `vlm.sharding.mesh.make_mesh`.
    visual_transform: leaves out video tokens, e.g. `FlashVID(retention=0.1)` of
      `vlm.methods.flashvid`.

  Returns:
    A `data.assistant.Assistant`: `model`, `params`, `processor`, `chat`, and
    `ask` and `stream`.

  Raises:
    FileNotFoundError: naming the folder or file that is missing.
    ValueError: for an architecture we do not have, or broken weights.
  """
  # The front door opens onto the floor above; nothing else here does.
  from data.assistant import Assistant

  return Assistant.load(source, runtime, mesh, visual_transform)
