"""Trees of weights: names, order, and that taking apart and putting together are inverse."""

import pytest

from backends import tree

WEIGHTS = {"model": {"layers": [{"w": 1, "b": 2}, {"w": 3, "b": 4}], "norm": 5}, "head": 6}
NAMES = ["model.layers.0.w", "model.layers.0.b", "model.layers.1.w", "model.layers.1.b", "model.norm", "head"]


def test_names_are_paths_in_the_trees_own_order():
    assert tree.names(WEIGHTS) == NAMES
    assert tree.leaves(WEIGHTS) == [1, 2, 3, 4, 5, 6]
    assert list(tree.items(WEIGHTS)) == list(zip(NAMES, [1, 2, 3, 4, 5, 6], strict=True))


def test_a_single_leaf_is_a_tree():
    assert list(tree.items(7)) == [("", 7)]
    assert tree.map_leaves(lambda x: x + 1, 7) == 8
    assert tree.rebuild(7, [9]) == 9


def test_empty_trees_have_no_leaves():
    assert tree.leaves({}) == tree.leaves([]) == tree.leaves({"a": {}, "b": []}) == []
    assert tree.map_leaves(str, {"a": {}, "b": []}) == {"a": {}, "b": []}


def test_none_is_a_leaf():
    assert tree.leaves({"a": None}) == [None]


def test_map_keeps_the_shape_and_changes_nothing():
    before = tree.map_leaves(lambda x: x, WEIGHTS)
    doubled = tree.map_leaves(lambda x: 2 * x, WEIGHTS)
    assert tree.leaves(doubled) == [2, 4, 6, 8, 10, 12] and tree.names(doubled) == NAMES
    assert before == WEIGHTS


def test_map_takes_leaves_at_the_same_place_whatever_the_order_of_keys():
    other = {"head": 60, "model": {"norm": 50, "layers": [{"b": 20, "w": 10}, {"b": 40, "w": 30}]}}
    assert tree.leaves(tree.map_leaves(lambda a, b: a + b, WEIGHTS, other)) == [11, 22, 33, 44, 55, 66]


def test_map_of_trees_that_do_not_fit_is_an_error():
    with pytest.raises(KeyError):
        tree.map_leaves(lambda a, b: a, {"a": 1, "b": 2}, {"a": 1})
    with pytest.raises(IndexError):
        tree.map_leaves(lambda a, b: a, [1, 2], [1])


def test_tuples_become_lists():
    assert tree.map_leaves(lambda x: x, {"a": (1, 2)}) == {"a": [1, 2]}


def test_rebuild_is_the_inverse_of_leaves():
    assert tree.rebuild(WEIGHTS, tree.leaves(WEIGHTS)) == WEIGHTS
    assert tree.leaves(tree.rebuild(WEIGHTS, list("abcdef"))) == list("abcdef")


@pytest.mark.parametrize("count", [5, 7])
def test_rebuild_with_the_wrong_number_of_leaves_is_an_error(count):
    with pytest.raises((AssertionError, StopIteration, RuntimeError)):
        tree.rebuild(WEIGHTS, list(range(count)))


def test_unflatten_is_the_inverse_of_items():
    assert tree.unflatten(dict(tree.items(WEIGHTS))) == WEIGHTS


def test_unflatten_orders_lists_by_number_and_not_by_spelling():
    flat = {f"layers.{i}.w": i for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    assert [layer["w"] for layer in tree.unflatten(flat)["layers"]] == list(range(11))


def test_numbers_with_gaps_stay_a_dict():
    assert tree.unflatten({"a.0": 1, "a.2": 2}) == {"a": {"0": 1, "2": 2}}
    assert tree.unflatten({}) == {}
