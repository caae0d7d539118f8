"""LeetCode's surroundings, which its solutions and the tests of data sets made from it take for
granted.

Solutions name `List`, `Counter`, `ListNode` or `TreeNode` without importing or defining them; tests
build arguments with `list_node([1, 2])` and `tree_node([1, None, 2])` and compare with
`is_same_list` and `is_same_tree` (names of the LeetCode rows in agentica-project/rllm and
newfacade/LeetCodeDataset; the code here is our own).
"""

from __future__ import annotations

import ast
from typing import Any

from qwq.common.source import parse_python
from qwq.verify.code import livecodebench

_NODES = """
inf = float("inf")
try:
    from sortedcontainers import SortedDict, SortedList, SortedSet
except ImportError:
    pass

class ListNode:
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next

class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val = val
        self.left = left
        self.right = right

def list_node(values):
    head = None
    for value in reversed(values):
        head = ListNode(value, head)
    return head

def tree_node(values):
    nodes = [None if value is None else TreeNode(value) for value in values]
    waiting = iter(nodes[1:])
    for node in nodes:
        if node is not None:
            node.left = next(waiting, None)
            node.right = next(waiting, None)
    return nodes[0] if nodes else None

def linked_values(node):
    values = []
    while node is not None and len(values) < 100000:
        values.append(node.val)
        node = node.next
    return values

def tree_values(root):
    values, level = [], [root]
    while level and len(values) < 100000:
        values += [None if node is None else node.val for node in level]
        level = [child for node in level if node is not None for child in (node.left, node.right)]
    while values and values[-1] is None:
        values.pop()
    return values

def is_same_list(left, right):
    right = list_node(right) if isinstance(right, list) else right
    return linked_values(left) == linked_values(right)

def is_same_tree(left, right):
    right = tree_node(right) if isinstance(right, list) else right
    return tree_values(left) == tree_values(right)
"""
PRELUDE = f"{livecodebench.PRELUDE}\n{_NODES}"
_SAME = {"is_same_list": ("linked_values", "list_node"), "is_same_tree": ("tree_values", "tree_node")}


def compare_values(source: str) -> str:
    """A test whose comparison of structures is one of their values, so that what is expected stays
    with the judge.

    `assert is_same_list(f(x), list_node([1]))` becomes `assert linked_values(f(x)) == [1]`; other
    tests stay as they are.
    """
    module = parse_python(source)
    for statement in module.body:
        if isinstance(statement, ast.Assert):
            statement.test = _compared(statement.test)
    return ast.unparse(ast.fix_missing_locations(module))


def _compared(node: ast.expr) -> ast.expr:
    if not (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SAME and len(node.args) == 2
    ):
        return node
    flatten, build = _SAME[node.func.id]
    got, expected = node.args
    if (
        isinstance(expected, ast.Call)
        and isinstance(expected.func, ast.Name)
        and expected.func.id == build
        and len(expected.args) == 1
    ):
        expected = expected.args[0]
    try:
        values = ast.literal_eval(expected)
    except (ValueError, SyntaxError, TypeError):
        return node
    if values is not None and not isinstance(values, list):
        return node
    right = _levels(values or []) if build == "tree_node" else values or []
    call = ast.Call(ast.Name(flatten, ast.Load()), [got], [])
    return ast.Compare(call, [ast.Eq()], [parse_python(repr(right), mode="eval").body])


def _levels(values: list[Any]) -> list[Any]:
    """The values as `tree_values` gives them for `tree_node(values)`: without children of absent
    nodes.
    """
    if not values or values[0] is None:
        return []
    rest = iter(values[1:])
    out, level = [values[0]], [values[0]]
    while level:
        below = []
        for value in level:
            if value is not None:
                below += [next(rest, None), next(rest, None)]
        out += below
        level = below
    while out and out[-1] is None:
        out.pop()
    return out
