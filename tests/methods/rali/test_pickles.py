"""Pickles as data: what is read, and that nothing else ever runs."""

import gzip
import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from tests import rali_files
from vlm.methods.rali import inert_pickle
from vlm.methods.rali.inert_pickle import UnsafePickle
from vlm.methods.rali.numpy_pickle import NAMES
from vlm.methods.rali.sklearn_file import read_pca
from vlm.methods.rali.torch_file import TorchFile


def inert(value, protocol=4, names=NAMES):
  encoded = value if isinstance(value, bytes) else pickle.dumps(value, protocol)
  return inert_pickle.read(io.BytesIO(encoded), names, 'x.pkl')


PLAIN = {
  'list': [1, -2, 300, 70_000, 2**40, -(2**70), 1.5, True, False, None],
  'texts': ['', 'ä', 'x' * 300, b'', b'\x00\xff', b'y' * 300],
  'tuples': [(), (1,), (1, 2), (1, 2, 3), tuple(range(40))],
  'twice': [np.float32(2.5), np.int64(-3)],
  7: {},
}


class TestInert:
  @pytest.mark.parametrize('protocol', [2, 3, 4, 5])
  def test_plain_data_comes_through(self, protocol):
    value = PLAIN if protocol > 2 else PLAIN | {'texts': ['', 'ä']}
    if protocol == 2:  # Bytes of numpy's scalars need a call there.
      value = {k: v for k, v in value.items() if k != 'twice'}
    shared = ['same']
    got = inert({'a': shared, 'b': shared, 'value': value}, protocol)
    assert got['value'] == value and got['a'] is got['b']

  def test_arrays_come_through_whatever_their_layout(self):
    for array in (
      np.arange(6.0).reshape(2, 3),
      np.asfortranarray(np.arange(6, dtype='>i4').reshape(2, 3)),
      np.array([True, False]),
      np.zeros((0, 3), np.float16),
    ):
      a, b = inert([array, array])
      np.testing.assert_array_equal(a, array)
      assert b is a and a.dtype == array.dtype

  @pytest.mark.parametrize(
    'value,asked',
    [
      (os.system, 'posix.system'),
      (eval, 'builtins.eval'),
      (complex(1, 2), 'builtins.complex'),
      (range(3), 'builtins.range'),
      (np.random.default_rng(0), 'numpy.random'),
      (np.array([{}], object), "dtype 'O8'"),
      (np.array(['text']), "dtype 'U4'"),
    ],
  )
  def test_what_is_not_data_is_refused_by_name(self, value, asked):
    with pytest.raises(UnsafePickle, match=asked):
      inert(value)

  @pytest.mark.parametrize('protocol', [0, 1, 2, 4])
  def test_no_call_is_made(self, protocol, tmp_path):
    target = tmp_path / 'made'

    class Evil:
      def __reduce__(self):
        return os.mkdir, (str(target),)

    with pytest.raises(UnsafePickle):
      inert(Evil(), protocol)
    with pytest.raises(UnsafePickle, match=r'x.pkl: it asks for posix.mkdir'):
      inert(Evil(), 4)
    assert not target.exists()

  @pytest.mark.parametrize(
    'code',
    [
      b'cos\nsystem\n(S"true"\ntR.',  # protocol 0: its texts are refused
      b'(S"true"\nios\nsystem\n.',  # INST
      b'(cos\nsystem\nS"true"\no.',  # OBJ
      b'\x80\x02\x82\x01.',  # an extension of copyreg
      b'\x80\x02cnumpy\nndarray\n)R.',  # a name that is only mentioned
      b'\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00_}sb.',
      b'\x80\x02]}X\x09\x00\x00\x00__class__K\x01sb.',  # BUILD of a list
      b'\x80\x02}((tK\x01u.',  # a tuple as key
      b'\x80\x02]K\x01K\x02u.',
      b'\x80\x02K\x01Q.',  # a persistent id
      b'\x80\x02K\x01',  # no end
      b'\x80\x02h\x07.',  # nothing remembered there
      b'\x80\x07.',
      b'K\x01K\x02.',
      b'(.',
      b'',
      b'\xff',
    ],
  )
  def test_crafted_code_is_refused(self, code):
    with pytest.raises(UnsafePickle, match='x.pkl'):
      inert(code)

  def test_any_cut_or_flipped_byte_is_an_error_or_data(self):
    whole = pickle.dumps(PLAIN, 4)
    rng = np.random.default_rng(0)
    for _ in range(300):
      broken = bytearray(whole[: rng.integers(len(whole) + 1)] or b'.')
      broken[rng.integers(len(broken))] = rng.integers(256)
      try:
        inert(bytes(broken))
      except UnsafePickle:
        continue


