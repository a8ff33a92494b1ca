"""The flags `--flashvid.*`: fewer video tokens, in chat, evaluation, training.

  --flashvid.retention=0.1 --flashvid.mode=official

Retention is the share of a video's tokens that a decoder layer sees on average;
1, the default, is no reduction. The other fields are those of
`vlm.methods.flashvid.FlashVID`.
"""

from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments.common import flashvid_fields
from vlm.methods.flashvid import FlashVID
from vlm.methods.flashvid.transform import VideoReduction


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines `--flashvid.FIELD`."""
  fields = ConfigDict(flashvid_fields())
  config_flags.DEFINE_config_dict('flashvid', fields, flag_values=values)


def from_flags() -> FlashVID | None:
  """What the flags ask for; None for no reduction.

  Raises:
    ValueError: naming the field that is out of range.
  """
  return flashvid_of(flags.FLAGS.flashvid)


def flashvid_of(config: Any) -> FlashVID | None:
  """The settings in a config; None for no reduction."""
  settings = FlashVID(**dict(config))
  return None if settings.retention == 1 else settings


def transforms_of(config: Any) -> tuple[VideoReduction, ...]:
  """What a model of these settings gets."""
  settings = flashvid_of(config)
  return () if settings is None else (VideoReduction(settings),)


def update(config: ConfigDict, values: flags.FlagValues = flags.FLAGS) -> None:
  """Writes what the flags say over `config.flashvid`."""
  for name, value in values.flashvid.items():
    # Only a field that stands on the command line is a flag of its own.
    if f'flashvid.{name}' in values:
      config.flashvid[name] = value
