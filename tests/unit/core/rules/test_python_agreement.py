"""What existing installations accept and what makes sense gives the same answer here (Python's own)."""

import pytest
from tests.unit.core.rules.reference import CT_TAGS, python_value

from mercure.core.rules import Expression
from mercure.core.rules.functions import FUNCTIONS
from mercure.core.rules.methods import METHODS

EXPRESSIONS = r"""
tags.Modality == 'CT'
tags.modality != 'CT'
tags["Modality"] == "CT"
@Modality@ == 'CT'
@Modality@=='CT'and @PatientSex@=='F'
"Modality" in tags
"Modality" not in tags
'modality' in tags
"X" in tags and tags.X == '1'
"X" not in tags or tags.X == '1'
5 in tags
len(tags) == 11
sorted(tags)[0] == '0018,0060'
any(map(str.isdigit, tags))
'Modality' in list(tags)
tags["Moda" + "lity"] == 'CT'
tags.PatientSex
tags.ContrastBolusAgent
not tags.ContrastBolusAgent
tags.ContrastBolusAgent or tags.Modality
tags.ContrastBolusAgent and tags.X
True or tags.X
False and tags.X
tags.Modality == 'MR' or tags.PatientSex == 'F' and not tags.Modality == 'CT'
not not tags.Modality
tags.Modality in ('CT', 'MR')
tags.Modality in ['CT', 'MR']
tags.Modality in {'CT', 'MR'}
tags.Modality in {'CT': 1}
tags.Modality in ('CT')
tags.Modality not in ('CT', tags.PatientSex)
1 < float(tags.SeriesNumber) < 5
1 < float(tags.SeriesNumber) < 3 < 1 / 0
1 == 1.0 != 2 <= 2 >= 2 > 1
3 in [1, 2] in [False]
'A' in tags in [1]
None is None
None is not True
tags.Modality is not None
True is (1 == 1)
tags.ImageType.split('\\')[2] == 'AXIAL'
tags.ImageType.split('\\')[-1][:3] == 'CT_'
tags.ImageType[::2] == tags.ImageType[0:100:2]
tags.ImageType[:-2][3:] == 'GINAL'
[1, 2, 3][::-1] == [3, 2, 1]
{'CT': 1, 'MR': 2}[tags.Modality] == 1
{'a': [1], 'b': (2,)}['a'][0]
{(1, 2): 3}[1, 2]
{(1, 2): 3}[1, 2,] == 3
'ORIGINAL\PRIMARY' in tags.ImageType
r'L\P' in tags.ImageType
() == tuple() and [] == list() and {} == dict() and set() == set([])
(1,) == tuple([1]) and (1, 2,) == (1, 2)
[1, int('2'),] == [1, 2] and {int('1'), 2,} == {1, 2} and {int('1'): 2,} == {1: 2}
1 + 2 * 3 - 4 / 2 == 5.0
7 // 2 == 3 and -7 // 2 == -4 and -7 % 3 == 2
2 ** 3 ** 2 == 512 and -2 ** 2 == -4 and 2 ** -1 == 0.5
- - 1 == 1 and +1 == 1 and ~5 == -6 and ~True == -2 and -True == -1
True + True == 2
5 & 3 | 8 ^ 1 == 1
(5 & 3 | 8 ^ 1) == 9
{1, 2} & {2, 3} == {2}
({1, 2} | {3}) - {1} == {2, 3} and {1} ^ {2} == {1, 2} and {1} < {1, 2}
(1 > 0) & (2 > 1)
{'a': 1} | {'b': 2} == {'a': 1, 'b': 2}
'a' + 'b' == 'ab' and 'ab' * 2 == 2 * 'ab' == 'abab' and 'a' * -5 == ''
[1] + [2] == [1, 2] and [0] * 2 == [0, 0] and (1,) * True == (1,)
'%s-%05.1f-%d%%' % ('a', 1.5, 3) == 'a-001.5-3%'
'%x' % 255 == 'ff'
7.5 % 2 == 1.5
1_000 == 1e3 and 0x10 == 16 and 2j * 2j == -4
pi > 3 and e < 3
int('12') + int(3.9) + int() + int('ff', 16) + int('11', base=2)
float('1.5') + float() + float('-inf') < 0
complex('1+2j') == complex(1, 2) and complex() == 0
bool('') or bool() or bool(0.0)
bool(map(float, []))
str(5) + str() + str([1, 'a']) + repr('x') + repr(None)
format(3.14159, '.2f') == '3.14' and format(7, '03d') == '007' and format('a') == 'a'
list('ab') == ['a', 'b'] and tuple({1: 2}) == (1,) and list(range(3)) == [0, 1, 2]
set('aab') == {'a', 'b'} and frozenset([1]) == {1} and len(set(range(500))) == 500
dict([('a', 1), ['b', 2], 'cd']) == {'a': 1, 'b': 2, 'c': 'd'} and dict({'a': 1}) == {'a': 1}
range(3) == range(0, 3, 1) and range(10)[2:4] == range(2, 4)
int(tags.SeriesNumber) in range(1, 10 ** 15)
4.0 in range(10) and 'a' not in range(10) and True in range(2)
sum([1, 2.5, True]) + sum([1], start=2) + sum(range(10))
sum([[1], [2]], []) == [1, 2]
sum([0.1] * 10) > 0
min(3, 1, 2) + max([3, 1]) + min([], default=7) + len(max('ab', 'c', key=len))
max(tags.ImageType.split('\\'), key=len) == 'CT_SOM5 SPI'
max(map(len, tags.ImageType.split('\\'))) == 11
any([]) or all([])
any(map(float, ['1', 'x']))
all(filter(None, [0, 1]))
any(range(10 ** 12))
list(filter(str.isdigit, ['a', '1'])) == ['1']
list(map(pow, [2, 3], [3, 2])) == [8, 9]
list(map(str.replace, ['ab'], ['a'], ['b'])) == ['bb']
sorted([3, 1], reverse=True) == [3, 1] and sorted('bA', key=str.lower) == ['A', 'b']
sorted([2, 1], key=None) == [1, 2]
list(reversed([1, 2])) == [2, 1] and list(reversed(range(2))) == [1, 0] and list(reversed('ab')) == ['b', 'a']
list(enumerate('ab', 1)) == [(1, 'a'), (2, 'b')] and list(enumerate('a', start=2)) == [(2, 'a')]
list(zip('ab', [1, 2, 3])) == [('a', 1), ('b', 2)] and list(zip()) == []
dict(zip('ab', range(2))) == {'a': 0, 'b': 1}
2 in map(int, ['1', '2', 'x'])
abs(-2) + round(2.567, 1) + round(2.5) + round(1234, -2) + round(1.25, ndigits=1)
pow(2, 10) == 1024 and pow(2, 10, 7) == 2 and pow(2, -1) == 0.5 and pow(3, -1, 7) == 5
divmod(7, 2) == (3, 1)
chr(65) + hex(255) + oct(8) + bin(5) == 'A0xff0o100b101' and ord('A') == 65
1 ** 10 ** 300 == 1 and 0 ** 5 == 0 and 1.5 ** 2 == 2.25
sqrt(4) + ceil(1.2) + floor(1.8) + trunc(1.8) + fabs(-1) + factorial(5)
log(e) + log10(100) + log2(8) + log(8, 2) + exp(0)
sin(0) + cos(0) + tan(0) + asin(0) + acos(1) + atan(0) + atan2(0, 1)
isinf(float('inf')) and isnan(float('nan'))
'aXb'.lower().upper().title().capitalize().swapcase().casefold() == 'axb'
' a '.strip() + ' a'.lstrip() + 'a '.rstrip() + 'xax'.strip('x') == 'aaaa'
'abc'.startswith('ab') and 'abc'.endswith(('x', 'c')) and 'abc'.startswith('c', 2)
'abcab'.find('b') + 'abcab'.rfind('b') + 'abcab'.index('c') + 'abcab'.rindex('a') + 'abcab'.count('ab')
'aab'.replace('a', 'x') + 'aab'.replace('a', 'yyy', 1) + 'ab'.replace('', '-') + 'aa'.replace('a', '', 0)
'a,b,c'.split(',', 1) == ['a', 'b,c'] and 'a b'.split() == ['a', 'b']
'a,b'.split(sep=',', maxsplit=-1) == ['a', 'b']
'a,b,c'.rsplit(',', 1) == ['a,b', 'c'] and 'a\nb'.splitlines() == ['a', 'b']
'a\nb'.splitlines(keepends=True)[0] == 'a\n'
'a-b-c'.partition('-') == ('a', '-', 'b-c') and 'a-b-c'.rpartition('-')[0] == 'a-b'
', '.join(['a', 'b']) == 'a, b' and ''.join(reversed('ab')) == 'ba' and '-'.join(map(str, range(3))) == '0-1-2'
'abc'.removeprefix('a') + 'abc'.removesuffix('c') == 'bcab'
'5'.zfill(3) + '5'.ljust(3) + '5'.rjust(3, '.') + '5'.center(3, '-') == '0055  ..5-5-'
'1'.isdigit() and '1'.isdecimal() and '1'.isnumeric() and 'a'.isalpha() and 'a1'.isalnum() and 'a'.isascii()
' '.isspace() and 'a'.islower() and 'A'.isupper() and 'Ab'.istitle() and 'a'.isprintable() and 'a'.isidentifier()
[1, 2, 1].count(1) + [1, 2].index(2) + (1, 2, 1).count(1) + (1, 2).index(2, 1)
{'a': 1}.get('a') + {'a': 1}.get('b', 5) + len({'a': 1}.keys()) + sum({'a': 1}.values())
'a' in {'a': 1}.keys() and list({'a': 1}.items()) == [('a', 1)]
{1}.union([2], {3}) == {1, 2, 3} and {1, 2}.intersection([2]) == {2} and {1, 2}.difference(range(2)) == {2}
{1}.isdisjoint([2]) and {1}.issubset([1, 2]) and {1, 2}.issuperset([1]) and {1}.symmetric_difference([2]) == {1, 2}
frozenset([1]).union([2]) == {1, 2}
1.5.is_integer() or float(tags.SliceThickness).is_integer()
str.lower('A') == 'a' and str.split('a b', ' ') == ['a', 'b'] and list.count([1], 1)
tags.Modality == 'CT' # a remark with ' and @X@
float('1e5') > 10_000
(((tags.Modality)))=='CT'
tags.SeriesDescription.split()[1] == '1.0' and '70' in tags.SeriesDescription
0
'' in tags.Modality
1.5
[]
[0]
None
@0018,0060@ == '120' and tags["0018,0060"] == '120'
""".strip().splitlines()


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_the_answer_is_the_one_that_python_gives(text: str) -> None:
    outcome = "matched" if python_value(text) else "not_matched"
    evaluation = Expression.parse(text).evaluate(CT_TAGS)
    assert (evaluation.outcome, evaluation.reason) == (outcome, "")


