"""Templates, answer masks and placeholders."""

import json
import pickle

import numpy as np
import pytest
import tokenizers
from transformers.utils import chat_template_utils

from data import chat, records
from data.visual import Expansion

CHATML = (
  "{% for message in messages %}{% if loop.first and message.role != 'system' "
  "%}{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{% endif %}"
  "{{ '<|im_start|>' + message.role + '\\n' + message.content + "
  "'<|im_end|>\\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# The shape of Qwen2-VL's and LLaVA-OneVision's: contents are lists of parts.
PARTS = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- for part in message.content %}
        {%- if part.type == 'image' %}
            {{- '<image>' }}
        {%- elif part.type == 'video' %}
            {{- '<video>' }}
        {%- elif part.type == 'text' %}
            {{- part.text }}
        {%- endif %}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
# A generation prompt that the conversation does not repeat, so only the tag
# tells where answers are; the tag leaves the end of turn out.
TAGGED = (
  "{% for m in messages %}{{ '<|im_start|>' + m.role + ' ' }}"
  "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
  '{% endgeneration %}{% else %}{{ m.content }}{% endif %}'
  "{{ '<|im_end|>\\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIALS = ('<pad>', '<|im_start|>', '<|im_end|>', '<image>', '<video>')
LETTERS = [chr(c) for c in range(32, 127)] + ['\n']
WORDS = ['user', 'assistant', 'system']
TALK = [
  {'role': 'user', 'content': 'one?'},
  {'role': 'assistant', 'content': 'yes'},
  {'role': 'user', 'content': 'two?'},
  {'role': 'assistant', 'content': 'no'},
]


def make_chat(template, letters=(*WORDS, *LETTERS)):
  tokenizer = chat.char_tokenizer(letters, SPECIALS)
  marks = {'image': '<image>', 'video': '<video>'}
  return chat.Chat(tokenizer.to_str(), template, marks)


def supervised(talker, encoded):
  """The supervised tokens as text, '|' between runs."""
  runs, before = [], 0
  for token, on in zip(encoded['tokens'], encoded['loss_mask']):
    if on and not before:
      runs.append('')
    if on:
      runs[-1] += talker.tokenizer.id_to_token(int(token))
    before = on
  return '|'.join(runs)


@pytest.mark.parametrize('template', [CHATML, PARTS, TAGGED])
def test_mask_is_each_answer_and_its_end_of_turn(template):
  talker = make_chat(template)
  encoded = talker.encode(TALK)
  assert supervised(talker, encoded) == 'yes<|im_end|>|no<|im_end|>'
  assert encoded['tokens'].dtype == np.int32
  assert encoded['loss_mask'].dtype == np.float32


def test_mask_on_qwen2_chatml_counted_by_hand():
  talker = make_chat(CHATML)
  encoded = talker.encode(TALK[:2])
  names = [talker.tokenizer.id_to_token(i) for i in encoded['tokens']]
  system = ['<|im_start|>', 'system', '\n', *'Be brief.', '<|im_end|>', '\n']
  user = ['<|im_start|>', 'user', '\n', *'one?', '<|im_end|>', '\n']
  answer = ['<|im_start|>', 'assistant', '\n', *'yes', '<|im_end|>', '\n']
  assert names == system + user + answer
  expected = [0] * (len(system) + len(user) + 3) + [1, 1, 1, 1, 0]
  assert encoded['loss_mask'].tolist() == expected


@pytest.mark.parametrize('template', [CHATML, PARTS])
def test_prompt_is_what_precedes_the_last_answer(template):
  talker = make_chat(template)
  prompt = talker.encode_prompt(TALK[:3])
  whole = talker.encode(TALK)
  assert whole['tokens'][: len(prompt)].tolist() == prompt.tolist()
  assert supervised(
    talker, {k: v[len(prompt) :] for k, v in whole.items()}
  ) == ('no<|im_end|>')


@pytest.mark.parametrize('template', [CHATML, TAGGED])
@pytest.mark.parametrize('prompt', [False, True])
def test_renders_as_transformers_does(template, prompt):
  theirs, _ = chat_template_utils.render_jinja_template(
    conversations=[TALK], chat_template=template, add_generation_prompt=prompt
  )
  assert make_chat(template).render(TALK, prompt) == theirs[0]


def test_tools_of_templates_work():
  template = (
    "{% if messages|length > 4 %}{{ raise_exception('too many') }}{% endif %}"
    "{{ strftime_now('%Y') }}{{ {'a': '<é>'} | tojson }}"
    '{% for m in messages %}\n'
    '  {% if loop.index > 3 %}{% break %}{% endif %}\n'
    '{{ m.content }}{% endfor %}'
  )
  text = make_chat(template).render(TALK[:2])
  assert text[:2] == '20' and text[4:] == '{"a": "<é>"}one?yes'
  with pytest.raises(ValueError, match='refused.*too many'):
    make_chat(template).render(TALK + TALK[:1])


def test_template_runs_in_a_sandbox():
  evil = '{{ messages.__class__.__mro__ }}{{ messages.append(1) }}'
  with pytest.raises(ValueError, match='refused'):
    make_chat(evil).render(TALK)


def test_dropped_text_is_an_error():
  drops = (
    "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
  )
  with pytest.raises(ValueError, match=r"message 1 \(assistant\): 'yes'"):
    make_chat(drops).encode(TALK)


def test_unstable_template_is_an_error_that_shows_both_texts():
  unstable = TAGGED.replace('{% generation %}', '').replace(
    '{% endgeneration %}', ''
  )
  with pytest.raises(ValueError, match='prefix-stable at message 1'):
    make_chat(unstable).encode(TALK)


def grown(*counts, name='image'):
  """Placeholders that stay in their place and grow."""
  return [Expansion(f'<{name}>', f'<{name}>', (count,)) for count in counts]


@pytest.mark.parametrize('template', [CHATML, PARTS])
def test_placeholders_grow_to_their_visual_tokens(template):
  talker = make_chat(template)
  parts = [
    {'type': 'image'},
    {'type': 'text', 'text': 'a'},
    {'type': 'video'},
    {'type': 'text', 'text': 'b'},
    {'type': 'image'},
  ]
  talk = [{'role': 'user', 'content': parts}, TALK[1]]
  encoded = talker.encode(talk, grown(3, 2, 1))
  image, video = talker.placeholder_ids
  a, b = (talker.tokenizer.token_to_id(letter) for letter in 'ab')
  inside = [image] * 3 + [a] + [video] * 2 + [b, image]
  assert f'{inside}'[1:-1] in f'{encoded["tokens"].tolist()}'
  assert supervised(talker, encoded) == 'yes<|im_end|>'
  assert (
    len(encoded['tokens'])
    == len(talker.encode(talk, grown(1, 1, 1))['tokens']) + 3
  )
  prompt = talker.encode_prompt(talk[:1], grown(3, 2, 1))
  assert encoded['tokens'][: len(prompt)].tolist() == prompt.tolist()


@pytest.mark.parametrize('visual', [[], [4, 4]])
def test_placeholder_mismatch_names_both_numbers(visual):
  talk = [{'role': 'user', 'content': [{'type': 'image'}]}, TALK[1]]
  with pytest.raises(records.BadRecord, match='placeholder mismatch: 1 .*'):
    make_chat(PARTS).encode(talk, grown(*visual))


def test_an_expansion_may_write_text_around_its_placeholders():
  talk = [
    {'role': 'user', 'content': [{'type': 'image'}, {'type': 'video'}]},
    {'role': 'assistant', 'content': 'yes'},
    {'role': 'user', 'content': [{'type': 'image'}]},
    {'role': 'assistant', 'content': 'no'},
  ]
  talker = make_chat(CHATML)
  film = Expansion('<video>', 'a<video>b<video>', (2, 3))
  encoded = talker.encode(talk, [*grown(1), film, *grown(2)])
  image, video = talker.placeholder_ids
  a, b = (talker.tokenizer.token_to_id(letter) for letter in 'ab')
  written = [image, a, video, video, b, video, video, video]
  assert f'{written}'[1:-1] in f'{encoded["tokens"].tolist()}'
  assert supervised(talker, encoded) == 'yes<|im_end|>|no<|im_end|>'
  visual = talker.is_placeholder(encoded['tokens'])
  assert visual.sum() == 1 + 5 + 2
  with pytest.raises(records.BadRecord, match="no '<video>' for one of 4"):
    talker.encode(talk, [*grown(1), film, film, *grown(2)])


def test_placeholder_written_in_the_text_is_a_mismatch():
  talk = [{'role': 'user', 'content': 'what is <image>?'}, TALK[1]]
  with pytest.raises(
    records.BadRecord, match='1 placeholders.*, 0 of 0 images'
  ):
    make_chat(CHATML).encode(talk)


@pytest.mark.parametrize(
  'answer, reason',
  [
    ('', 'empty answer'),
    (' \n', 'empty answer'),
    (7, 'wrong type'),
    ([{'type': 'text', 'text': 7}], 'wrong type'),
    (['yes'], 'wrong type'),
  ],
)
def test_unusable_answers_are_bad_rows(answer, reason):
  talk = [TALK[0], {'role': 'assistant', 'content': answer}]
  with pytest.raises(records.BadRecord, match=reason):
    make_chat(CHATML).encode(talk)
  with pytest.raises(records.BadRecord, match='empty answer'):
    make_chat(CHATML).encode(TALK[:1])


def test_token_across_the_border_of_an_answer_is_split():
  # '\n' + 'x' is one unit here, as '\n\n' is in byte-level vocabularies: the
  # answer starts inside it, and a sampler would see '\n' alone.
  talker = make_chat(CHATML, (*WORDS, '\nx', *LETTERS))
  talk = [TALK[0], {'role': 'assistant', 'content': 'xy'}]
  encoded = talker.encode(talk)
  assert supervised(talker, encoded) == 'xy<|im_end|>'
  prompt = talker.encode_prompt(talk[:1])
  assert encoded['tokens'][: len(prompt)].tolist() == prompt.tolist()


def test_byte_level_offsets_of_multibyte_text():
  bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
  bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(False)
  bpe.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=300,
    special_tokens=list(SPECIALS),
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  bpe.train_from_iterator(['one two user assistant'], trainer)
  talker = chat.Chat(bpe.to_str(), CHATML)
  answer = 'größer 深さ 🙂'
  encoded = talker.encode([TALK[0], {'role': 'assistant', 'content': answer}])
  ids = encoded['tokens'][encoded['loss_mask'] == 1]
  assert bpe.decode(ids.tolist(), skip_special_tokens=False) == (
    answer + '<|im_end|>'
  )


def test_char_tokenizer_round_trip_and_longest_match(tmp_path):
  tokenizer = chat.char_tokenizer(['a', 'b', 'ab', '\n', '.'], ['<pad>', '<e>'])
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  again = tokenizers.Tokenizer.from_file(str(tmp_path / 'tokenizer.json'))
  assert again.encode('aab.\n<e>').ids == [2, 4, 6, 5, 1]
  assert again.decode([2, 4, 6, 5, 1]) == 'aab.\n'
  assert again.token_to_id('<pad>') == 0
  with pytest.raises(Exception, match='WordLevel'):
    again.encode('c')
  with pytest.raises(ValueError, match='distinct'):
    chat.char_tokenizer(['a', 'a'], [])


@pytest.mark.parametrize('place', ['jinja', 'json', 'config'])
def test_load_chat_finds_the_template(tmp_path, place):
  tokenizer = chat.char_tokenizer([*WORDS, *LETTERS], SPECIALS)
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  template = CHATML + '{{ eos_token }}'
  config = {'eos_token': {'content': '<|im_end|>'}, 'model_max_length': 9}
  if place == 'config':
    config['chat_template'] = template
  elif place == 'json':
    wrapped = json.dumps({'chat_template': template})
    (tmp_path / 'chat_template.json').write_text(wrapped)
  else:
    (tmp_path / 'chat_template.jinja').write_text(template)
  (tmp_path / 'tokenizer_config.json').write_text(json.dumps(config))
  talker = chat.load_chat(tmp_path, {'image': '<image>'})
  assert talker.render(TALK[:2]).endswith('yes<|im_end|>\n<|im_end|>')
  copy = pickle.loads(pickle.dumps(talker))
  assert copy.encode_prompt(TALK[:1]).tolist() == (
    talker.encode_prompt(TALK[:1]).tolist()
  )


def test_load_chat_names_what_is_missing(tmp_path):
  with pytest.raises(FileNotFoundError, match='no tokenizer.json'):
    chat.load_chat(tmp_path)
  chat.char_tokenizer(['a'], []).save(str(tmp_path / 'tokenizer.json'))
  with pytest.raises(FileNotFoundError, match='no chat template'):
    chat.load_chat(tmp_path)


def test_unknown_placeholder_is_an_error():
  tokenizer = chat.char_tokenizer(['a'], [])
  with pytest.raises(ValueError, match='<image>'):
    chat.Chat(tokenizer.to_str(), CHATML, {'image': '<image>'})
