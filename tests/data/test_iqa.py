"""Every layout of the image-quality sets, and what is wrong with them."""

import json
import math

import numpy as np
import pytest
from scipy import io

from data.image import open_image
from data.records import BadRecord
from data.sources import iqa, iqa_corpora, iqa_meta
from tests import iqa_files


def _all(rows):
  return [rows[number] for number in range(len(rows))]


def _scores(rows):
  return {r['image'].name: r['gt_score_norm'] for r in _all(rows)}


@pytest.fixture
def koniq(tmp_path):
  return iqa_files.write_koniq(tmp_path)


def test_published_metas(koniq):
  rows = iqa.open_corpus(koniq, 'koniq')
  assert len(rows) == 6 and rows.name.endswith('test_koniq_2k.json')
  row = rows[1]
  assert row['task'] == 'score' and row['dataset'] == 'koniq'
  assert row['gt_score'] == 26 and row['gt_score_norm'] == 1 + 8 / 9
  assert row['id'] == '2.png->26.0' and row['std_norm'] == 0.5
  assert np.asarray(open_image(row['image']))[0, 0, 0] == 2
  train = iqa.open_corpus(koniq, 'koniq', 'train')
  assert len(train) == 4 and train[0]['level_probs'] == [0.2] * 5


def test_two_files_for_one_split_or_none_are_errors(koniq):
  metas = koniq / 'KONIQ' / 'metas'
  (metas / 'test_koniq_9k.json').write_text('[]')
  with pytest.raises(ValueError, match=r'test_koniq_2k.*test_koniq_9k'):
    iqa.open_corpus(koniq, 'koniq')
  with pytest.raises(FileNotFoundError, match=r'SPAQ holds none of.*mos.json'):
    iqa.open_corpus(koniq, 'spaq')
  with pytest.raises(ValueError, match="set 'live'"):
    iqa.open_corpus(koniq, 'live')
  with pytest.raises(ValueError, match="split 'validation'"):
    iqa.open_corpus(koniq, 'koniq', 'validation')


@pytest.mark.parametrize('wrap', ['list', 'results', 'data', 'jsonl'])
def test_the_forms_ralis_reader_accepts(tmp_path, wrap):
  record = {'image': 'a.png', 'gt_score_norm': 2, 'description': 'Blurred.'}
  path = tmp_path / ('own.jsonl' if wrap == 'jsonl' else 'own.json')
  whole = [record] if wrap == 'list' else {wrap: [record], 'n': 1}
  path.write_text(json.dumps(record if wrap == 'jsonl' else whole))
  (row,) = _all(iqa.open_file(path))
  assert row['gt_score_norm'] == 2.0 and row['description'] == 'Blurred.'
  assert row['dataset'] == 'own' and row['id'] == 'a.png'
  assert row['image'] == tmp_path / 'a.png'
  assert iqa.open_file(path, '/elsewhere')[0]['image'].parent.name == (
    'elsewhere'
  )


@pytest.mark.parametrize(
  'text, message',
  [
    ('{"n": 1}', 'expected a list'),
    ('{', 'not JSON'),
    ('3', 'expected a list'),
  ],
)
def test_files_of_another_form(tmp_path, text, message):
  path = tmp_path / 'bad.json'
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    iqa.open_file(path)
  with pytest.raises(FileNotFoundError, match=r'none.json'):
    iqa.open_file(tmp_path / 'none.json')


GOOD = {'image': 'a.png', 'gt_score_norm': 3.0}
BAD = [
  ('a string', 'wrong type', 'is str'),
  ({'gt_score_norm': 3.0}, 'wrong type', "no field 'image'"),
  ({'image': 7, 'gt_score_norm': 3.0}, 'wrong type', "'image' is int"),
  ({'image': 'a.png'}, 'wrong type', "no field 'gt_score_norm'"),
  (GOOD | {'gt_score_norm': '3'}, 'wrong type', 'is str'),
  (GOOD | {'gt_score_norm': None}, 'wrong type', 'NoneType'),
  (GOOD | {'gt_score_norm': True}, 'bad score', 'True'),
  (GOOD | {'gt_score_norm': math.nan}, 'bad score', 'nan'),
  (GOOD | {'gt_score_norm': 0.99}, 'bad score', '0.99, expected 1 to 5'),
  (GOOD | {'gt_score_norm': 61.0}, 'bad score', '61.0, expected 1 to 5'),
  (GOOD | {'std': math.inf}, 'bad score', 'std is inf'),
  (GOOD | {'description': 3}, 'wrong type', 'description'),
  (
    {'image': 'a.png', 'distortion_class': 'fog', 'severity': 'slight'},
    'mismatched labels',
    "'fog'",
  ),
  (
    {'image': 'a.png', 'distortion_class': 'blur', 'severity': 'strong'},
    'mismatched labels',
    "'strong'",
  ),
  (
    {'image': 'a.png', 'distortion_class': 'blur', 'severity': 'null'},
    'mismatched labels',
    'with severity',
  ),
  ({'image': 'a.png', 'distortion_class': 'blur'}, 'wrong type', 'severity'),
]


