"""Ask a published checkpoint a question, in three lines.

assistant = vlm.load('Qwen/Qwen2.5-VL-3B-Instruct')
picture = open_image('kitchen.jpg')
print(assistant.ask('What is on the table?', [picture]))
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from data import pack, videos
from data.chat import Chat
from data.checkpoint import eos_ids, load_chat_of, load_processor
from data.examples import Encoder, is_video, left_padded
from data.processors.limits import unshrinking
from data.visual import Processor
from vlm.convert import folder as folders
from vlm.convert.reader import load_params
from vlm.methods.depthlm import facts as depth_facts
from vlm.methods.depthlm.settings import SampleSettings
from vlm.methods.flashvid.transform import VideoReduction
from vlm.models import lora, registry
from vlm.models.functional import Params, Runtime
from vlm.rollout import stream
from vlm.rollout.settings import Buckets, Sampling
from vlm.sharding import rules

# Prompts are padded to a multiple of this, so that a conversation compiles a
# few shapes instead of one per length.
BUCKET = 128
# Tokens of a prompt; every published model here was trained on as many.
LONGEST = 32_768
# Pixels of a side up to which a DepthLM's pictures keep their size.
DEPTH_SIDE = 4096

Message = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Assistant:
  """A checkpoint with everything an answer needs.

  Attributes:
    model: from `registry.build`.
    params: its parameters.
    chat: its tokenizer and template.
    processor: how it wants its pictures; None if it only reads.
    stop: ids that end an answer.
    mesh: where the parameters lie; None for one device.
    depth: how a DepthLM was trained (its depthlm.json); None for other models.
  """

  model: Any
  params: Params
  chat: Chat
  processor: Processor | None
  stop: tuple[int, ...]
  mesh: jax.sharding.Mesh | None = None
  depth: SampleSettings | None = None

  @classmethod
  def load(
    cls,
    source: epath.PathLike,
    runtime: Runtime | None = None,
    mesh: jax.sharding.Mesh | None = None,
    visual_transform: Any = None,
  ) -> 'Assistant':
    """Loads config, safetensors, tokenizer, template and processor.

    Args:
      source: an HF-style folder, local or gs://, or a hub id.
      runtime: bfloat16 on an accelerator and float32 on a CPU by default; with
        `lora`, fresh adapters lie beside the published kernels.
      mesh: shards the parameters by `vlm.sharding.rules`.
      visual_transform: what is left of a video's tokens: `FlashVID` or one of
        its peers, or any `vlm.models.visual.VisualTransform`.

    Raises:
      FileNotFoundError: naming the folder or file that is missing.
      ValueError: for an architecture we do not have, or broken weights.
    """
    folder = folders.resolve(source)
    config = folders.read_config(folder)
    facts = registry.config_from_hf(config)
    chat = load_chat_of(folder)  # Before the weights: it fails faster.
    processor = load_processor(folder)
    stop = eos_ids(folder, config, chat)
    depth = depth_facts.read(folder)
    if depth is not None:
      processor = unshrinking(processor, DEPTH_SIDE)
    runtime = runtime or _usual_runtime()
    transforms = (
      () if visual_transform is None else (as_transform(visual_transform),)
    )
    # Before the weights: a setting may not suit the model.
    model = registry.build(facts, runtime, transforms)
    if transforms:
      processor = videos.by_frames(processor)
    params = _load_params(folder, facts, runtime, mesh)
    return cls(model, params, chat, processor, stop, mesh, depth)

  def ask(
    self,
    question: str,
    images: Sequence[Any] = (),
    max_new_tokens: int = 128,
    **sampling: Any,
  ) -> str:
    """One user turn, answered greedily unless `sampling` says otherwise.

    Args:
      question: the user's words.
      images: what `Encoder` takes: pictures, paths, lists of frames.
      max_new_tokens: longest answer.
      **sampling: `temperature`, `top_p`, ... of `Sampling`, and `seed`.

    Returns:
      The answer without special tokens.

    Raises:
      ValueError: pictures for a model that reads only text.
      BadRecord: a picture that cannot be shown.
    """
    messages = [user_turn(question, images)]
    pieces = self.stream(messages, images, max_new_tokens, **sampling)
    return ''.join(pieces).strip()

  def stream(
    self,
    messages: Sequence[Message],
    images: Sequence[Any] = (),
    max_new_tokens: int = 128,
    seed: int = 0,
    **sampling: Any,
  ) -> Iterator[str]:
    """Yields the next turn of a conversation piece by piece.

    Args:
      messages: turns so far, the user's last; see `user_turn`.
      images: of all turns, in their order.
      max_new_tokens: longest answer.
      seed: of the draws, where temperature > 0.
      **sampling: see `ask`.
    """
    if images and self.processor is None:
      raise ValueError(f'{self.model.config.model_type} reads text only')
    prompt = self.prompt({'messages': messages, 'images': list(images)})
    sampling = {'temperature': 0} | sampling
    with self._on_mesh():
      yield from stream.stream(
        self.model,
        self.params,
        prompt,
        Sampling(max_new_tokens, self.stop, **sampling),
        detokenize=self.chat.decode,
        seed=seed,
        buckets=Buckets(prompt=(prompt['tokens'].shape[1],)),
      )

  def prompt(self, example: dict[str, Any]) -> dict[str, Any]:
    """The batch of one prompt, in the smallest of few static shapes."""
    return self.prompts([example])

  def prompts(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The batch of several prompts, as rows that end together.

    Raises:
      BadRecord: a picture that cannot be shown.
      ValueError: a prompt that is too long.
    """
    encoder = self.encoder
    samples = [encoder.prompt(example) for example in examples]
    return left_padded(samples, self.row(samples))

  @property
  def encoder(self) -> Encoder:
    """What makes samples of examples."""
    marked = bool(self.model.transforms)
    return Encoder(self.chat, self.processor, mark_videos=marked)

  def row(self, samples: Sequence[pack.Sample]) -> pack.RowSpec:
    """The smallest of few static shapes that holds each of the samples.

    Raises:
      ValueError: a prompt that is too long.
    """
    sizes = np.array([pack.sample_size(sample) for sample in samples])
    tokens, units, visual = (int(size) for size in sizes.max(axis=0))
    seen = [videos.frames_of(sample) for sample in samples]
    clips = videos.spec_of(seen, self.model)
    lost = 0
    if clips is not None:
      each = [clips.lost_of(videos.sizes(frames)) for frames in seen]
      tokens, lost = int((sizes[:, 0] - each).max()), clips.lost
    if tokens > LONGEST:
      raise ValueError(
        f'the prompt has {tokens:,} tokens, {visual:,} of them visual; at most '
        f'{LONGEST:,} fit: show fewer frames (--frames), smaller pictures, or '
        'fewer tokens of a video (--flashvid.retention)'
      )
    rounded = lambda size: size + -size % BUCKET
    tokens = rounded(tokens) + lost
    if not units:
      return pack.RowSpec(tokens)
    tiles = any(s['pixels'].ndim > 2 for s in samples if 'pixels' in s)
    return self.processor.row(
      units if tiles else rounded(units),
      seq_len=tokens,
      visual=rounded(visual),
      placeholders=self.chat.placeholder_ids,
      clips=clips,
    )

  def _on_mesh(self):
    if self.mesh is None:
      return contextlib.nullcontext()
    return jax.set_mesh(self.mesh)


def as_transform(given: Any) -> Any:
  """A reducer of video tokens as a transform; a transform as it is."""
  return VideoReduction(given) if hasattr(given, 'reduce') else given


def user_turn(text: str, images: Sequence[Any] = ()) -> Message:
  """A user's message: its pictures, then its words."""
  if not images:
    return {'role': 'user', 'content': text}
  parts = [{'type': 'video' if is_video(i) else 'image'} for i in images]
  return {'role': 'user', 'content': [*parts, {'type': 'text', 'text': text}]}


def _usual_runtime() -> Runtime:
  low = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
  return Runtime(dtype=low, param_dtype=low)


def _load_params(folder, facts, runtime: Runtime, mesh) -> Params:
  base = registry.build(facts, dataclasses.replace(runtime, lora=None))
  place = lambda model: mesh and rules.shardings(mesh, model.abstract_params)
  params = load_params(folder, base, place(base))
  if runtime.lora is None:
    return params
  model = registry.build(facts, runtime)
  return lora.overlay(params, lora.draw(model, jax.random.key(0), place(model)))
