"""What a quoted number is made of, as a formula over stored values.

``mean('cifar10_halvit_cpu_seed*#accuracy/top1') - 40``: texts are values of logs, see
:meth:`.logs.Logs.values`; numbers, ``+ - * /`` and a few functions do the rest. The formula is read
as a syntax tree and computed by the few kinds of nodes below; no other Python is understood.
"""

import ast
import operator

import numpy as np

from ..errors import UserError
from .logs import Logs

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_FUNCTIONS = {
    "mean": np.mean,
    "median": np.median,
    "min": np.min,
    "max": np.max,
    "sum": np.sum,
    "half_range": lambda values: (np.max(values) - np.min(values)) / 2,
}


def evaluate(formula: str, logs: Logs) -> float:
    """The value of a formula.

    Raises:
        UserError: It cannot be read, has not one value, or a log is missing.
    """
    try:
        tree = ast.parse(str(formula).strip(), mode="eval").body
    except SyntaxError as error:
        raise UserError(f"{formula!r} cannot be read as a formula: {error.msg}") from error
    value = np.asarray(_value(tree, logs, str(formula)))
    if value.size != 1:
        raise UserError(f"{formula!r} has {value.size} values; take their mean, max, …")
    return float(value.item())


def _value(node: ast.expr, logs: Logs, formula: str) -> np.ndarray | float:
    match node:
        case ast.Constant(value=str(path)):
            return logs.values(path)
        case ast.Constant(value=int(number) | float(number)) if not isinstance(number, bool):
            return float(number)
        case ast.UnaryOp(op=ast.USub(), operand=one):
            return -_value(one, logs, formula)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            sides = _value(left, logs, formula), _value(right, logs, formula)
            return _OPERATORS[type(op)](*sides)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            values = [np.ravel(_value(one, logs, formula)) for one in args]
            return _FUNCTIONS[name](np.concatenate(values))
    names = ", ".join(_FUNCTIONS)
    raise UserError(f"{formula!r}: only numbers, 'NAME#key', + - * / and {names} are understood")
