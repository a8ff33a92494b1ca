"""A checkpoint's jinja2 chat template, and where in its text the answers are.

Templates are code from the outside: they run in jinja2's sandbox, with the
environment that `transformers` documents for them (trim_blocks, lstrip_blocks,
loop controls, `raise_exception`, `strftime_now`, `tojson`, the generation tag).
"""

import dataclasses
import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

from data import records

Message = Mapping[str, Any]
Span = tuple[int, int]

# Unicode noncharacters: no text holds them, so they can mark what a template
# puts between {% generation %} and {% endgeneration %}.
_OPEN, _CLOSE = '\ufdd0', '\ufdd1'


class _Generation(jinja2.ext.Extension):
  """Reads the tag with which templates mark the assistant's tokens."""

  tags = {'generation'}

  def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
    line = next(parser.stream).lineno
    body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
    call = self.call_method('_mark')
    return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

  def _mark(self, caller) -> str:
    return f'{_OPEN}{caller()}{_CLOSE}'


def _raise_exception(message: str) -> None:
  raise jinja2.TemplateError(message)


def _tojson(value: Any, indent: int | None = None) -> str:
  # jinja2's own filter escapes for HTML.
  return json.dumps(value, ensure_ascii=False, indent=indent)


@functools.lru_cache
def _compile(template: str) -> jinja2.Template:
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[jinja2.ext.loopcontrols, _Generation],
  )
  environment.filters['tojson'] = _tojson
  environment.globals['raise_exception'] = _raise_exception
  environment.globals['strftime_now'] = lambda form: (
    datetime.datetime.now().strftime(form)
  )
  return environment.from_string(template)


@dataclasses.dataclass(frozen=True)
class Template:
  """A chat template with what it may refer to.

  Attributes:
    source: jinja2 text.
    placeholders: content type -> text that stands for it, used where the
      template reads strings only.
    variables: names besides messages: 'bos_token', ....
  """

  source: str
  placeholders: Mapping[str, str] = dataclasses.field(default_factory=dict)
  variables: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def render(
    self, messages: Sequence[Message], add_generation_prompt: bool = False
  ) -> str:
    """Returns the text of a conversation.

    Raises:
      ValueError: when the template refuses the conversation or drops a text.
    """
    marked = self._render_marked(messages, add_generation_prompt)
    return marked.replace(_OPEN, '').replace(_CLOSE, '')

  def render_spans(
    self, messages: Sequence[Message], specials: tuple[str, ...]
  ) -> tuple[str, list[Span]]:
    """Returns the text and the character spans of the assistant's turns.

    Args:
      messages: the conversation.
      specials: special tokens, among them the one that ends a turn.

    Raises:
      ValueError: when the template has no {% generation %} tag and the text of
        the first messages is not a prefix of the text of all of them, so that
        the answers cannot be located.
    """
    marked = self._render_marked(messages, False)
    if _OPEN in marked:
      text, spans = _split_marks(marked)
    else:
      text, spans = marked, self._spans_by_prefix(messages, marked)
    by_tag = _OPEN in marked
    return text, [_fit_turn(text, s, specials, by_tag) for s in spans]

  def _render_marked(self, messages, add_generation_prompt: bool) -> str:
    shaped = [self._shape(message) for message in messages]
    try:
      text = _compile(self.source).render(
        messages=shaped,
        add_generation_prompt=add_generation_prompt,
        **self.variables,
      )
    except jinja2.TemplateError as error:
      raise ValueError(
        f'the chat template refused the conversation '
        f'{[m["role"] for m in messages]}: {error}'
      ) from error
    for number, message in enumerate(messages):
      for part in message_texts(message):
        if part.strip() not in text:
          raise ValueError(
            f'the chat template dropped or changed the text of message '
            f'{number} ({message["role"]}): {part!r}'
          )
    return text

  def _spans_by_prefix(self, messages, text: str) -> list[Span]:
    spans = []
    for number, message in enumerate(messages):
      if message['role'] != 'assistant':
        continue
      prompt = self.render(messages[:number], add_generation_prompt=True)
      turn = self.render(messages[: number + 1])
      if not (turn.startswith(prompt) and text.startswith(turn)):
        raise ValueError(
          f'the chat template is not prefix-stable at message {number}: the '
          f'prompt ends with {prompt[-40:]!r}, the conversation reads '
          f'{text[max(len(prompt) - 40, 0) : len(prompt) + 20]!r} there. Mark '
          'the answers in the template with {% generation %}'
        )
      spans.append((len(prompt), len(turn)))
    return spans

  @functools.cached_property
  def _accepts(self) -> tuple[bool, bool]:
    """Whether the template prints contents that are strings, and lists."""
    found = []
    for content in ('probe', [{'type': 'text', 'text': 'probe'}]):
      messages = [{'role': 'user', 'content': content}]
      try:
        text = _compile(self.source).render(
          messages=messages, add_generation_prompt=False, **self.variables
        )
      except (jinja2.TemplateError, TypeError):
        text = ''
      found.append('probe' in text and "'probe'" not in text)
    return tuple(found)

  def _shape(self, message: Message) -> dict[str, Any]:
    """Gives a message's content the form that the template can read."""
    strings, lists = self._accepts
    content = message['content']
    if isinstance(content, str) and not strings and lists:
      content = [{'type': 'text', 'text': content}]
    elif not isinstance(content, str) and strings and not lists:
      content = ''.join(
        part['text']
        if part['type'] == 'text'
        else self.placeholders[part['type']]
        for part in content
      )
    return {**message, 'content': content}


def _fit_turn(
  text: str, span: Span, specials: tuple[str, ...], marked: bool
) -> Span:
  """Makes a turn end with its end-of-turn token.

  Templates write a newline after that token, which nobody has to predict,
  and {% generation %} blocks often leave the token out.
  """
  start, end = span
  stripped = start + len(text[start:end].rstrip())
  if text.endswith(specials, start, stripped):
    return start, stripped
  following = [s for s in specials if text.startswith(s, end)]
  if marked and following:
    return start, end + max(map(len, following))
  return span


def _split_marks(marked: str) -> tuple[str, list[Span]]:
  text, spans = '', []
  for piece in marked.split(_OPEN):
    inside, closed, outside = piece.partition(_CLOSE)
    if closed:
      spans.append((len(text), len(text) + len(inside)))
    text += inside + outside
  return text, spans


def message_texts(message: Message) -> list[Any]:
  """Returns the text parts of a message's content.

  Raises:
    BadRecord: 'wrong type' when the content is neither a string nor a list of
      typed parts.
  """
  content = message['content']
  if isinstance(content, str):
    return [content]
  if not isinstance(content, list | tuple):
    raise records.BadRecord(
      'wrong type',
      f'content of a {message["role"]} message is {type(content).__name__}, '
      'expected a string or a list',
    )
  texts = []
  for part in content:
    kind = part.get('type') if isinstance(part, Mapping) else None
    if kind == 'text' and isinstance(part.get('text'), str):
      texts.append(part['text'])
    elif kind in (None, 'text'):
      raise records.BadRecord(
        'wrong type',
        f'part {part!r} of a {message["role"]} message, expected '
        "{'type': 'text', 'text': str}, {'type': 'image'} or a like",
      )
  return texts
