import pytest

from mercure.core.errors import ExpressionError
from mercure.core.rules import Expression

REFUSED = [
    # text, column, part of the message
    ("", 1, "empty"),
    (" \n\t", 1, "empty"),
    ("# only a remark", 1, "empty"),
    ("tags.Modality = 'MR'", 15, "use == to compare"),
    ("(x := 1)", 4, "use == to compare"),
    ("1 += 1", 3, "use == to compare"),
    ("1 **= 1", 3, "use == to compare"),
    ("(key=5)", 5, "use == to compare"),
    ("(1, key=5)", 5, "unknown name"),
    ("tags.A == 'x'; tags.B == 'y'", 14, "join conditions"),
    ("tags.A == 'x' && True", 15, "write 'and'"),
    ("tags.A == 'x' || True", 15, "write 'or'"),
    ("!True", 1, "write 'not'"),
    ("1 <> 2", 3, "write !="),
    ("1 === 2", 3, "use == to compare"),
    ("1 => 2", 3, "write >="),
    ("1 << 2", 3, "shifting"),
    ("tags.Modality == \u2018CT\u2019", 18, "straight quotes"),
    ("$x", 1, "not part"),
    ("a\\b", 2, "only stand inside quotes"),
    ("'a' == @ Modality @", 8, "without spaces"),
    ("@Modality == 'CT'", 1, "without spaces"),
    ("@__class__@", 1, "without spaces"),
    ("%Modality% == 'CT'", 1, "write @Modality@"),
    ("1 == ä", 6, "only stand inside quotes"),
    ("1\x00", 2, "not allowed"),
    ("'\ud800'", 2, "not allowed"),
    ("'\x07'", 2, "not allowed"),
    ("'a' if True else 'b'", 5, "'if' is not part"),
    ("[x for x in tags]", 4, "comprehension"),
    ("lambda: 1", 1, "'lambda' is not part"),
    ("import os", 1, "statement"),
    ("print(1)", 1, "unknown name 'print'; did you mean 'int'"),
    ("Modality == 'CT'", 1, "tags.Modality or @Modality@"),
    ("true", 1, "did you mean 'True'"),
    ("Float('1') > 1", 1, "did you mean 'float'"),
    ("zzzz", 1, "unknown name 'zzzz' "),
    ("tags.A == 'x' AND True", 15, "did you mean 'and'"),
    ("1 == 1 True", 8, "missing before it"),
    ("tags.A in ('CT' 'MR')", 17, "missing before it"),
    ("1.2.840", 4, "quotes around it"),
    ("tags.A == 'x', tags.B == 'y'", 14, "write 'and' or 'or'"),
    ("1 == 1)", 7, r"\) is not expected"),
    ("1 ==", 5, "not complete"),
    ("and 1", 1, "and is not expected here "),
    ("not", 4, "not complete"),
    ("(1 == 1", 1, r"closing \) is missing"),
    ("[1, 2", 1, "closing ] is missing"),
    ("[1 2]", 4, "2 is not expected"),
    ("{1: 2, 3}", 9, "} is not expected"),
    ("{**1}", 2, "is not expected"),
    ("'a'[]", 4, "an index"),
    ("'a'[1:2:3:4]", 4, "an index"),
    ("'a'[1:2 3]", 9, "is not expected"),
    ("float", 1, "called with brackets: float"),
    ("'a'.lower", 5, "called with brackets: .lower"),
    ("'a'.", 4, "name of a method"),
    ("'a'.lowr()", 5, "did you mean 'lower'"),
    ("'{}'.format(1)", 6, "formatting"),
    ("tags.A.format_map(tags)", 8, "formatting"),
    ("'a'.__class__", 5, "underscore"),
    ("'a'.encode()", 5, "unknown method"),
    ("tags.__class__", 6, "name of a tag"),
    ("tags._values", 6, "name of a tag"),
    ("tags.", 6, "name of a tag"),
    ("tags.5", 5, "5 is not expected"),
    ("tags[5]", 6, "in quotes"),
    ("tags[1:2]", 5, "in quotes"),
    ("tags.get('A')", 9, "this is a value"),
    ("tags('A')", 5, "this is a value"),
    ("'a'('b')", 4, "this is a value"),
    ("float(1)(2)", 9, "this is a value"),
    ("float(1, 2)", 1, "takes 0 to 1 argument"),
    ("len()", 1, "takes 1 argument"),
    ("'a'.split(1, 2, 3)", 5, "takes 0 to 2 argument"),
    ("len(obj=1)", 8, "use == to compare"),
    ("len(key=1)", 5, "takes no argument 'key'"),
    ("sorted([1], key=len, key=len)", 22, "takes no argument 'key'"),
    ("sorted(key=len, [1])", 17, "come first"),
    ("sorted([1], key='a')", 17, "name of a function"),
    ("map('a', [1])", 5, "name of a function"),
    ("map(float([1]), [1])", 10, r"\( is not expected"),
    ("map(print, [1])", 5, "unknown name"),
    ("map(str.format, [1])", 9, "formatting"),
    ("map(str.mro, [1])", 9, "unknown method"),
    ("map(int.lower, [1])", 9, "int has no method 'lower'"),
    ("map(list.lower, [1])", 10, "list has no method 'lower'"),
    ("list.lower([1])", 6, "list has no method 'lower'"),
    ("str.lower", 5, "called with brackets"),
    ("str.split('a' 'b')", 15, "is not expected"),
    ("len(*[1])", 5, "is not expected"),
    ("tags.A == 'CT' or 'MR'", 19, "compare it each time"),
    ("not 'MR'", 5, "compare it each time"),
    ("tags.A is 'CT'", 8, "use == to compare"),
    ("tags.A is not 5", 8, "use != to compare"),
    ("tags.A == 5", 8, "never equals a number"),
    ("5.0 != @A@", 5, "never equals a number"),
    ("tags.A == 'x' & tags.B == 'y'", 15, "write 'and'"),
    ("tags.A == 'x' | True", 15, "write 'or'"),
]


