"""Reading compiled programs, on text written by hand."""

import pytest

from launch.aot import hlo

PROGRAM = """\
HloModule jit_step, is_scheduled=true

%start (p.1: bf16[1,8]) -> bf16[1,16] {
  %p.1 = bf16[1,8]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[1,16]{1,0:T(8,128)} all-gather(%p.1), \
channel_id=3, replica_groups=[2,2]<=[4], metadata={op_name="layer/q"}
}

%middle (p.2: bf16[1,8]) -> bf16[1,16] {
  %p.2 = bf16[1,8]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[1,16]{1,0:T(8,128)} all-gather(%p.2), \
channel_id=3, replica_groups=[2,2]<=[4], metadata={op_name="layer/q"}
}

%all-reduce-scatter.7 (p.3: f32[64]) -> f32[16] {
  %p.3 = f32[64]{0} parameter(0)
  %all-reduce.1 = f32[64]{0} all-reduce(%p.3), channel_id=4, \
replica_groups={{0,1,2,3}}, to_apply=%add
  %index = s32[] constant(0)
  ROOT %slice = f32[16]{0} dynamic-slice(%all-reduce.1, %index)
}

%body (state: (s32[], s32[], bf16[1,8])) -> (s32[], s32[], bf16[1,8]) {
  %state = (s32[], s32[], bf16[1,8]{1,0}) parameter(0)
  %x = bf16[1,8]{1,0} get-tuple-element(%state), index=2
  %a = bf16[1,16]{1,0} fusion(%x), kind=kCustom, calls=%start
  %b = bf16[1,16]{1,0} fusion(%x), kind=kOutput, calls=%middle
  ROOT %next = (s32[], s32[], bf16[1,8]{1,0}) tuple(%i, %n, %x)
}

%condition (state.1: (s32[], s32[], bf16[1,8])) -> pred[] {
  %state.1 = (s32[], s32[], bf16[1,8]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %n.1 = s32[] get-tuple-element(%state.1), index=1
  ROOT %lt = pred[] compare(%i.1, %n.1), direction=LT
}

%outer (s.2: (s32[], bf16[1,8])) -> (s32[], bf16[1,8]) {
  %s.2 = (s32[], bf16[1,8]{1,0}) parameter(0)
  %y = bf16[1,8]{1,0} get-tuple-element(%s.2), index=1
  %from = s32[] constant(2)
  %to = s32[] constant(7)
  %in = (s32[], s32[], bf16[1,8]{1,0}) tuple(%from, %to, %y)
  %inner = (s32[], s32[], bf16[1,8]{1,0}) while(%in), condition=%condition, \
body=%body
  ROOT %out = (s32[], bf16[1,8]{1,0}) tuple(%from, %y)
}

%limit (s.3: (s32[], bf16[1,8])) -> pred[] {
  %s.3 = (s32[], bf16[1,8]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%s.3), index=0
  %three = s32[] constant(3)
  ROOT %lt.1 = pred[] compare(%j, %three), direction=LT
}

ENTRY %main (x.1: bf16[1,8], g: f32[64]) -> f32[16] {
  %x.1 = bf16[1,8]{1,0} parameter(0)
  %g = f32[64]{0} parameter(1)
  %zero = s32[] constant(0)
  %begin = (s32[], bf16[1,8]{1,0}) tuple(%zero, %x.1)
  %loop = (s32[], bf16[1,8]{1,0}) while(%begin), condition=%limit, body=%outer
  %big = f32[1024,8]{1,0} broadcast(%zero), metadata={op_name="logits"}
  %near = f32[4096,8]{1,0:T(8,128)S(1)} broadcast(%zero)
  ROOT %rs = f32[16]{0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.7
}
"""


def test_loops_multiply():
  program = hlo.Program(PROGRAM)
  assert program.entry == 'main'
  assert program.times['outer'] == 3
  assert program.times['body'] == 3 * (7 - 2)


def test_one_channel_is_one_collective():
  found = {one.kind: one for one in hlo.Program(PROGRAM).collectives()}
  assert set(found) == {'all-gather', 'reduce-scatter'}
  gather = found['all-gather']
  # 16 elements of two bytes, half of them from the other chip.
  assert (gather.times, gather.group, gather.sent) == (15, 2, 16)
  assert gather.source == 'layer/q'
  scatter = found['reduce-scatter']
  assert (scatter.times, scatter.group, scatter.sent) == (1, 4, 192)


def test_permutes_of_one_channel_are_several():
  start = '%{} = (f32[{}], f32[{}]) collective-permute-start(%g), channel_id=1'
  pairs = ', source_target_pairs={{0,1},{1,0}}'
  lines = [
    '  ' + start.format(f'ring.{size}', size, size) + pairs for size in (4, 16)
  ]
  program = hlo.Program(
    PROGRAM.replace('  %big', '\n'.join([*lines, '  %big']))
  )
  found = [
    (one.times, one.group, one.sent)
    for one in program.collectives()
    if one.kind == 'collective-permute'
  ]
  assert found == [(1, 2, 16), (1, 2, 64)]


def test_largest_buffers_leave_out_what_stays_on_the_chip():
  first = hlo.Program(PROGRAM).largest(1)[0]
  assert (first.bytes, first.shape) == (4 * 8192, 'f32[1024,8]')
  assert first.source == 'logits'


@pytest.mark.parametrize(
  ('groups', 'size'),
  [
    ('replica_groups={{0,2},{1,3}}, x', 2),
    ('replica_groups=[8,4]<=[4,8]T(1,0), x', 4),
    ("replica_groups=mesh['a'=2,'b'=8] {'b'}, x", 8),
    (
      "replica_groups=mesh['a'=2,'b'=8], device_ids=([2,8]T(1,0)) {'a','b'}",
      16,
    ),
    ('source_target_pairs={{0,1},{1,0}}, x', 2),
  ],
)
def test_groups_in_every_spelling(groups, size):
  assert hlo.group_size(groups) == size
