"""The smallest task that rewards can train: say 'a', and only 'a'."""

from data.chat import Chat, char_tokenizer
from data.records import BadRecord
from vlm.rollout.rewards import GroupReward, Reward

TEMPLATE = '{% for m in messages %}{{ m.content[0].text }}<sep>{% endfor %}'


class Task:
  """See experiments/task.py; what is odd about it stands in config.odd."""

  def __init__(self, config):
    self._odd = config.get('odd', '')

  def chat(self):
    tokenizer = char_tokenizer(
      (*'abcdefgh', ' '), ('<pad>', '<end>', '<sep>', '<image>', '<video>')
    )
    return Chat(
      tokenizer.to_str(),
      TEMPLATE,
      {'image': '<image>', 'video': '<video>'},
      {'eos_token': '<end>'},
    )

  def train_rows(self):
    words = ['b', 'cd', 'efg', 'hb', 'dec', 'f', 'gg', 'ch', 'bb', 'e', 'fd']
    if self._odd == 'long':
      words[5] = 'b' * 40
    return [words], None

  def prompt(self, row, rng):
    if row == 'e':
      raise BadRecord('no usable label', 'nothing is asked of e')
    text = row + 'bcd'[rng.integers(3)]
    content = [{'type': 'text', 'text': text}]
    kind = 'long' if len(row) > 1 else 'short'
    return {
      'images': [],
      'messages': [{'role': 'user', 'content': content}],
      'record': {'text': text, 'task': kind},
    }

  def rewards(self):
    broken = lambda text, record: 1 / 0 if 'h' in text else 1.0
    better = lambda completions, records: [
      [float(text.count('a') >= max(t.count('a') for t in group))
       for text in group]
      for group in completions
    ]  # fmt: skip
    return (
      Reward('share', lambda text, record: text.count('a') / 3),
      Reward('format', _is_a, 0.5),
      Reward('broken', broken, 0.1 if self._odd == 'broken' else 0.0),
      GroupReward('best', better, 0.0),
    )

  def specimen(self, record):
    return {'specimen': 'b', 'endless': 'a' * 30}.get(self._odd, 'aa')

  def eval_sets(self):
    return {}


def _is_a(text, record):
  return float(set(text) == {'a'})