@pytest.mark.parametrize(("text", "column", "message"), REFUSED)
def test_what_is_no_rule_is_refused_with_a_column_and_advice(text: str, column: int, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Expression.parse(text)
    assert caught.match(message)
    assert caught.value.column == column


ESCAPES = """
__import__('os').system('true')
__builtins__
().__class__.__bases__[0].__subclasses__()
''.__class__.__mro__[1].__subclasses__()
[].__class__
{}.__class__.__base__
tags.__init__.__globals__
tags.__reduce__()
tags._Tags__values
(1).__class__
1 .__class__
1..real
1 .real
True.__class__
'{0.__class__}'.format(tags)
'{0.__class__}'.format_map(tags)
str.format('{0.__class__}', tags)
map(str.format, ['{0.__class__}'], [tags])
list(map(str.format_map, ['{x.__class__}'], [tags]))
f'{tags.__class__}'
f"{().__class__}"
getattr(tags, 'Modality')
getattr(str, '__class__')
setattr(tags, 'a', 'b')
vars()
globals()
locals()
dir(tags)
type(tags)
type('X', (), {})
object()
isinstance(1, int)
super()
eval('1')
exec('1')
compile('1', '', 'eval')
open('/etc/passwd')
input()
print(tags)
help()
breakpoint()
exit()
memoryview(b'1')
bytes(5)
bytearray(5)
classmethod(len)
property(len)
id(tags)
hash(tags)
iter(tags)
next(iter(tags))
(lambda: 0).__globals__
lambda x: x
(yield)
await x
[x for x in ().__class__.__bases__]
(x for x in [1]).gi_frame
{x: y for x, y in [(1, 2)]}
map(lambda x: x, [1])
sorted([1], key=lambda x: x)
sorted([1], key=getattr)
sorted([1], key=print)
max([1], key='a'.join)
filter(tags.get, [1])
filter(eval, ['1'])
map(map, [len], [[1]])(1)
int.from_bytes('a', 'b')
int.__subclasses__()
str.__class__
float.fromhex('0x1')
dict.fromkeys('ab')
str.maketrans('a', 'b')
'a'.translate({})
'a'.encode('idna')
'a'.expandtabs(10**9)
[1].append(2)
[1].sort()
[2, 1].clear()
{'a': 1}.update({'b': 2})
{'a': 1}.pop('a')
{'a': 1}.setdefault('b', 1)
{1}.add(2)
tags.Modality.__add__('x')
tags.Modality.__class__.__mro__
tags['Modality'].__class__
@Modality@.__class__
@Modality.__class__@
@Modality@@Modality@()
len.__self__
len.__call__([1])
len.__module__
sum.__self__.open('x')
pi.__class__
e.real
tags := {}
tags.Modality := 'x'
del tags
assert True
import os
from os import system
raise ValueError
try: pass
with open('x') as f: pass
def f(): pass
class X: pass
global tags
1; 2
True if True else False
[*tags]
{**tags}
print(*tags)
dict(**tags)
...
Ellipsis
NotImplemented
re
os
math
math.sqrt(4)
__name__
_
__debug__
tags.Modality\u2024lower()
\uff4cen(tags)
\U0001d4f5en(tags)
""".strip().splitlines()


@pytest.mark.parametrize("text", [*ESCAPES, "len\\\n(tags)", "tags.\ud800", "len(tags)\x00", "tags.A\u2028lower()"])
def test_attempts_to_escape_are_refused_before_anything_is_evaluated(text: str) -> None:
    with pytest.raises(ExpressionError):
        Expression.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000 + "1" + ")" * 5000,
        "[" * 3000,
        "-" * 9999 + "1",
        "not " * 2400 + "1",
        "2**" * 3000 + "1",
        "1+" * 4000 + "1",
        "'a'" + ".lower()" * 1000,
        "'a'" + "[0]" * 3000,
        "len(" * 2000 + ")" * 2000,
        "{1:" * 3000 + "1" + "}" * 3000,
        "1 == " * 10_000 + "1",
    ],
)
def test_deep_nesting_and_length_are_refused_in_little_time(text: str) -> None:
    with pytest.raises(ExpressionError, match=r"nested too deeply|longer than|closing"):
        Expression.parse(text)


@pytest.mark.parametrize("text", ["{}", "{}()", "'a'.{}()", "%{}%", "tags.A {}"])
def test_a_long_wrong_name_is_told_in_short(text: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Expression.parse(text.format("loweruppersplit" * 600))
    assert len(caught.value.message) < 250


def test_long_but_flat_rules_are_accepted() -> None:
    assert Expression.parse(" or ".join(["tags.Modality == 'XX'"] * 400)).text
    assert Expression.parse("tags.Modality in [" + "'CT'," * 1900 + "]").text
    assert Expression.parse("1 < 2" + " < 3" * 2000).text
    assert Expression.parse("(" * 38 + "1" + ")" * 38).text


def test_a_caller_that_is_itself_deep_gets_the_same_error() -> None:
    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        else:
            Expression.parse("((((((((((((1))))))))))))")

    messages = set()
    for depth in range(700, 1000, 5):
        try:
            deep(depth)
        except ExpressionError as error:
            messages.add(error.message)
        except RecursionError:
            break
    assert messages <= {"the expression is nested too deeply"}
