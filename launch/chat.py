r"""Asks a checkpoint one question and prints its greedy answer.

  python -m launch.chat --model=DIR --prompt="What is the capital of France?"
  python -m launch.chat --model=DIR --image=kitchen.jpg \
    --prompt="What is on the table?"

DIR is an HF-style folder: config.json, safetensors, tokenizer.json and a chat
template. `launch.convert` makes one from a GGUF file.
"""

from absl import app, flags

from data.assistant import Assistant
from data.image import open_image

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  flags.DEFINE_string('model', None, 'The checkpoint folder.', required=True)
  flags.DEFINE_string('prompt', None, 'What to ask.', required=True)
  flags.DEFINE_multi_string('image', [], 'Pictures to ask about.')
  flags.DEFINE_integer('max_new_tokens', 64, 'Longest answer.', lower_bound=1)


def main(argv: list[str]) -> None:
  """Loads, asks, prints."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}; quote the prompt')
  assistant = Assistant.load(FLAGS.model)
  images = [open_image(path) for path in FLAGS.image]
  print(assistant.ask(FLAGS.prompt, images, FLAGS.max_new_tokens))


def run() -> None:
  """Entry point."""
  define_flags()
  app.run(main)


if __name__ == '__main__':
  run()
