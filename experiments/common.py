"""What every experiment file shares: its argument, and the default fields."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict, config_dict

from vlm.methods.flashvid import FlashVID
from vlm.models.lora import Lora


def parse_arg(arg: str | None, sizes: tuple[str, ...], **defaults: Any):
  """Parses the part of `--config=file.py:ARG` after the colon.

  'tiny,arm=marker,seed=2' -> size 'tiny' and the named options; an option
  takes the type of its default.

  Args:
    arg: the text, or None for the first size.
    sizes: allowed sizes, the default first.
    **defaults: allowed options and their defaults.

  Returns:
    A ConfigDict with `size` and one field per option.

  Raises:
    ValueError: for an unknown size or option, with the allowed ones.
  """
  options = ConfigDict({'size': sizes[0], **defaults})
  for part in filter(None, (arg or '').split(',')):
    name, equals, value = part.partition('=')
    if not equals:
      name, value = 'size', part
    if name not in options or (name == 'size' and value not in sizes):
      raise ValueError(
        f'--config=...:{arg}: {part!r} is not known; sizes {list(sizes)}, '
        f'options {defaults}'
      )
    kind = type(options[name])
    options[name] = value == 'True' if kind is bool else kind(value)
  return options


def flashvid_fields() -> dict[str, Any]:
  """Every field of `FlashVID` at its default, with nothing left out."""
  fields = dataclasses.asdict(FlashVID(retention=1.0))
  # A flag needs the type of a field that is None.
  return fields | {'layer': config_dict.placeholder(int)}


def contrastive_fields() -> dict[str, Any]:
  """What `config.objective='contrastive'` reads beside the base config."""
  return {
    'loss': 'softmax',  # or 'sigmoid' (vlm/losses/contrastive.py)
    'share_equal': False,  # rows of equal texts are each other's positives
    'max_scale': 100.0,  # largest inverse temperature
    'block': 1024,  # a side of the largest tile of logits on a device
    'texts': 0,  # a row's first texts, of which one is drawn; 0: of all
    'protocol': 'all',  # of evaluation, see vlm/metrics/retrieval.py
  }


def _data_fields() -> dict[str, Any]:
  return {
    'path': '',
    'images': '',  # folder that image paths of the rows are relative to
    'frames': 0,  # of each video; 0 leaves it to the checkpoint's processor
    'seq_len': 64,
    'units': 1,  # tiles or patches of a row; 0 for text alone
    'visual_tokens': 0,
    # (videos, temporal units, tokens of a unit) of a row, for flashvid
    'clips': (),
    'points': 0,  # taps of a visual token; 0: as many as need be
    'buckets': (),  # ((seq_len, units, visual_tokens), ...) instead of one
    'packing': False,  # several samples per row
    'workers': 0,
    'shuffle': True,
    'epochs': 0,  # 0 repeats for ever
    'on_bad': 'raise',
    'max_bad_share': 0.01,
    'log_draws': False,  # every sample's draws, in workdir/draws-*.jsonl
  }


def _rl_fields() -> dict[str, Any]:
  """Of the objective 'grpo', whose batch_size counts prompts."""
  return {
    'group': 8,  # completions of a prompt
    'new_tokens': 256,  # longest completion, its EOS included
    'temperature': 1.0,
    'updates': 1,  # steps made with a batch of completions
    'ahead': False,  # completions are drawn one batch ahead of their step
    'rounds': 0,  # batches of prompts that may replace groups of equal rewards
    'normalise': 'group_std',  # of advantages, or 'none' (Dr.GRPO)
    'ratio': 'token',  # or 'sequence' (GSPO)
    'reduction': 'sequence',  # or 'token' (DAPO), or 'constant' (Dr.GRPO)
    'clip_low': 0.2,
    'clip_high': 0.2,
    'beta': 0.0,  # of the divergence from the first parameters; 0 needs none
    'drift_bound': 0.02,  # nats between sampler and trainer, then corrected
    'drift_cap': 2.0,  # largest weight of that correction
    'reward_seconds': 10.0,  # that a reward may take
    'reward_threads': 8,
    'table_every': 100,  # steps between two tables of samples; 0 writes none
  }


def base_config() -> ConfigDict:
  """The fields `launch.train` reads, with their neutral values."""
  return ConfigDict(
    {
      'seed': 0,
      'workdir': 'runs/unnamed',
      'task': '',  # module of the experiment's task, see experiments/task.py
      'objective': 'sft',  # a row of launch/objectives/registry.py
      # Workdir of a run whose last parameters this one starts from.
      'init_from': '',
      'steps': 1000,
      'batch_size': 64,  # of all devices and processes together
      'accumulate': 1,
      'loss_chunk': 512,  # positions whose logits exist at one time
      'log_every': 50,
      'model': {
        'preset': '',  # facts of a published checkpoint, vlm.models.registry
        'init_from': '',  # folder or gs:// path of safetensors to start from
        'vision': {},  # facts of a small model made here
        'decoder': {},
        'video_pool': 2,  # stride of that model's frames; 1 leaves them
        'init_scale': (),  # ((regex of paths, factor), ...) of a fresh draw
        # Adapters (vlm/models/lora.py), which are then all that is trained;
        # rank 0: none.
        'lora': {'rank': 0, 'alpha': Lora.alpha, 'targets': Lora.targets},
      },
      'runtime': {
        'dtype': 'float32',
        'param_dtype': 'float32',
        'remat': 'none',
        'attention': 'auto',
        'unroll': False,
      },
      'mesh': {'data': 1, 'fsdp': -1, 'tensor': 1, 'dcn_data': 1},
      'optimizer': {
        'kind': 'adam',  # or 'muon'
        'lr': 1e-3,
        'schedule': 'cosine',
        'warmup': 0,
        'weight_decay': 0.0,
        'clip': 1.0,
        'b1': 0.9,
        'b2': 0.999,
        'rules': (),
        'ema': 0.0,
      },
      'checkpoint': {
        'every': 0,
        'keep_last': 2,
        'keep_best': '',
        'keep_best_mode': 'max',
        'save_on_preemption': True,
      },
      # Video tokens left out (vlm/methods/flashvid); retention 1: none.
      'flashvid': flashvid_fields(),
      # Slices of launch.compile --table, and what changes with their chips:
      # (('v5e:8x8', {'accumulate': 20}), ...).
      'slices': (),
      'table': 'README.md',  # where launch.compile --table writes
      'eval': {'every': 0, 'batch_size': 64, 'max_new_tokens': 64},
      'rollout': {  # sampling; every row of the batch is a prompt
        'rows': 64,
        'samples': 1,
        'new_tokens': 256,
        'mesh': {'data': -1, 'fsdp': 1, 'tensor': 1, 'dcn_data': 1},
      },
      'rl': _rl_fields(),
      'data': _data_fields(),
    }
  )
