"""The policy for bad rows, reason by reason."""

import io
import json
import pickle

import numpy as np
import pytest
from absl import logging
from PIL import Image

from data import assemble, chat, pipeline, records
from data.image import open_image
from data.sources import open_source
from data.tiles import TileRow
from data.visual import Expansion

TEMPLATE = (
  "{% for m in messages %}{{ m.role + ': ' + m.content + '<end>' }}"
  "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
LETTERS = [chr(c) for c in range(32, 127)]
TALKER = chat.Chat(
  chat.char_tokenizer(LETTERS, ['<pad>', '<end>', '<image>']).to_str(),
  TEMPLATE,
  {'image': '<image>'},
)
SPEC = TileRow(
  seq_len=60,
  tiles=1,
  visual=4,
  tile_tokens=4,
  image_size=2,
  placeholders=TALKER.placeholder_ids,
)


def load(row):
  """A small but complete transform from a row on disk to a sample."""
  image = np.asarray(open_image(records.require(row, 'image', str)))
  question = records.require(row, 'question', str)
  answer = records.require(row, 'answer', str)
  encoded = TALKER.encode(
    [
      {'role': 'user', 'content': question},
      {'role': 'assistant', 'content': answer},
    ],
    [Expansion('<image>', '<image>', (row['count'],))],
  )
  plan = {
    'index': np.arange(4, dtype=np.int32)[:, None],
    'weight': np.ones((4, 1), np.float32),
    'grid': np.zeros((4, 3), np.int32),
  }
  return encoded | {'pixels': image[None], 'plan': plan}


def make_rows(folder):
  """Rows of which one is bad for every reason; returns (path, good rows)."""
  buffer = io.BytesIO()
  Image.new('RGB', (2, 2)).save(buffer, 'png')
  (folder / 'good.png').write_bytes(buffer.getvalue())
  (folder / 'cut.png').write_bytes(buffer.getvalue()[:-30])
  good = {
    'image': str(folder / 'good.png'),
    'question': '<image>',
    'answer': 'yes',
    'count': 4,
  }
  bad = {
    'missing image': good | {'image': str(folder / 'none.png')},
    'corrupt image': good | {'image': str(folder / 'cut.png')},
    'wrong type': good | {'answer': 7},
    'empty answer': good | {'answer': ' '},
    'too long': good | {'answer': 'y' * 60},
    'placeholder mismatch': good | {'count': 3},
  }
  return good, bad


def write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


def build(path, **policy):
  return pipeline.build(
    open_source(str(path)),
    [load, assemble.Pad(SPEC)],
    batch_size=2,
    seed=0,
    shuffle=False,
    epochs=1,
    policy=records.BadRowPolicy(**policy),
  )


def test_every_reason_is_counted_and_named(tmp_path, monkeypatch):
  said = []
  monkeypatch.setattr(logging, 'warning', lambda *a: said.append(a[0] % a[1:]))
  good, bad = make_rows(tmp_path)
  path = write(tmp_path / 'rows.jsonl', [good, *bad.values(), good, good])
  path.write_text(path.read_text() + '{"image": \n')
  batches = build(path, on_bad='skip', max_bad_share=1.0)
  seen = list(batches)
  stats = batches.stats()
  assert stats['seen'] == 10
  assert stats['bad'] == dict.fromkeys([*bad, 'malformed json'], 1)
  places = [place for batch in seen for place in batch['_where']]
  assert places == [f'{path}[{i}]' for i in (0, 7, 8)]
  for number, reason in enumerate(bad, 1):
    (line,) = [line for line in said if f'rows.jsonl[{number}]' in line]
    assert reason in line
  for batch in seen:
    pipeline.check_batch(batch, SPEC)


@pytest.mark.parametrize(
  'reason', [r for r in records.REASONS[:7] if r != 'malformed json']
)
def test_raise_names_row_reason_and_flag(tmp_path, reason):
  good, bad = make_rows(tmp_path)
  path = write(tmp_path / 'rows.jsonl', [good, good, good, bad[reason]])
  batches = build(path, on_bad='raise')
  next(batches)
  with pytest.raises(records.BadRecord, match=reason) as caught:
    next(batches)
  assert 'rows.jsonl[3]' in str(caught.value)
  assert '--config.data.on_bad=skip' in caught.value.__notes__[0]


def test_only_the_first_rows_of_a_reason_are_named(monkeypatch):
  said = []
  monkeypatch.setattr(logging, 'warning', lambda *a: said.append(a[0] % a[1:]))
  counts = records.BadRowCounts(records.BadRowPolicy('skip', 1.0))
  for number in range(50):
    counts.report(records.BadRecord('too long', 'x', f'row {number}'))
  assert [f'row {n}' in line for n, line in enumerate(said[:3])] == [True] * 3
  assert len(said) == 4 and 'only counted' in said[3]


def test_too_large_a_share_of_bad_rows_fails(tmp_path):
  good, bad = make_rows(tmp_path)
  rows = [good] * 9 + [bad['too long']] * 2
  path = write(tmp_path / 'rows.jsonl', rows)
  list(build(path, on_bad='skip', max_bad_share=0.2))
  with pytest.raises(RuntimeError, match=r'2 of 11 .*18\.2%.*10\.0%.*too long'):
    list(build(path, on_bad='skip', max_bad_share=0.1))


def test_the_share_is_judged_from_a_minimum_on():
  counts = records.BadRowCounts(records.BadRowPolicy('skip', 0.1, min_seen=4))
  bad = records.BadRecord('too long', 'x')
  for _ in range(3):
    counts.report(bad)
  with pytest.raises(RuntimeError, match='3 of 4'):
    counts.good()


def test_counts_continue_from_a_state():
  counts = records.BadRowCounts(records.BadRowPolicy('skip', 1.0))
  counts.report(records.BadRecord('too long', 'x'))
  other = records.BadRowCounts(records.BadRowPolicy('skip', 1.0))
  other.set_state(json.loads(json.dumps(counts.get_state())))
  other.report(records.BadRecord('too long', 'x'))
  assert (other.seen, other.bad) == (2, {'too long': 2})
  assert counts.bad == {'too long': 1}


def test_bad_records_survive_pickling_and_keep_their_place():
  bad = records.BadRecord('too long', 'x').at('row 3').at('row 4')
  copy = pickle.loads(pickle.dumps(bad))
  assert (copy.reason, copy.detail, copy.where) == ('too long', 'x', 'row 3')
  with pytest.raises(ValueError, match='expected one of'):
    records.BadRecord('ugly', 'x')


@pytest.mark.parametrize(
  'setting, flag',
  [
    ({'on_bad': 'ignore'}, '--config.data.on_bad'),
    ({'max_bad_share': 5}, '--config.data.max_bad_share'),
  ],
)
def test_policy_names_the_flag(setting, flag):
  with pytest.raises(ValueError, match=flag):
    records.BadRowPolicy(**setting)


def test_nothing_but_bad_rows_fails_whatever_the_share():
  counts = records.BadRowCounts(records.BadRowPolicy('skip', 1.0, min_seen=5))
  with pytest.raises(RuntimeError, match='5 of 5'):
    for _ in range(6):
      counts.report(records.BadRecord('too long', 'x'))