@pytest.mark.parametrize('record, reason, detail', BAD)
def test_bad_records_are_named_and_good_ones_beside_them_stay(
  record, reason, detail
):
  rows = iqa.IqaRows([GOOD, record, GOOD], '/root', 'own', 'own.json')
  assert rows[0] == rows[2]
  with pytest.raises(BadRecord) as found:
    rows[1]
  assert found.value.reason == reason and found.value.where == 'own.json[1]'
  assert detail in found.value.detail


def test_degradations(tmp_path):
  path = iqa_files.write_degradations(tmp_path / 'train.json')
  rows = _all(iqa.open_file(path))
  assert {r['task'] for r in rows} == {'degradation'}
  found = [(r['distortion_class'], r['severity']) for r in rows]
  assert found[0] == ('blur', 'slight') and found[-1] == ('null', 'null')


def test_a_missing_picture_keeps_its_own_label_and_nobody_elses(koniq):
  gone = koniq / 'KONIQ/images/2.png'
  gone.unlink()
  rows = iqa.open_corpus(koniq, 'koniq')
  assert rows[1]['image'] == gone and rows[1]['gt_score'] == 26
  with pytest.raises(BadRecord, match=r'missing image: .*2.png'):
    open_image(rows[1]['image'])
  assert np.asarray(open_image(rows[2]['image']))[0, 0, 0] == 4


class TestMeta:
  MOS = {f'{n}.jpg': (20.0 + 10 * n, 8.0) for n in range(6)}

  def test_normalised_by_the_range_of_train_and_test_together(self, tmp_path):
    split = {'train': ['0.jpg', '3.jpg'], 'test': ['1.jpg', '5.jpg']}
    iqa_files.write_mos(tmp_path, 'SPAQ', self.MOS, split)
    test = _all(iqa.open_corpus(tmp_path, 'spaq'))
    assert [r['gt_score_norm'] for r in test] == [1.8, 5.0]
    assert [r['std_norm'] for r in test] == [pytest.approx(0.64)] * 2
    assert 'level_probs' not in test[0]
    train = _all(iqa.open_corpus(tmp_path, 'spaq', 'train'))
    assert [r['gt_score_norm'] for r in train] == [1.0, pytest.approx(3.4)]
    assert sum(train[1]['level_probs']) == pytest.approx(1, abs=1e-3)
    assert train[0]['image'] == tmp_path / 'SPAQ/images/0.jpg'

  def test_training_records_have_the_words_of_their_level(self, tmp_path):
    iqa_files.write_mos(tmp_path, 'SPAQ', self.MOS, {'train': [*self.MOS]})
    read = iqa_meta.read(tmp_path / 'SPAQ')
    metas = iqa_meta.metas(*read, 'spaq')
    said = [r['conversations'][1]['value'] for r in metas['train']]
    words = ('bad', 'bad', 'poor', 'fair', 'good', 'excellent')
    assert all(word in text for word, text in zip(words, said))
    assert metas['train'][0]['id'] == '0.jpg->20.0' and not metas['test']
    with pytest.raises(FileNotFoundError, match='no test part'):
      iqa.open_corpus(tmp_path, 'spaq')

  def test_splits_name_paths_or_base_names(self, tmp_path):
    mos = {f'Distortion_{n}/A{n}.bmp': (1400.0 + n, 0.0) for n in range(3)}
    split = {'train': ['A0.bmp'], 'test': ['Distortion_1/A1.bmp']}
    iqa_files.write_mos(tmp_path, 'PIPAL', mos, split)
    (row,) = _all(iqa.open_corpus(tmp_path, 'pipal'))
    assert row['gt_score_norm'] == 3.0  # the third image counts in the range
    assert str(row['image']).endswith('PIPAL/images/Distortion_1/A1.bmp')

  @pytest.mark.parametrize(
    'mos, split, message',
    [
      ({'a.jpg': (50, 1)}, None, '1 images with opinions that do not differ'),
      ({'a.jpg': (50, 1), 'b.jpg': (50, 2)}, None, '2 images'),
      ({}, None, '0 images'),
      ({'a.jpg': (101, 1), 'b.jpg': (5, 1)}, None, 'is 101.0, expected 0'),
      ({'a.jpg': (-3, 1), 'b.jpg': (5, 1)}, None, 'is -3.0, expected 0 to 100'),
      ({'a.jpg': (math.nan, 1), 'b.jpg': (5, 1)}, None, 'is nan'),
      ({'a.jpg': (3, -1), 'b.jpg': (5, 1)}, None, 'deviation of a.jpg'),
      ({'a.jpg': ('x', 1), 'b.jpg': (5, 1)}, None, 'a.jpg: .*expected'),
      ({'a.jpg': (3, 1), 'b.jpg': (5, 1)}, {'test': ['c.jpg']}, "'c.jpg'"),
      (
        {'a.jpg': (3, 1), 'b.jpg': (5, 1)},
        {'train': ['a.jpg'], 'test': ['a.jpg']},
        '1 images in train and in test',
      ),
      ({'a.jpg': (3, 1), 'b.jpg': (5, 1)}, ['a.jpg'], 'not an object'),
    ],
  )  # fmt: skip
  def test_opinions_that_cannot_be_used(self, tmp_path, mos, split, message):
    iqa_files.write_mos(tmp_path, 'SPAQ', mos, split)
    with pytest.raises(ValueError, match=message):
      iqa.open_corpus(tmp_path, 'spaq')


