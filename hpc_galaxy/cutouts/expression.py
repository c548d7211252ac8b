"""Conditions over catalog columns, such as ``mag_r < 22 and type in ["EXP", "REX"]``, that a user writes in the configuration.

The text is parsed and walked; nothing is ever executed. What is not on the lists below is refused, with the place marked.

- names: columns of the catalog, and ``mag_<band>``, AB magnitudes corrected for extinction
- numbers, strings (to compare columns such as ``type`` with), True and False
- ``+ - * / ** %``, comparisons (also chained), ``in`` and ``not in`` a list of constants
- ``and``, ``or``, ``not``; ``& | ~`` between conditions, or between the bits of integers
- the functions `FUNCTIONS`

Numbers are compared in double precision. A comparison with NaN is False, ``!=`` and ``not in`` too; ``not (mag_r < 22)`` is True where
there is no magnitude, for it asks for the contrary.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np

from hpc_galaxy.errors import ConfigError

FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "abs": (np.abs, 1),
    "sqrt": (np.sqrt, 1),
    "log10": (np.log10, 1),
    "hypot": (np.hypot, 2),
    "minimum": (np.minimum, 2),
    "maximum": (np.maximum, 2),
    "isfinite": (np.isfinite, 1),
}
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: np.mod,
    ast.Pow: np.float_power,  # in double precision: powers of integers grow without bound
}
BITWISE: dict[type[ast.operator], Callable[[Any, Any], Any]] = {ast.BitAnd: operator.and_, ast.BitOr: operator.or_}
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
UNARY = (ast.USub, ast.UAdd, ast.Not, ast.Invert)
LISTS = (ast.List, ast.Tuple, ast.Set)
MAX_LENGTH, MAX_DEPTH = 1000, 40
SHOWN = 80  # characters of each part of a condition in a message
REMEDY = "see hpc_galaxy/cutouts/expression.py for what a condition may contain"
KINDS = {"b": "condition", "i": "number", "u": "number", "f": "number", "S": "string", "U": "string"}

Columns = Callable[[str], np.ndarray]
"""Takes a column's name, returns its values, shape (N,)."""