class TestPca:
  @pytest.mark.parametrize('protocol', [2, 3, 4, 5])
  @pytest.mark.parametrize('aligned', [False, True])
  @pytest.mark.parametrize('compress', [False, True])
  def test_every_layout_of_joblib(self, tmp_path, protocol, aligned, compress):
    given = rali_files.fitted_pca()
    if protocol == 2:
      del given.noise_variance_, given.n_components_
    path = tmp_path / 'pca.pkl'
    path.write_bytes(
      rali_files.joblib_dump(given, protocol, compress, aligned=aligned)
    )
    found = read_pca(path)
    for name in ('mean_', 'components_', 'explained_variance_'):
      np.testing.assert_array_equal(found[name], given.__dict__[name])
    assert found.keys() == given.__dict__.keys()
    assert found['random_state'] == 42

  def test_a_plain_pickle_and_an_incremental_one_are_read(self, tmp_path):
    kind = 'sklearn.decomposition._incremental_pca.IncrementalPCA'
    given = rali_files.fitted_pca(kind, var_=np.full(24, 4.0))
    path = tmp_path / 'pca.pkl'
    path.write_bytes(rali_files.joblib_dump(given, plain=True))
    found = read_pca(path)
    np.testing.assert_array_equal(found['var_'], np.full(24, 4.0))

  def test_other_classes_and_other_things_are_refused(self, tmp_path):
    path = tmp_path / 'pca.pkl'
    other = rali_files.stand_in('sklearn.svm._classes.SVC')()
    path.write_bytes(rali_files.joblib_dump(other))
    with pytest.raises(
      UnsafePickle, match=r'asks for sklearn.svm._classes.SVC'
    ):
      read_pca(path)
    path.write_bytes(rali_files.joblib_dump([1.0]))
    with pytest.raises(UnsafePickle, match='holds a list, expected a PCA'):
      read_pca(path)
    hidden = rali_files.fitted_pca(more=os.system)
    path.write_bytes(rali_files.joblib_dump(hidden))
    with pytest.raises(UnsafePickle, match=r'posix.system'):
      read_pca(path)
    state = rali_files.fitted_pca(random_state_=np.random.RandomState(0))
    path.write_bytes(rali_files.joblib_dump(state))
    with pytest.raises(UnsafePickle, match=r'numpy.random'):
      read_pca(path)
    objects = rali_files.fitted_pca(more=np.array([os.system], object))
    path.write_bytes(rali_files.joblib_dump(objects))
    with pytest.raises(UnsafePickle, match="dtype 'O8'"):
      read_pca(path)

  def test_cut_files_and_other_compressions_are_named(self, tmp_path):
    whole = rali_files.joblib_dump(rali_files.fitted_pca())
    path = tmp_path / 'pca.pkl'
    for cut in range(1, len(whole), 97):
      path.write_bytes(whole[:cut])
      with pytest.raises(UnsafePickle, match='pca.pkl: corrupt'):
        read_pca(path)
    path.write_bytes(gzip.compress(whole))
    with pytest.raises(UnsafePickle, match='compressed by gzip'):
      read_pca(path)
    path.write_bytes(rali_files.joblib_dump([1], compress=True)[:-3])
    with pytest.raises(UnsafePickle, match='cut short'):
      read_pca(path)


def torch_zip(path, pickled, **entries):
  with zipfile.ZipFile(path, 'w') as made:
    made.writestr('archive/data.pkl', pickled)
    for name, value in entries.items():
      made.writestr(f'archive/{name.replace("__", "/")}', value)
  return path


def tensor_code(shape, strides, count=4, key='0', kind='FloatStorage'):
  """{'t': a tensor}, by hand."""
  ints = lambda values: b'(' + b''.join(b'K%c' % v for v in values) + b't'
  text = lambda s: b'X' + len(s).to_bytes(4, 'little') + s.encode()
  storage = (
    b'(' + text('storage') + b'ctorch\n' + kind.encode() + b'\n'
    + text(key) + text('cpu') + b'K%c' % count + b'tQ'
  )  # fmt: skip
  return (
    b'\x80\x02}' + text('t') + b'ctorch._utils\n_rebuild_tensor_v2\n('
    + storage + b'K\x00' + ints(shape) + ints(strides)
    + b'\x89ccollections\nOrderedDict\n)RtRs.'
  )  # fmt: skip


class TestTorchFile:
  def test_a_tensor_is_read_when_it_is_wanted(self, tmp_path):
    data = np.arange(4, dtype='<f4')
    path = tmp_path / 'x.pt'
    torch_zip(path, tensor_code((2, 2), (1, 2)), data__0=data.tobytes())
    with TorchFile(path) as file:
      got = file.read(file.tree['t'])
    np.testing.assert_array_equal(got, data.reshape(2, 2).T)

  @pytest.mark.parametrize(
    'code,message',
    [
      (tensor_code((3, 2), (2, 1)), 'shape .3, 2. over 4 numbers'),
      (tensor_code((200, 200), (0, 0)), 'over 4 numbers'),
      (tensor_code((2,), (9,)), 'data/0'),
      (tensor_code((4,), (1,), count=5), 'should hold 20 bytes'),
      (tensor_code((4,), (1,), key='1'), 'data/1 is missing'),
      (tensor_code((4,), (1,), key='../0'), 'storage'),
      (tensor_code((4,), (1,), kind='load'), 'asks for torch.load'),
      (b'\x80\x02ctorch\nFloatStorage\n)R.', 'no admitted name'),
      (b'\x80\x02ccollections\nOrderedDict\nK\x01\x85R.', 'OrderedDict'),
    ],
  )
  def test_descriptions_that_lie_are_refused(self, tmp_path, code, message):
    path = torch_zip(tmp_path / 'x.pt', code, data__0=b'\0' * 16)
    with pytest.raises(UnsafePickle, match=message), TorchFile(path) as file:
      file.read(file.tree['t'])

  def test_other_files_are_named(self, tmp_path):
    path = tmp_path / 'x.pt'
    path.write_bytes(pickle.dumps({'state_dict': {}}))
    with pytest.raises(UnsafePickle, match=r'no zip file of torch.save'):
      TorchFile(path)
    torch_zip(path, b'', byteorder=b'big')
    with pytest.raises(UnsafePickle, match='big-endian'):
      TorchFile(path)
    with zipfile.ZipFile(path, 'w') as made:
      made.writestr('notes.txt', 'hello')
    with pytest.raises(UnsafePickle, match=r'not of torch.save'):
      TorchFile(path)
