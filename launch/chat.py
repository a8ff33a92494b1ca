r"""Talks with a checkpoint about pictures and videos; answers as they come.

  python -m launch.chat --model=Qwen/Qwen2.5-VL-3B-Instruct \
    --image=kitchen.jpg --prompt="What is on the table?"
  python -m launch.chat --model=DIR --video=walk.mp4 --flashvid.retention=0.1

--model is an HF-style folder (local or gs://) or a hub id. Without --prompt it
reads turns from the terminal until an empty line or Ctrl-D; `/image PATH` and
`/video PATH` show something before the next turn, `/reset` forgets. Images may
be folders: their pictures are shown in the order of their names.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from absl import app, flags
from etils import epath

from data.assistant import Assistant, user_turn
from data.image import open_image
from data.records import BadRecord
from data.video import open_video
from launch import reduction

FLAGS = flags.FLAGS
PICTURES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff')


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  flags.DEFINE_string('model', None, 'Folder or hub id.', required=True)
  flags.DEFINE_multi_string('prompt', [], 'Turns; asked for when there is none')
  flags.DEFINE_multi_string('image', [], 'Pictures, or folders of them.')
  flags.DEFINE_multi_string('video', [], 'Videos.')
  flags.DEFINE_integer('frames', 0, "Of each video; 0: the checkpoint's rule.")
  flags.DEFINE_integer('max_new_tokens', 256, 'Longest answer.', lower_bound=1)
  flags.DEFINE_float('temperature', 0.0, '0 is greedy.', lower_bound=0.0)
  flags.DEFINE_float('top_p', 1.0, 'Nucleus sampling.')
  flags.DEFINE_integer('seed', 0, 'Of the draws.')
  reduction.define_flags()


class Conversation:
  """Turns and what was shown in them.

  Args:
    assistant: who answers.
    sampling: as of `Assistant.stream`.
  """

  def __init__(self, assistant: Assistant, **sampling: Any):
    self._assistant, self._sampling = assistant, sampling
    self.reset()

  def reset(self) -> None:
    """Forgets everything."""
    self.messages: list[dict[str, Any]] = []
    self._shown: list[Any] = []
    self._next: list[Any] = []

  def show(self, item: Any) -> None:
    """Shows a picture or a video's frames with the next turn."""
    self._next.append(item)

  def say(self, text: str) -> Iterator[str]:
    """The answer to a turn, piece by piece."""
    turn = user_turn(text, self._next)
    shown = [*self._shown, *self._next]
    messages, answer = [*self.messages, turn], ''
    for piece in self._assistant.stream(messages, shown, **self._sampling):
      answer += piece
      yield piece
    # Only now: a turn that failed can be said again.
    self._shown, self._next = shown, []
    self.messages = [*messages, {'role': 'assistant', 'content': answer}]


def pictures_of(path: str) -> list[epath.Path]:
  """A picture, or the pictures of a folder by name.

  Raises:
    BadRecord: a folder without pictures.
  """
  place = epath.Path(path)
  if not place.is_dir():
    return [place]
  found = sorted(p for p in place.iterdir() if p.suffix.lower() in PICTURES)
  if not found:
    raise BadRecord('missing image', f'{path} holds no picture {PICTURES}')
  return found


def talk(
  conversation: Conversation,
  read: Callable[[], str],
  show: Callable[[str, str], None],
  write: Callable[[str], None],
) -> None:
  """Reads turns and commands until an empty line, writes the answers."""
  while turn := read().strip():
    command, _, rest = turn.partition(' ')
    try:
      if command == '/reset':
        conversation.reset()
      elif command in ('/image', '/video'):
        show(command[1:], rest.strip())
      else:
        _answer(conversation, turn, write)
    except (BadRecord, ValueError) as error:
      write(f'{_sentence(error)}\n')


def _sentence(error: Exception) -> str:
  if isinstance(error, BadRecord):
    return f'{error.reason}: {error.detail}'
  return str(error)


def _answer(conversation, turn: str, write: Callable[[str], None]) -> None:
  for piece in conversation.say(turn):
    write(piece)
  write('\n')


def _write(text: str) -> None:
  sys.stdout.write(text)
  sys.stdout.flush()


def _read() -> str:
  try:
    return input('> ')
  except EOFError:
    return ''


def main(argv: list[str]) -> None:
  """Loads, shows, answers."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}; quote the prompt')
  try:
    _run()
  except (BadRecord, FileNotFoundError, ValueError) as error:
    sys.exit(f'launch.chat: {_sentence(error)}')


def _run() -> None:
  settings = reduction.from_flags()
  assistant = Assistant.load(FLAGS.model, visual_transform=settings)
  conversation = Conversation(
    assistant,
    max_new_tokens=FLAGS.max_new_tokens,
    temperature=FLAGS.temperature,
    top_p=FLAGS.top_p,
    seed=FLAGS.seed,
  )

  def show(kind: str, path: str) -> None:
    if kind == 'video':
      opened = [open_video(path, assistant.processor, FLAGS.frames)]
    else:
      opened = [open_image(place) for place in pictures_of(path)]
    for item in opened:
      conversation.show(item)

  for kind in ('image', 'video'):
    for path in getattr(FLAGS, kind):
      show(kind, path)
  for turn in FLAGS.prompt:
    _answer(conversation, turn, _write)
  if not FLAGS.prompt:
    talk(conversation, _read, show, _write)


def run() -> None:
  """Entry point."""
  define_flags()
  app.run(main)


if __name__ == '__main__':
  run()
