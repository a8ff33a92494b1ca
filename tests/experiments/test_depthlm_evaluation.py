"""Which pixels are asked about, what is shown, and how answers are scored."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from data.sources import arrayrecord
from data.sources.depth import DepthRows
from experiments.depthlm import breakdown, inference, queries
from experiments.depthlm.queries import Set, find
from tests import depth_files
from vlm.methods.depthlm import facts, parser, sample
from vlm.methods.depthlm.sample import SampleSettings

SETTINGS = SampleSettings(focal=60.0)


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  return depth_files.write(tmp_path_factory.mktemp('rows'))


def test_every_label_is_asked_in_order_or_counted(path):
  found = find([Set('rows', DepthRows(path))], SETTINGS)
  assert [q.id for q in found.queries] == [
    f'rows/{row}/{label}' for row in range(3) for label in (0, 1, 3)
  ]
  assert [q.dataset for q in found.queries] == ['hall'] * 6 + ['street'] * 3
  unfit = {name: {queries.UNFIT: n} for name, n in (('hall', 2), ('street', 1))}
  assert found.skipped == unfit and not found.bad_rows
  first, last = found.queries[0], found.queries[-1]
  assert first.source_pixel == (20, 20) and first.pixels == ((30, 30),)
  assert first.size == (96, 72) and first.focal == 40
  assert (first.depth, first.value) == (1.5, 1.5) and first.z < 1.5
  # Labelled in z: the distance is longer.
  assert last.z == 14 and last.depth == last.value > 14


def test_a_query_shows_what_a_query_made_alone_shows(path):
  rows = DepthRows(path)
  for query in find([Set('rows', rows)], SETTINGS).queries:
    alone = sample.make_query(rows[query.row], query.label, SETTINGS)
    shown = sample.picture(rows[query.row], SETTINGS)
    shown = sample.marked(shown, query.pixels, SETTINGS)
    np.testing.assert_array_equal(shown, alone['image'])
    assert query.question == alone['question']
    assert (query.depth, query.z) == (alone['depth'], alone['z'])


def test_samples_are_shared_out_without_repetition(path):
  part = Set('rows', DepthRows(path))
  whole = SampleSettings(focal=400.0)  # every arrow fits
  for samples, of_each in ((2, [1, 1, 0]), (7, [3, 2, 2]), (12, [4, 4, 4])):
    found = find([part], whole, samples, seed=3)
    asked = [q.id for q in found.queries]
    assert len(set(asked)) == samples and not found.skipped
    assert [sum(q.row == row for q in found.queries) for row in range(3)] == (
      of_each
    )
    again = find([part], whole, samples, seed=3)
    assert asked == [q.id for q in again.queries]
  drawn = {
    tuple(q.label for q in find([part], whole, 3, seed=seed).queries)
    for seed in range(20)
  }
  assert len(drawn) > 10
  found = find([part], whole, 14)
  assert len(found.queries) == 12
  assert found.skipped['hall'] == {queries.EXHAUSTED: 2}


def test_all_formats_give_the_same_rows(path, tmp_path):
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  columns = dict.fromkeys(key for row in rows for key in row)  # all null
  inside = [
    columns
    | row
    | {'image': {'bytes': (path.parent / row['image']).read_bytes()}}
    for row in rows
  ]
  table = pyarrow.Table.from_pylist(inside)
  pyarrow.parquet.write_table(table, tmp_path / 'rows.parquet')
  arrayrecord.write_records(
    tmp_path / 'rows.array_record', [json.dumps(row).encode() for row in rows]
  )
  sources = [
    DepthRows(path),
    DepthRows(tmp_path / 'rows.parquet'),
    DepthRows(tmp_path / 'rows.array_record', path.parent),
    DepthRows(path.parent / '*.jsonl'),
  ]
  asked = [find([Set('rows', rows)], SETTINGS).queries for rows in sources]
  for other in asked[1:]:
    assert other == asked[0]
  for source in sources[1:]:
    for row in range(3):
      np.testing.assert_array_equal(
        source[row]['image'], sources[0][row]['image']
      )


def test_other_tasks_state_what_is_true(path):
  part = Set('rows', DepthRows(path))
  speeds = find([part], SETTINGS, task='speed').queries
  assert all('seconds' in q.question and q.value != q.depth for q in speeds)
  pairs = find([part], SETTINGS, task='two_point').queries
  assert all(len(q.pixels) == 2 for q in pairs)


def test_rows_that_cannot_be_read_are_named(tmp_path):
  path = depth_files.write_bad(tmp_path)
  found = find([Set('rows', DepthRows(path))], SETTINGS)
  (bad,) = found.bad_rows
  assert bad['id'] == 'rows/4' and bad['problem'].startswith('bad depth')
  row = json.loads(path.read_text().splitlines()[0])
  row['intrinsics'][:2] = [0.001, 0.001]
  (tmp_path / 'tiny.jsonl').write_text(json.dumps(row))
  with pytest.raises(ValueError, match='bad intrinsics.*3840000 x 2880000'):
    find([Set('tiny', DepthRows(tmp_path / 'tiny.jsonl'))], SETTINGS)
  row['intrinsics'][:2] = [1e9, 1e9]
  (tmp_path / 'tiny.jsonl').write_text(json.dumps(row))
  with pytest.raises(ValueError, match='bad intrinsics.*to nothing'):
    find([Set('tiny', DepthRows(tmp_path / 'tiny.jsonl'))], SETTINGS)


def record(number, said, depth=2.0, image='0/0', dataset='hall', problem=''):
  return {
    'id': f'{dataset}/{number}',
    'dataset': dataset,
    'image': image,
    'task': 'distance',
    'depth': depth,
    'z': depth / 1.25,
    'value': depth,
    'prediction': None if problem else said,
    'number': None if problem else parser.parse(said),
    'failure': None if problem else parser.failure(said),
    'problem': problem,
  }


def test_scores_count_what_is_wrong_and_break_down():
  records = [
    record(0, '<answer> 2.00 </answer>'),
    record(1, '<answer> 3.00 </answer>'),
    record(2, '<answer> -2.00 </answer>', image='0/1'),
    record(3, '', image='0/1'),
    record(4, 'no idea', image='0/1'),
    record(5, '', image='0/2', problem='corrupt image: cut.png'),
    record(6, '<answer> 30.0 </answer>', 60.0, '1/0', 'street'),
    record(7, '<answer> 60.0 </answer>', 60.0, '1/0', 'street'),
  ]
  found = breakdown.score(records)
  assert found['counts'] == {
    'queries': 8,
    'images': 4,
    'failures': {'empty': 1, 'no number': 1, 'not positive': 1},
    'problems': {'corrupt image': 1},
  }
  assert found['all']['delta1'] == 2 / 8 and found['all']['delta2'] == 3 / 8
  assert found['all']['abs_rel'] == pytest.approx(1.0 / 4)
  assert found['all']['rmse'] == pytest.approx(np.sqrt((1 + 900) / 4))
  assert found['all']['median_ratio'] == 1
  hall, street = (found['by_dataset'][n] for n in ('hall', 'street'))
  assert hall['delta1'] == 1 / 6 and street['delta1'] == 1 / 2
  assert found['mean_of_datasets']['delta1'] == pytest.approx(1 / 3)
  assert hall['count'] == 6 and hall['parse_failures'] == 4
  assert set(found['by_range']) == {'2-5 m', 'over 50 m'}
  assert found['by_range']['over 50 m']['rmse'] == street['rmse']
  assert found['controls']['constant 2.0 m'] == 6 / 8
  for name, (low, high) in found['all']['intervals'].items():
    assert low <= found['all'][name] <= high, name
  # One image: whichever is drawn, it is this one.
  assert street['intervals']['delta1'] == [0.5, 0.5]
  # delta and AbsRel are the same in z, RMSE is not.
  kinds = found['by_kind']
  assert kinds['z']['delta1'] == kinds['range']['delta1']
  assert kinds['z']['rmse'] == pytest.approx(kinds['range']['rmse'] / 1.25)


def test_a_checkpoint_that_answers_in_z_is_scored_in_z():
  records = [record(0, '1.6'), record(1, '2.0')]
  found = breakdown.score(records, 'z')
  assert found['all']['delta1'] == 1 / 2
  assert found['all']['abs_rel'] == pytest.approx(0.125)
  assert found['by_kind']['range']['abs_rel'] == pytest.approx(0.125)


def test_nothing_read_is_null_not_nan():
  found = breakdown.score([record(0, 'far away')])
  assert found['all']['rmse'] is None and found['all']['delta1'] == 0
  json.dumps(found, allow_nan=False)


def test_the_focal_length_is_the_checkpoint_s_or_stated(tmp_path):
  with pytest.raises(ValueError, match='set --focal to it'):
    inference.settings_of(tmp_path)
  assert inference.settings_of(tmp_path, 750).focal == 750
  (tmp_path / facts.NAME).write_text(facts.to_json(SETTINGS))
  assert inference.settings_of(tmp_path) == SETTINGS
  assert inference.settings_of(tmp_path, 60.0) == SETTINGS
  with pytest.raises(ValueError, match='trained at 60 pixels'):
    inference.settings_of(tmp_path, 750)
  other = tmp_path / 'other.json'
  other.write_text('{"focal": 750, "focal_mode": "iso"}')
  chosen = inference.settings_of(tmp_path, path=str(other))
  assert (chosen.focal, chosen.focal_mode) == (750, 'iso')
  other.write_text('{"focul": 750}')
  with pytest.raises(ValueError, match='other.json.*focul'):
    inference.settings_of(tmp_path, path=str(other))
  with pytest.raises(FileNotFoundError, match='--settings='):
    inference.settings_of(tmp_path, path='nowhere.json')