@pytest.mark.parametrize(
    "text",
    r"""
tags.SliceThickness < 2
int('abc') > 1
float('1,5') > 1
complex('x') == 1
tags.ImageType.split('\\')[9] == 'A'
{'CT': 1}['MR'] == 1
1 / 0
0 ** -1
float('inf') // 1 == int(float('inf'))
exp(1000)
10 ** 1000 / 3.0 > 1 or int('5') / 10 ** 1000
sqrt(-1)
'a' + 1
-'a'
~1.5
not -'a'
len(5)
len(map(float, []))
list(5)
sum('ab')
sum(['a'], 'b')
sum([1], 'b')
sorted([1, 'a'])
min([])
max(5)
5 in 5
'abc' - 'b'
{[1]}
{([], 1)}
{[1]: 2}
dict([1])
dict([range(2), 5])
set([[1]])
'a'.index('b')
'a'.join([1])
'a'.replace('b', 1)
'a'.split('')
'a'.count(1)
'a'.zfill('b')
[1].index(2)
(1).is_integer() and 5 .count(1)
[1].lower()
list(map(str.lower, [1]))
list(map(str.replace, [[1]], ['a'], ['b']))
list(map(len, 5))
list(map(None, [1]))
sorted([1], key=len)
max(1, 2, default=3)
{1}.union(5)
reversed({1})
round('a')
round(1.5, 'a')
pow('a', 2)
pow(2, 2.0, 3)
pow(2, -1, 4)
factorial(-1)
factorial('a')
chr(-1)
ord('ab')
divmod(1, 0)
format([1], '5')
format(1, 'zz')
'%d' % 'a'
'%z' % 1
'%s %s' % 'a'
'%(a)s' % 1
tags[len('a')] == 'x'
tags.Modality[0:'a']
tags.Modality['a']
5[0]
map(float, [])[0]
[1] in tags
len(range(10 ** 30))
""".strip().splitlines(),
)
def test_what_python_cannot_answer_fails_with_a_reason(text: str) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever Python says
        _consumed = list(python_value(f"[{text}]"))
    evaluation = Expression.parse(text).evaluate(CT_TAGS)
    assert evaluation.outcome == "failed"
    assert "column" in evaluation.reason


def test_every_function_and_method_is_used_by_an_example_above() -> None:
    everything = "\n".join(EXPRESSIONS)
    assert [name for name in FUNCTIONS if f"{name}(" not in everything] == []
    assert [name for name in METHODS if f".{name}(" not in everything] == []
