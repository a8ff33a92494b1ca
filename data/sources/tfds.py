"""TensorFlow Datasets as random-access sources, without TensorFlow."""

from typing import Any

import tensorflow_datasets as tfds


class TfdsSource:
  """Rows of a prepared TFDS data set in the array_record format.

  Images stay encoded bytes, so that all corpora share one decoder, and texts
  become str.

  Args:
    name: name[/config][:version].
    split: such as 'train' or 'train[:1%]'.
    data_dir: where data sets are prepared; TFDS's own default when None.

  Raises:
    ValueError: when the data set is not prepared there as array_record.
  """

  def __init__(self, name: str, split: str, data_dir: str | None = None):
    self.name = f'tfds:{name}/{split}'
    try:
      builder = tfds.builder(name, data_dir=data_dir)
      features = builder.info.features
      self._texts = _of_kind(features, tfds.features.Text)
      skip = {
        key: tfds.decode.SkipDecoding()
        for key in _of_kind(features, tfds.features.Image)
      }
      self._rows = builder.as_data_source(split=split, decoders=skip)
    except (
      tfds.core.registered.DatasetNotFoundError,
      AssertionError,
      NotImplementedError,
      ValueError,
    ) as error:
      raise ValueError(
        f'{self.name} in {data_dir or "the default data_dir"}: {error}; '
        'prepare it with `tfds build --file_format=array_record` and set '
        '--config.data.path=tfds:NAME?split=SPLIT&data_dir=DIR'
      ) from error

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    row = dict(self._rows[index])
    for key in self._texts:
      row[key] = row[key].decode()
    return row


def _of_kind(features: Any, kind: type) -> list[str]:
  return [key for key in features if type(features[key]) is kind]