@dataclass(frozen=True)
class Expression:
    """A condition that has passed the checks of its syntax.

    Attributes
    ----------
    where : str
        The key of the configuration it comes from.
    text : str
        What the user wrote.
    tree : ast.expr
        The same, parsed.
    """

    where: str
    text: str
    tree: ast.expr

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns it asks for, sorted."""
        functions = {id(node.func) for node in ast.walk(self.tree) if isinstance(node, ast.Call)}
        return tuple(sorted({node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name) and id(node) not in functions}))

    def evaluate(self, columns: Columns, rows: int) -> np.ndarray:
        """Return which of `rows` rows fulfil the condition, shape (rows,), bool.

        Raises
        ------
        ConfigError
            It mixes numbers, strings and conditions, or is no condition on the rows.
        """
        with np.errstate(all="ignore"):  # what is no number compares False
            value = self._value(self.tree, columns)
        if value.dtype != bool or value.shape != (rows,):
            self._refuse(self.tree, "is no condition on the sources", "compare a column with something")
        return np.asarray(value)

    def _value(self, node: ast.expr, columns: Columns) -> Any:
        match node:
            case ast.Constant():
                return np.asarray(node.value)
            case ast.Name():
                return self._column(node, columns)
            case ast.BoolOp():
                operands = [self._of_kind(value, columns, "condition") for value in node.values]
                return (np.logical_and if isinstance(node.op, ast.And) else np.logical_or).reduce(np.broadcast_arrays(*operands))
            case ast.UnaryOp():
                return self._unary(node, columns)
            case ast.BinOp():
                return self._binary(node, columns)
            case ast.Compare():
                return self._compare(node, columns)
            case ast.Call(func=ast.Name(id=name)):
                return FUNCTIONS[name][0](*[self._of_kind(argument, columns, "number") for argument in node.args])
        raise AssertionError(f"{ast.dump(node)} has passed the checks")  # pragma: no cover

    def _column(self, node: ast.Name, columns: Columns) -> Any:
        values = columns(node.id)
        if values.ndim != 1:
            self._refuse(node, f"has {values.shape[1:]} values a source, expected one", "choose another column")
        # Some releases pad their strings.
        return np.char.strip(np.char.decode(values, "latin-1")) if values.dtype.kind == "S" else values

    def _of_kind(self, node: ast.expr, columns: Columns, kind: str) -> Any:
        value = self._value(node, columns)
        if _kind(value) != kind:
            self._refuse(node, f"is a {_kind(value)}, expected a {kind} there", "mind that '&' and '|' bind tighter than comparisons")
        return value

    def _unary(self, node: ast.UnaryOp, columns: Columns) -> Any:
        if isinstance(node.op, ast.Not):
            return np.logical_not(self._of_kind(node.operand, columns, "condition"))
        if isinstance(node.op, ast.Invert):
            return ~self._bits(node.operand, columns)
        value = self._of_kind(node.operand, columns, "number")
        return np.negative(value) if isinstance(node.op, ast.USub) else value

    def _binary(self, node: ast.BinOp, columns: Columns) -> Any:
        if type(node.op) in BITWISE:
            left, right = self._bits(node.left, columns), self._bits(node.right, columns)
            if _kind(left) != _kind(right):
                self._refuse(node, f"joins a {_kind(left)} and a {_kind(right)}", "put comparisons in parentheses, or use 'and', 'or'")
            return BITWISE[type(node.op)](left, right)
        return ARITHMETIC[type(node.op)](self._of_kind(node.left, columns, "number"), self._of_kind(node.right, columns, "number"))

    def _bits(self, node: ast.expr, columns: Columns) -> Any:
        value = self._value(node, columns)
        if value.dtype.kind not in "biu":
            self._refuse(node, "is neither a condition nor an integer", "put comparisons in parentheses, or use 'and', 'or', 'not'")
        return value if value.dtype.kind == "b" else value.astype(np.int64)

    def _compare(self, node: ast.Compare, columns: Columns) -> Any:
        result, left = np.asarray(True), self._value(node.left, columns)
        for how, right_node in zip(node.ops, node.comparators, strict=True):
            if isinstance(how, ast.In | ast.NotIn):
                assert isinstance(right_node, LISTS)  # it has passed the checks
                listed = [np.asarray(ast.literal_eval(item)) for item in right_node.elts]
                same = [self._compared(node, ast.Eq(), left, item) for item in listed]
                found = np.logical_or.reduce(np.broadcast_arrays(*same))
                result = result & (found if isinstance(how, ast.In) else ~found & _no_nan(left))
            else:
                right = self._value(right_node, columns)
                result, left = result & self._compared(node, how, left, right), right
        return result

    def _compared(self, node: ast.Compare, how: ast.cmpop, left: Any, right: Any) -> Any:
        kinds = _kind(left), _kind(right)
        if kinds[0] != kinds[1]:
            self._refuse(node, f"compares a {kinds[0]} with a {kinds[1]}", "compare like with like; strings stand in quotes")
        if kinds[0] == "string" and not isinstance(how, ast.Eq | ast.NotEq):
            self._refuse(node, "orders strings", "use ==, != or in")
        result = COMPARISONS[type(how)](_double(left), _double(right))
        return result & _no_nan(left) & _no_nan(right) if isinstance(how, ast.NotEq) else result

    def _refuse(self, node: ast.AST, problem: str, remedy: str = REMEDY) -> NoReturn:
        raise refusal(self.where, self.text, node, problem, remedy)


def _kind(value: Any) -> str:
    return KINDS.get(value.dtype.kind, "column of another kind")


def _double(value: Any) -> Any:
    return value.astype(np.float64) if value.dtype.kind == "f" else value


def _no_nan(value: Any) -> Any:
    return ~np.isnan(value) if value.dtype.kind == "f" else np.asarray(True)


def refusal(where: str, text: str, node: ast.AST, problem: str, remedy: str = REMEDY) -> ConfigError:
    """Return the error that quotes a condition and marks the part of it that is wrong: ``mag_r < >>>x.y<<<``."""
    written = text.encode()
    start, end = getattr(node, "col_offset", 0), getattr(node, "end_col_offset", None) or len(written)
    before, part, after = (piece.decode(errors="replace") for piece in (written[:start], written[start:end], written[end:]))
    part = part if len(part) <= SHOWN else f"{part[:SHOWN]}..."
    before, after = before[-SHOWN:], after[:SHOWN]
    return ConfigError(where, f"{before}>>>{part}<<<{after}: '{part}' {problem}", remedy)


def parse(where: str, text: str) -> Expression:
    """Parse a condition.

    Parameters
    ----------
    where : str
        The key of the configuration, for messages.
    text : str
        The condition.

    Raises
    ------
    ConfigError
        It is no condition, or contains what is not on the lists above; the message marks the place.
    """
    text = " ".join(text.splitlines()).strip()
    if len(text) > MAX_LENGTH:
        raise ConfigError(where, f"has {len(text)} characters, expected at most {MAX_LENGTH}", "write several conditions")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        place = ast.Constant(None, col_offset=min(max((error.offset or 1) - 1, 0), len(text.encode())), end_col_offset=len(text.encode()))
        raise refusal(where, text, place, f"is not understood ({error.msg})") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(where, f"{text[:SHOWN]!r} is not understood ({error or 'too deeply nested'})", REMEDY) from None
    _check(where, text, tree, 0)
    return Expression(where, text, tree)


def _check(where: str, text: str, node: ast.expr, depth: int) -> None:
    """Refuse whatever is not on the lists."""
    problem = "is nested too deeply" if depth > MAX_DEPTH else _problem(node)
    if problem:
        raise refusal(where, text, node, problem)
    match node:
        case ast.BoolOp(values=parts):
            children = parts
        case ast.UnaryOp(operand=operand):
            children = [operand]
        case ast.BinOp(left=left, right=right):
            children = [left, right]
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            children = [left]
            for how, part in zip(ops, comparators, strict=True):
                if isinstance(how, ast.In | ast.NotIn):
                    _check_list(where, text, part)
                else:
                    children.append(part)
        case ast.Call(args=arguments):
            children = arguments
        case _:
            children = []
    for child in children:
        _check(where, text, child, depth + 1)


def _problem(node: ast.expr) -> str | None:
    """Return what is wrong with a node by itself, or None."""
    match node:
        case ast.Constant(value=value):
            return _constant_problem(value)
        case ast.Name() | ast.BoolOp():
            return None
        case ast.UnaryOp(op=op):
            return None if isinstance(op, UNARY) else "is no operation on columns"
        case ast.BinOp(op=op):
            return None if type(op) in ARITHMETIC or type(op) in BITWISE else "is no operation on columns"
        case ast.Compare(ops=ops):
            known = all(type(how) in COMPARISONS or isinstance(how, ast.In | ast.NotIn) for how in ops)
            if len(ops) > 1 and any(isinstance(how, ast.In | ast.NotIn) for how in ops):
                return "chains 'in' with another comparison"
            return None if known else "is no comparison of columns"
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            expected = FUNCTIONS[name][1]
            return None if len(arguments) == expected else f"has {len(arguments)} arguments, expected {expected}"
        case ast.Call():
            return f"is no call of {', '.join(FUNCTIONS)}"
    return f"is not allowed ({type(node).__name__.lower()})"


def _constant_problem(value: Any) -> str | None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "is too large"
    return None if isinstance(value, bool | int | float | str) else "is neither a number nor a string"


def _check_list(where: str, text: str, node: ast.expr) -> None:
    if not isinstance(node, LISTS) or not node.elts:
        raise refusal(where, text, node, "is no list of constants, expected one after 'in'")
    for item in node.elts:
        value = item.operand if isinstance(item, ast.UnaryOp) and isinstance(item.op, ast.USub) else item
        good = isinstance(value, ast.Constant) and _constant_problem(value.value) is None
        if not good or (value is not item and isinstance(value, ast.Constant) and isinstance(value.value, str | bool)):
            raise refusal(where, text, item, "is no constant, expected numbers or strings in a list")