class TestDirection:
  """CSIQ's opinions are differential: lower is better."""

  NAMES = [f'blur/1600.BLUR.{level}.png' for level in range(1, 6)]

  def metas(self, root, scores):
    records = [
      {'image': f'CSIQ/images/dst_imgs/{name}', 'gt_score_norm': score}
      for name, score in zip(self.NAMES, scores)
    ]
    path = root / 'CSIQ/metas/test_csiq_866.json'
    iqa_files.write_json(path, records)
    return _scores(iqa.open_corpus(root, 'csiq'))

  def test_differential_and_upright_files_give_the_same(self, tmp_path):
    differential = self.metas(tmp_path / 'a', [1, 2, 3, 4.5, 5])
    upright = self.metas(tmp_path / 'b', [5, 4, 3, 1.5, 1])
    assert differential == upright and upright['1600.BLUR.4.png'] == 1.5

  def test_one_level_says_nothing(self, tmp_path):
    with pytest.raises(ValueError, match='whether lower is better'):
      self.metas(tmp_path, [3])

  def test_mos_json_and_the_published_table(self, tmp_path):
    mos = {name: (0.2 * n, 0.1) for n, name in enumerate(self.NAMES)}
    iqa_files.write_mos(tmp_path / 'a', 'CSIQ', mos, {'train': self.NAMES})
    train = _all(iqa.open_corpus(tmp_path / 'a', 'csiq', 'train'))
    assert [r['gt_score_norm'] for r in train] == pytest.approx([5, 4, 3, 2, 1])
    mean = [np.array(r['level_probs']) @ [5, 4, 3, 2, 1] for r in train]
    assert (np.diff(mean) < 0).all()
    folder = tmp_path / 'b/CSIQ'
    folder.mkdir(parents=True)
    lines = ['image,dst_idx,dst_type,dst_lev,dmos_std,dmos']
    for n, kind in enumerate(('jpeg 2000', 'noise', 'jpeg'), 1):
      lines.append(f'1600,{n},{kind},{n},0.05,{0.3 * n}')
    (folder / 'csiq.DMOS.csv').write_text('\n'.join(lines))
    found = _all(iqa.open_corpus(tmp_path / 'b', 'csiq'))
    assert [r['gt_score_norm'] for r in found] == pytest.approx([5, 3, 1])
    paths = [f'{r["image"].parent.name}/{r["image"].name}' for r in found]
    assert paths == [
      'jpeg2000/1600.jpeg2000.1.png',
      'awgn/1600.AWGN.2.png',
      'jpeg/1600.JPEG.3.png',
    ]
    assert {r['reference'] for r in found} == {'1600'}
    text = (folder / 'csiq.DMOS.csv').read_text()
    (folder / 'csiq.DMOS.csv').write_text(text.replace('noise', 'rain'))
    with pytest.raises(ValueError, match="dst_type 'rain'"):
      iqa.open_corpus(tmp_path / 'b', 'csiq')


