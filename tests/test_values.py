"""Frozen values."""

from __future__ import annotations

import copy
import pickle

import pytest

from erl_bridge.messages import Failure, Reply, Request


def test_values_with_equal_fields_are_equal_and_of_one_hash() -> None:
    assert Reply(1, "x") == Reply(1, "x")
    assert hash(Reply(1, "x")) == hash(Reply(1, "x"))
    assert Reply(1, "x") != Reply(1, "y")
    assert Reply(1, "x") != Request(1, "x", None)


def test_a_value_cannot_be_changed() -> None:
    reply = Reply(1, "x")
    with pytest.raises(AttributeError, match="Reply is immutable"):
        reply.result = "y"
    with pytest.raises(AttributeError, match="Reply is immutable"):
        del reply.result


def test_a_changed_copy_is_another_value() -> None:
    assert Reply(1, "x").replace(result="y") == Reply(1, "y")


@pytest.mark.parametrize("value", [Reply(1, "x"), Request(1, "ping", {}, timeout_ms=5)])
def test_values_survive_copy_and_pickle(value: Reply | Request) -> None:
    assert copy.deepcopy(value) == value
    assert pickle.loads(pickle.dumps(value)) == value


def test_the_repr_shows_every_field() -> None:
    assert repr(Reply(1, "x")) == "Reply(message_id=1, result='x')"
    assert repr(Failure(None, ValueError("e"))) == (  # type: ignore[arg-type]
        "Failure(message_id=None, error=ValueError('e'), atoms=frozenset())"
    )
