"""Conversations to token ids and an answer mask, without `transformers`.

The checkpoint's own jinja2 template renders the text, `tokenizers` encodes it,
and the mask marks what the assistant has to say: each answer and its
end-of-turn token. Image and video placeholders grow to the exact number of
visual tokens. Nothing is ever cut: a conversation that is too long is a bad
row.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from etils import epath

from data import records
from data.template import Message, Span, Template, message_texts
from data.visual import Expansion


@dataclasses.dataclass(frozen=True)
class Chat:
  """A tokenizer with its chat template.

  Attributes:
    tokenizer_json: contents of tokenizer.json.
    template: jinja2 source.
    placeholders: content type -> text of its placeholder token, for example
      {'image': '<|image_pad|>'}.
    variables: what the template may name besides messages: 'bos_token', ....
  """

  tokenizer_json: str
  template: str
  placeholders: Mapping[str, str] = dataclasses.field(default_factory=dict)
  variables: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for kind, text in self.placeholders.items():
      if self.tokenizer.token_to_id(text) is None:
        raise ValueError(
          f'the placeholder {text!r} for {kind} is not a token of the '
          'tokenizer; set data.placeholders'
        )

  @functools.cached_property
  def tokenizer(self) -> tokenizers.Tokenizer:
    """The tokenizer; made on first use, so that a `Chat` can be pickled."""
    return tokenizers.Tokenizer.from_str(self.tokenizer_json)

  def __getstate__(self) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(self)]
    return {name: getattr(self, name) for name in names}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)

  @functools.cached_property
  def placeholder_ids(self) -> tuple[int, ...]:
    """Ids of the placeholder tokens, for `RowSpec.placeholders`."""
    names = dict.fromkeys(self.placeholders.values())
    return tuple(self.tokenizer.token_to_id(text) for text in names)

  def encode(
    self, messages: Sequence[Message], expansions: Sequence[Expansion] = ()
  ) -> dict[str, np.ndarray]:
    """Encodes a conversation for training.

    Args:
      messages: {'role', 'content'}; content is a string or a list of
        {'type': 'text', 'text': ...}, {'type': 'image'}, {'type': 'video'}.
      expansions: what stands for each image and video, in order.

    Returns:
      tokens int32 [t], loss_mask float32 [t]: 1 on the tokens of assistant
      messages including their end of turn, 0 elsewhere.

    Raises:
      BadRecord: 'empty answer', or 'placeholder mismatch' when the text does
        not hold one placeholder for each image and video.
      ValueError: when the template drops or reorders what it is given.
    """
    answers = [m for m in messages if m['role'] == 'assistant']
    if not answers:
      raise records.BadRecord('empty answer', 'no assistant message')
    for message in answers:
      records.require_answer(''.join(message_texts(message)))
    text, spans = self._template.render_spans(messages, self._specials)
    text, spans = _rewritten(text, spans, expansions)
    ids, mask = self._tokenize(text, spans)
    return self._expand(ids, mask, expansions)

  def encode_prompt(
    self, messages: Sequence[Message], expansions: Sequence[Expansion] = ()
  ) -> np.ndarray:
    """Encodes a conversation that the assistant is to continue.

    Returns:
      int32 [t].
    """
    text = self.render(messages, add_generation_prompt=True)
    text, _ = _rewritten(text, [], expansions)
    ids, mask = self._tokenize(text, [])
    return self._expand(ids, mask, expansions)['tokens']

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of `ids` without special tokens."""
    return self.tokenizer.decode([int(i) for i in ids])

  def render(
    self, messages: Sequence[Message], add_generation_prompt: bool = False
  ) -> str:
    """Returns the template's text for a conversation."""
    return self._template.render(messages, add_generation_prompt)

  @functools.cached_property
  def _template(self) -> Template:
    return Template(self.template, self.placeholders, self.variables)

  @functools.cached_property
  def _specials(self) -> tuple[str, ...]:
    added = self.tokenizer.get_added_tokens_decoder().values()
    return tuple(token.content for token in added if token.special)

  def _tokenize(
    self, text: str, spans: Sequence[Span]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and, per token, whether it lies in a span."""
    encoded = self.tokenizer.encode(text, add_special_tokens=False)
    ids, offsets = np.array(encoded.ids, np.int32), np.array(encoded.offsets)
    offsets = offsets.reshape(-1, 2)
    mask = np.zeros(len(ids), np.float32)
    for start, end in spans:
      inside = (offsets[:, 0] >= start) & (offsets[:, 1] <= end)
      touching = (offsets[:, 0] < end) & (offsets[:, 1] > start)
      if np.any(touching & ~inside):
        return self._tokenize_pieces(text, spans)
      mask[inside & touching] = 1
    return ids, mask

  def _tokenize_pieces(self, text, spans) -> tuple[np.ndarray, np.ndarray]:
    """Encodes answers apart, where a token would straddle their border.

    A sampler encodes the prompt alone, so this is also what it will see.
    """
    cuts = [0, *(cut for span in spans for cut in span), len(text)]
    ids, mask = [], []
    for number, (start, end) in enumerate(itertools.pairwise(cuts)):
      piece = self.tokenizer.encode(text[start:end], add_special_tokens=False)
      ids += piece.ids
      mask += [number % 2] * len(piece.ids)
    return np.array(ids, np.int32), np.array(mask, np.float32)

  def is_placeholder(self, ids: np.ndarray) -> np.ndarray:
    """Where in [t] tokens a visual token stands, bool."""
    found = np.zeros(len(ids), bool)
    for name in self.placeholder_ids:  # np.isin is slower on a short row.
      found |= ids == name
    return found

  def _expand(self, ids, mask, expansions) -> dict[str, np.ndarray]:
    """Repeats each placeholder as often as it has visual tokens."""
    places = np.flatnonzero(self.is_placeholder(ids))
    counts = [count for e in expansions for count in e.counts]
    if len(places) != len(counts):
      raise records.BadRecord(
        'placeholder mismatch',
        f'{len(places)} placeholders in the text, {len(counts)} of '
        f'{len(expansions)} images or videos',
      )
    repeats = np.ones(len(ids), np.int64)
    repeats[places] = counts
    return {
      'tokens': np.repeat(ids, repeats),
      'loss_mask': np.repeat(mask, repeats),
    }


def _rewritten(
  text: str, spans: Sequence[Span], expansions: Sequence[Expansion]
) -> tuple[str, Sequence[Span]]:
  """The text with its images and videos written out, and its moved spans.

  Raises:
    BadRecord: when the text has no place for one of them.
  """
  if all(e.text == e.replaces for e in expansions):
    return text, spans
  pieces, cursor, cuts = [], 0, []
  for expansion in expansions:
    start = text.find(expansion.replaces, cursor)
    if start < 0:
      raise records.BadRecord(
        'placeholder mismatch',
        f'the text has no {expansion.replaces!r} for one of '
        f'{len(expansions)} images or videos',
      )
    pieces += [text[cursor:start], expansion.text]
    cursor = start + len(expansion.replaces)
    cuts.append((cursor, len(expansion.text) - len(expansion.replaces)))
  moved = lambda at: at + sum(grown for end, grown in cuts if end <= at)
  return ''.join([*pieces, text[cursor:]]), [
    (moved(start), moved(end)) for start, end in spans
  ]


def load_chat(
  directory: epath.PathLike, placeholders: Mapping[str, str] | None = None
) -> Chat:
  """Loads tokenizer and template of a checkpoint directory.

  Reads tokenizer.json, the template from chat_template.jinja,
  chat_template.json or tokenizer_config.json, and the names of special tokens
  from tokenizer_config.json.

  Raises:
    FileNotFoundError: when there is no tokenizer or no template.
  """
  directory = epath.Path(directory)
  tokenizer = directory / 'tokenizer.json'
  if not tokenizer.exists():
    raise FileNotFoundError(
      f'no tokenizer.json in {directory}; set --config.model.init_from'
    )
  config = _read_json(directory / 'tokenizer_config.json')
  template = config.get('chat_template')
  if (directory / 'chat_template.json').exists():
    template = _read_json(directory / 'chat_template.json')['chat_template']
  if (directory / 'chat_template.jinja').exists():
    template = (directory / 'chat_template.jinja').read_text()
  if isinstance(template, list):
    named = {entry['name']: entry['template'] for entry in template}
    template = named.get('default')
  if not template:
    raise FileNotFoundError(
      f'no chat template in {directory}: expected chat_template.jinja, '
      'chat_template.json, or chat_template in tokenizer_config.json'
    )
  return Chat(
    tokenizer.read_text(), template, placeholders or {}, _variables(config)
  )


def _read_json(path: epath.Path) -> dict[str, Any]:
  return json.loads(path.read_text()) if path.exists() else {}


def _variables(config: Mapping[str, Any]) -> dict[str, str]:
  variables = {}
  for name, value in config.items():
    if name.endswith('_token') and isinstance(value, str | dict):
      variables[name] = value if isinstance(value, str) else value['content']
  return variables


def char_tokenizer(
  alphabet: Sequence[str], specials: Sequence[str]
) -> tokenizers.Tokenizer:
  """Builds a tokenizer over characters and small words.

  Ids are the specials in order, then the alphabet in order; the first special
  is 0 and serves as padding. Where several units match, the longest wins. Text
  outside the alphabet is an error. Save it with `tokenizer.save(path)`.

  Raises:
    ValueError: when a unit is empty or appears twice.
  """
  units = [*specials, *alphabet]
  if '' in units or len(set(units)) < len(units):
    raise ValueError(
      f'units must be distinct and not empty, got {sorted(units)}'
    )
  vocab = {unit: number for number, unit in enumerate(units)}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, '<unk>'))
  longest_first = sorted(alphabet, key=len, reverse=True)
  pattern = '|'.join(_escape(unit) for unit in longest_first)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(
    tokenizers.Regex(pattern), 'isolated'
  )
  tokenizer.decoder = tokenizers.decoders.Fuse()
  tokenizer.add_special_tokens(
    [
      tokenizers.AddedToken(unit, special=True, normalized=False)
      for unit in specials
    ]
  )
  return tokenizer


def _escape(text: str) -> str:
  return ''.join(c if c.isalnum() else f'\\x{{{ord(c):x}}}' for c in text)