class TestOriginal:
  def test_koniq(self, tmp_path):
    folder = tmp_path / 'KONIQ'
    folder.mkdir()
    lines = ['image_name,c1,MOS,SD,set']
    for n, part in enumerate(('training', 'validation', 'test', 'test')):
      lines.append(f'{n}.jpg,0,{20 + 20 * n},9,{part}')
    (folder / 'koniq10k_distributions_sets.csv').write_text('\n'.join(lines))
    assert _scores(iqa.open_corpus(tmp_path, 'koniq')) == {
      '2.jpg': pytest.approx(1 + 8 / 3),
      '3.jpg': 5.0,
    }
    assert len(iqa.open_corpus(tmp_path, 'koniq', 'train')) == 1

  def test_koniq_without_a_split_is_tested_on(self, tmp_path):
    folder = tmp_path / 'KONIQ'
    folder.mkdir()
    path = folder / 'koniq10k_scores_and_distributions.csv'
    path.write_text('image_name,MOS,SD\na.jpg,10,1\nb.jpg,20,1\n')
    assert len(iqa.open_corpus(tmp_path, 'koniq')) == 2
    path.write_text('image_name,score\na.jpg,10\n')
    with pytest.raises(ValueError, match="no column 'MOS'"):
      iqa.open_corpus(tmp_path, 'koniq')
    path.write_text('image_name,MOS,SD\na.jpg,good,1\nb.jpg,20,1\n')
    with pytest.raises(ValueError, match="a.jpg has the opinion 'good'"):
      iqa.open_corpus(tmp_path, 'koniq')

  def test_kadid(self, tmp_path):
    folder = tmp_path / 'KADID10K'
    folder.mkdir()
    text = (
      'dist_img,ref_img,dmos,var\nI01_01_01.png,I01.png,4.57,0.25\n'
      'I01_01_05.png,I01.png,1.57,0.09\n'
    )
    (folder / 'dmos.csv').write_text(text)
    first, last = _all(iqa.open_corpus(tmp_path, 'kadid'))
    assert first['gt_score_norm'] == 5 and first['std'] == 0.5  # not turned
    assert first['reference'] == last['reference'] == 'I01'

  def test_tid2013_finds_files_of_another_case(self, tmp_path):
    folder = tmp_path / 'TID2013'
    iqa_files.picture(folder / 'images/distorted_images/i01_01_1.bmp', 7)
    (folder / 'mos_with_names.txt').write_text(
      '5.5 I01_01_1.bmp\n4.0 I02_01_2.bmp\n'
    )
    (folder / 'mos_std.txt').write_text('0.1\n0.2\n')
    first, second = _all(iqa.open_corpus(tmp_path, 'tid2013'))
    assert np.asarray(open_image(first['image']))[0, 0, 0] == 7
    assert first['std'] == 0.1 and second['image'].name == 'I02_01_2.bmp'
    (folder / 'mos_std.txt').write_text('0.1\n')
    with pytest.raises(ValueError, match='has 1 lines'):
      iqa.open_corpus(tmp_path, 'tid2013')

  def test_live_wild_leaves_the_practice_images_out(self, tmp_path):
    data = tmp_path / 'LIVE-WILD/Data'
    data.mkdir(parents=True)
    names = np.array([f'{n}.bmp' for n in range(10)], object)
    columns = {
      'AllImages': names[:, None],
      'AllMOS': np.linspace(10, 90, 10)[None],
      'AllStdDev': np.full((1, 10), 20.0),
    }
    for name, values in columns.items():
      file = data / f'{name}_release.mat'
      io.savemat(file, {f'{name}_release': values})
    found = _scores(iqa.open_corpus(tmp_path, 'livew'))
    assert found == {'7.bmp': 1, '8.bmp': pytest.approx(3), '9.bmp': 5}

  def test_agiqa_and_pipal(self, tmp_path):
    folder = tmp_path / 'AGIQA3K'
    folder.mkdir()
    (folder / 'data.csv').write_text(
      'name,prompt,mos_quality,std_quality\na.jpg,"x, y",1.5,0.1\nb.jpg,z,3,0\n'
    )
    assert _scores(iqa.open_corpus(tmp_path, 'agiqa'))['b.jpg'] == 5
    iqa_files.picture(tmp_path / 'PIPAL/images/Distortion_2/A0001_00_01.bmp')
    labels = tmp_path / 'PIPAL/Train_Label'
    labels.mkdir()
    (labels / 'A0001.txt').write_text(
      'A0001_00_00.bmp,1400\nA0001_00_01.bmp,1500.5\n'
    )
    rows = _all(iqa.open_corpus(tmp_path, 'pipal'))
    assert rows[1]['image'].parent.name == 'Distortion_2'
    assert open_image(rows[1]['image']).size == (32, 40)
    assert {r['reference'] for r in rows} == {'A0001'}
    assert 'std' not in rows[0]


def test_every_corpus_has_its_folder_as_published():
  folders = {name: c.folder for name, c in iqa_corpora.CORPORA.items()}
  assert len(folders) == len(set(folders.values())) == 8
  assert [n for n, c in iqa_corpora.CORPORA.items() if c.lower_is_better] == [
    'csiq'
  ]
