"""The flags `--flashvid.*`: fewer video tokens, in chat, evaluation, training.

  --flashvid.retention=0.1 --flashvid.mode=official

Retention is the share of a video's tokens that a decoder layer sees on average;
1, the default, is no reduction. The other fields are those of
`vlm.methods.flashvid.FlashVID`.
"""

import dataclasses
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from vlm.methods.flashvid import FlashVID
from vlm.methods.flashvid.transform import VideoReduction


def defaults() -> ConfigDict:
  """Every field of `FlashVID`, at its default, and no reduction."""
  config = ConfigDict(dataclasses.asdict(FlashVID(retention=1.0)))
  # Fields that may be None keep their type when a flag sets them.
  config = ConfigDict(config, type_safe=False)
  return config


def define_flags() -> None:
  """Defines `--flashvid.FIELD`."""
  config_flags.DEFINE_config_dict('flashvid', defaults())


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


def update(config: ConfigDict) -> None:
  """Writes what the flags say over `config.flashvid`."""
  said, usual = flags.FLAGS.flashvid, defaults()
  for name, value in said.items():
    if value != usual[name]:
      config.flashvid[name] = value
