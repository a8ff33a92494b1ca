"""Pickles read as data: nothing in them is imported, and nothing is called.

A pickle is a program for a small stack machine that may import any name and
call it. Here a machine of our own runs it: names are looked up in a table of
ours and whatever is not in the table is refused by name, as is every opcode
that data has no use for.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any


class UnsafePickle(ValueError):
  """A pickle that asks for more than data; the message says for what."""


class Name:
  """A name that a pickle mentions and that the table admits.

  Attributes:
    path: 'module.name'.
    value: what the table says of it.
  """

  __slots__ = ('path', 'value')

  def __init__(self, path: str, value: Any):
    self.path, self.value = path, value


class Record:
  """An object of a class that we do not have: its attributes.

  Attributes:
    name: of the class.
    state: by attribute.
  """

  __slots__ = ('name', 'state')

  def __init__(self, name: str):
    self.name, self.state = name, {}

  def build(self, state: Any) -> 'Record':
    """Takes the attributes."""
    if not isinstance(state, dict):
      raise UnsafePickle(f'the state of {self.name} is no dictionary')
    self.state.update(state)
    return self


def read(
  file: Any,
  names: Mapping[str, Any],
  what: str,
  persistent: Callable[[Any], Any] | None = None,
) -> Any:
  """Reads the pickle at the file's place and leaves the file behind it.

  Args:
    file: binary; bytes between opcodes may be read by `build` of an object.
    names: by 'module.name', a function of ours from the arguments to what shall
      stand in the object's place, or anything else for a name that is only
      mentioned. Of what it makes, `build(state)` takes the state and returns
      what stays in its place.
    what: names the file in messages.
    persistent: what stands for a persistent id.

  Raises:
    UnsafePickle: naming what is asked for, or saying that the file is corrupt.
  """
  machine = _Machine(names, persistent)
  try:
    for opcode, argument, _ in pickletools.genops(file):
      if opcode.name == 'STOP':
        return machine.result()
      machine.run(opcode.name, argument)
  except UnsafePickle as error:
    raise UnsafePickle(f'{what}: {error}') from None
  except (ValueError, TypeError, LookupError, AttributeError) as error:
    raise UnsafePickle(f'{what}: corrupt pickle ({error})') from error
  raise UnsafePickle(f'{what}: corrupt pickle (it does not end)')


_MARK = object()
_PUSHED = {
  *('BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT'),
  *('BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8'),
  *('BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8'),
}
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'MARK': _MARK}
_EMPTY = {'EMPTY_DICT': dict, 'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple}
_KEYS = (str, int, float, bool, type(None))
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}


class _Machine:
  def __init__(self, names, persistent):
    self._names, self._persistent = names, persistent
    self._stack, self._memo = [], {}

  def result(self) -> Any:
    value = self._pop()
    if self._stack:
      raise UnsafePickle('corrupt pickle (it ends with several values)')
    return value

  def run(self, name: str, argument: Any) -> None:
    push = self._stack.append
    if name in _PUSHED:
      push(argument)
    elif name in _CONSTANTS:
      push(_CONSTANTS[name])
    elif name in _EMPTY:
      push(_EMPTY[name]())
    elif name in _TUPLES:
      push(tuple(self._pop_last(_TUPLES[name])))
    elif hasattr(self, f'op_{name.lower()}'):
      getattr(self, f'op_{name.lower()}')(argument)
    else:
      raise UnsafePickle(f'opcode {name} is refused: plain data has no use')

  def _pop(self) -> Any:
    value = self._stack.pop()
    if value is _MARK:
      raise UnsafePickle('corrupt pickle (a mark where a value should be)')
    return value

  def _pop_last(self, count: int) -> list[Any]:
    return [self._pop() for _ in range(count)][::-1]

  def _pop_to_mark(self) -> list[Any]:
    values = []
    while (value := self._stack.pop()) is not _MARK:
      values.append(value)
    return values[::-1]

  def op_proto(self, version: int) -> None:
    if version > 5:
      raise UnsafePickle(f'pickle protocol {version}, at most 5 is known')

  def op_frame(self, size: int) -> None:
    """Says only how much to read at once."""

  def op_tuple(self, _) -> None:
    self._stack.append(tuple(self._pop_to_mark()))

  def op_append(self, _) -> None:
    self._extend([self._pop()])

  def op_appends(self, _) -> None:
    self._extend(self._pop_to_mark())

  def _extend(self, values: list[Any]) -> None:
    if type(self._stack[-1]) is not list:
      raise UnsafePickle('corrupt pickle (it appends to what is no list)')
    self._stack[-1].extend(values)

  def op_setitem(self, _) -> None:
    self._update(self._pop_last(2))

  def op_setitems(self, _) -> None:
    self._update(self._pop_to_mark())

  def _update(self, values: list[Any]) -> None:
    if type(self._stack[-1]) is not dict or len(values) % 2:
      raise UnsafePickle('corrupt pickle (it fills what is no dictionary)')
    if any(type(key) not in _KEYS for key in values[::2]):
      raise UnsafePickle('a dictionary whose keys are no texts or numbers')
    self._stack[-1].update(zip(values[::2], values[1::2]))

  def op_binput(self, number: int) -> None:
    self._memo[number] = self._stack[-1]

  op_long_binput = op_binput

  def op_memoize(self, _) -> None:
    self._memo[len(self._memo)] = self._stack[-1]

  def op_binget(self, number: int) -> None:
    self._stack.append(self._memo[number])

  op_long_binget = op_binget

  def op_global(self, spelt: str) -> None:
    self._stack.append(self._named(spelt.replace(' ', '.')))

  def op_stack_global(self, _) -> None:
    module, name = self._pop_last(2)
    self._stack.append(self._named(f'{module}.{name}'))

  def _named(self, path: str) -> Name:
    if path not in self._names:
      raise UnsafePickle(
        f'it asks for {path}, which is never imported; admitted are '
        f'{sorted(self._names)}'
      )
    return Name(path, self._names[path])

  def op_reduce(self, _) -> None:
    callee, arguments = self._pop_last(2)
    if not isinstance(callee, Name) or not callable(callee.value):
      raise UnsafePickle('it calls what is no admitted name')
    if type(arguments) is not tuple:
      raise UnsafePickle('corrupt pickle (arguments are no tuple)')
    self._stack.append(callee.value(*arguments))

  op_newobj = op_reduce

  def op_build(self, _) -> None:
    made, state = self._pop_last(2)
    kept = made
    if hasattr(made, 'build'):
      kept = made.build(state)
    elif type(made) is not dict:
      raise UnsafePickle('it sets attributes of what is no admitted object')
    # A dictionary's attributes (the version of a state_dict) say nothing here.
    self._stack.append(kept)
    for number, value in self._memo.items():
      if value is made:
        self._memo[number] = kept

  def op_binpersid(self, _) -> None:
    if self._persistent is None:
      raise UnsafePickle('it refers to something outside the file')
    self._stack.append(self._persistent(self._pop()))
