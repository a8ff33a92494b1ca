"""Readers against files written here."""

import importlib.resources
import json
import pickle
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds

from data import records
from data.image import open_image
from data.sources import Mapped, arrayrecord, open_source

ROWS = [{'id': i, 'text': 'é' * i, 'box': [i, i + 1]} for i in range(23)]


def write_jsonl(path, rows=ROWS):
  lines = [json.dumps(row, ensure_ascii=False) for row in rows]
  # A blank line is no row, and the last line may lack its newline.
  path.write_text(lines[0] + '\n\n' + '\n'.join(lines[1:]), encoding='utf-8')
  return path


def write(path):
  if path.suffix == '.jsonl':
    write_jsonl(path)
  elif path.suffix == '.json':
    path.write_text(json.dumps(ROWS))
  elif path.suffix == '.parquet':
    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, path, row_group_size=3)
  else:
    arrayrecord.write_records(path, [json.dumps(r).encode() for r in ROWS])
  return path


@pytest.mark.parametrize('kind', ['jsonl', 'json', 'parquet', 'array_record'])
def test_reads_rows_in_any_order_also_after_pickling(tmp_path, kind):
  source = open_source(str(write(tmp_path / f'rows.{kind}')))
  order = np.random.default_rng(0).permutation(len(ROWS))
  assert len(source) == 23
  assert [source[int(i)] for i in order] == [ROWS[i] for i in order]
  copy = pickle.loads(pickle.dumps(source))
  assert [copy[int(i)] for i in order] == [ROWS[i] for i in order]
  assert f'rows.{kind}' in source.name


@pytest.mark.parametrize(
  'name', ['no.jsonl', 'no.json', 'no.parquet', 'no.array_record', 'no*.jsonl']
)
def test_missing_file_names_the_setting(tmp_path, name):
  with pytest.raises(FileNotFoundError, match='--config.data.path'):
    open_source(str(tmp_path / name))


def test_unknown_ending_names_the_known_ones(tmp_path):
  with pytest.raises(ValueError, match='.jsonl, .json, .parquet'):
    open_source(str(tmp_path / 'rows.csv'))


@pytest.mark.parametrize('kind', ['json', 'parquet', 'array_record'])
def test_damaged_container_is_an_error_that_names_it(tmp_path, kind):
  path = tmp_path / f'rows.{kind}'
  path.write_bytes(b'this is something else' * 9)
  with pytest.raises(ValueError, match=f'rows.{kind} is not'):
    open_source(str(path))


def test_malformed_line_is_a_bad_row_and_its_neighbours_are_read(tmp_path):
  path = tmp_path / 'rows.jsonl'
  path.write_text('{"a": 1}\n{"a": \n[1]\n{"a": 2}\n')
  source = open_source(str(path))
  assert (source[0], source[3]) == ({'a': 1}, {'a': 2})
  with pytest.raises(records.BadRecord, match='malformed json'):
    source[1]
  with pytest.raises(records.BadRecord, match='wrong type.*list'):
    source[2]


def test_pattern_joins_files_in_sorted_order(tmp_path):
  write_jsonl(tmp_path / 'b.jsonl', ROWS[10:])
  write_jsonl(tmp_path / 'a.jsonl', ROWS[:10])
  source = open_source(str(tmp_path / '*.jsonl'))
  assert [source[i] for i in range(len(source))] == ROWS
  assert source.where(12) == f'{tmp_path}/b.jsonl[2]'


def test_mapped_changes_rows_when_read(tmp_path):
  source = Mapped(open_source(str(write(tmp_path / 'r.json'))), len)
  assert (len(source), source[5]) == (23, 3)


def test_parquet_keeps_few_groups_in_memory(tmp_path):
  source = open_source(str(write(tmp_path / 'rows.parquet')))
  for i in range(len(source)):
    source[i]
  assert list(source._kept) == [4, 5, 6, 7]


def test_tfds_rows_have_encoded_images_and_text(tmp_path, monkeypatch):
  # Only preparing a data set needs this back-port; TFDS does not declare it.
  monkeypatch.setitem(sys.modules, 'importlib_resources', importlib.resources)
  png = bytes.fromhex(
    '89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de'
    '0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082'
  )

  class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      return self.dataset_info_from_configs(
        features=tfds.features.FeaturesDict(
          {'image': tfds.features.Image(), 'text': tfds.features.Text()}
        )
      )

    def _split_generators(self, manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      for i in range(5):
        yield i, {'image': png, 'text': f'row {i}'}

  builder = Tiny(data_dir=tmp_path, file_format='array_record')
  builder.download_and_prepare()
  source = open_source(f'tfds:tiny:1.0.0?split=train&data_dir={tmp_path}')
  copy = pickle.loads(pickle.dumps(source))
  assert sorted(copy[i]['text'] for i in range(5)) == [
    f'row {i}' for i in range(5)
  ]
  assert open_image(source[0]['image']).size == (1, 1)


def test_tfds_errors_name_the_address(tmp_path):
  with pytest.raises(ValueError, match='split=SPLIT'):
    open_source('tfds:tiny')
  with pytest.raises(ValueError, match='--config.data.path'):
    open_source(f'tfds:no_such_set:1.0.0?split=train&data_dir={tmp_path}')
