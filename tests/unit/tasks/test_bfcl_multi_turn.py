"""BFCL's multi-turn tasks: back ends by hand, reading calls, the rules by turn, and every published
task against its own truth.
"""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest

from qwq.envs.bfcl import WORLDS
from qwq.errors import DataError
from qwq.verify.cli_io import verify_file
from qwq.verify.tools.bfcl_multi_turn import GradedConversation, UnreadableCall, read_call, verify

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "bfcl"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/bfcl")
DOCUMENTS = {
    "GorillaFileSystem": "gorilla_file_system", "MathAPI": "math_api", "MessageAPI": "message_api",
    "TwitterAPI": "posting_api", "TicketAPI": "ticket_api", "TradingBot": "trading_bot", "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}  # fmt: skip


def file(content: str) -> dict:
    return {"type": "file", "content": content}


def directory(**contents) -> dict:
    return {"type": "directory", "contents": contents}


CONFIG = {
    "GorillaFileSystem": {"root": {"home": directory(docs=directory(a=file("one\ntwo words")), b=file("one\nthree"))}}
}


def run(world: str, *calls: str, config: dict | None = None) -> tuple[list, GradedConversation]:
    conversation = GradedConversation([world], {world: config} if config is not None else CONFIG)
    answers = [conversation.execute(call)[0] for call in calls]
    return [json.loads(a) if a.startswith("{") else a for a in answers], conversation


# -- calls -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("cd(folder='docs')", ("cd", (), {"folder": "docs"})), ("GorillaFileSystem.cd('docs')", ("cd", ("docs",), {})),
        ({"cd": {"folder": "docs"}}, ("cd", (), {"folder": "docs"})),
        ({"name": "cd", "arguments": {"folder": "docs"}}, ("cd", (), {"folder": "docs"})),
        (" post(tags=['#a', -1.5], more={'k': None}) ", ("post", (), {"tags": ["#a", -1.5], "more": {"k": None}})),
    ],
)  # fmt: skip
def test_forms_of_a_call(given, read) -> None:
    assert read_call(given) == read


@pytest.mark.parametrize(
    "given",
    [
        "cd(folder=__import__('os').getcwd())", "cd(folder=open('/etc/passwd').read())", "(lambda: 1)()", "cd", "cd(",
        "", "a = 1", "f(**{'a': 1})", "f(*[1])", "cd(folder=f'{1}')", "x()()", "f(" * 3000, "[" * 5000, {}, {"a": 1},
        {"a": {}, "b": {}}, None, 3, "f('" + "x" * 200_000 + "')", "cd(folder=[i for i in 'ab'])",
    ],
    ids=lambda g: str(g)[:24],
)  # fmt: skip
def test_nothing_but_calls_of_literals_is_read(given) -> None:
    with pytest.raises(UnreadableCall):
        read_call(given)


def test_a_name_that_is_no_function_reaches_nothing() -> None:
    for call in ("state()", "call('ls', [], {})", "__init__({})", "_here()", "functions()", "nothing()"):
        assert run("GorillaFileSystem", call)[0] == [f"Error during execution: no function {call.partition('(')[0]}"]


# -- back ends -------------------------------------------------------------------------------------


def test_files() -> None:
    answers, after = run(
        "GorillaFileSystem", "pwd()", "cd('docs')", "mkdir('new')", "cp(source='a', destination='new')",
        "mv(source='a', destination='c')", "echo(content='x y', file_name='c')", "wc(file_name='c', mode='w')",
        "cd('..')", "find(path='.', name='a')", "diff('b', 'b')", "rm('b')", "rmdir('docs')", "cat('b')",
        "touch('no/slash')", "cd('a/b')", "cd('..')",
    )  # fmt: skip
    assert answers[:11] == [
        {"current_working_directory": "/home"}, {"current_working_directory": "docs"}, "None",
        {"result": "a copied to new/a"}, {"result": "a moved to c"}, "None", {"count": 2, "type": "words"}, {},
        {"matches": ["./docs/new/a"]}, {"diff_lines": ""}, {"result": "b removed"},
    ]  # fmt: skip
    assert all("error" in a for a in answers[11:])
    assert after.worlds["GorillaFileSystem"].state()["root"] == {"docs": {"new": {"a": "one\ntwo words"}, "c": "x y"}}


def test_files_of_the_long_context() -> None:
    conversation = GradedConversation(["GorillaFileSystem"], CONFIG, long_context=True)
    root = conversation.worlds["GorillaFileSystem"].state()["root"]
    assert len(root) == 2 and len(root["docs"]) == 31


def test_numbers_cannot_keep_the_checker_busy() -> None:
    answers, _ = run(
        "MathAPI",
        "power(base=9, exponent=999999999)",
        "logarithm(100, 10, 10**9)",
        "logarithm(100.0, 10, 5)",
        "square_root(2, 3)",
        "add(True, 1)",
        config={},
    )
    assert (
        "error" in answers[0]
        and "Error" in answers[1]
        and answers[2:4] == [{"result": 2.0}, {"result": 1.41}]
        and "error" in answers[4]
    )


def test_messages_posts_and_tickets() -> None:
    answers, _ = run(
        "MessageAPI",
        "view_messages_sent()",
        "message_login('USR001')",
        "send_message('USR002', 'Hello')",
        "delete_message('USR002')",
        "get_message_stats()",
        config={},
    )
    assert answers[0] == {"error": "no user is logged in"} and answers[2]["message_id"] == {"new_id": 67410}
    assert answers[4] == {"stats": {"received_count": 3, "total_contacts": 3}}
    answers, _ = run(
        "TwitterAPI",
        "post_tweet('Hi')",
        "authenticate_twitter('john', 'john123')",
        "post_tweet('Hi', tags=['#x'])",
        "search_tweets('#X')",
        "retweet(0)",
        "retweet(0)",
        config={},
    )
    assert (
        "error" in answers[0]
        and answers[2]["id"] == 0
        and "'Hi'" in answers[3]
        and answers[5] == {"retweet_status": "Already retweeted"}
    )
    answers, _ = run(
        "TicketAPI",
        "ticket_login('a', 'b')",
        "create_ticket('t', priority=6)",
        "create_ticket('t')",
        "edit_ticket(1, {'priority': 3})",
        "close_ticket(1)",
        "close_ticket(1)",
        "get_ticket(1)",
        config={},
    )
    assert (
        "error" in answers[1]
        and "error" in answers[5]
        and answers[6]["priority"] == 3
        and answers[6]["status"] == "Closed"
    )


def test_trading_travel_and_the_car() -> None:
    answers, _ = run(
        "TradingBot",
        "place_order('Buy', 'AAPL', 1.0, 1)",
        "trading_login('a', 'b')",
        "place_order('Buy', 'AAPL', 100, 101)",
        "place_order('Buy', 'AAPL', 100, 2)",
        "cancel_order(12446)",
        "withdraw_funds(5)",
        config={},
    )
    assert ["error" in a for a in answers] == [True, False, True, False, False, True] and answers[3]["price"] == 100.0
    config = {"access_token": "t", "token_expires_in": 1, "credit_card_list": {"c": {"balance": 1000.0}}}
    booked = "book_flight('t', 'c', '2024-11-16', 'SFO', 'LAX', 'economy')"
    answers, after = run(
        "TravelAPI",
        "get_flight_cost('SFO', 'LAX', '2024-11-16', 'economy')",
        booked,
        booked.replace("'t'", "'u'"),
        "compute_exchange_rate('RMB', 'USD', 10)",
        config=config,
    )
    cost = 400.0 if sum(map(int, "20241116")) % 2 == 0 else 200.0
    assert (
        answers[0] == {"travel_cost_list": [cost]}
        and answers[1]["booking_id"] == "3426812"
        and answers[2]["booking_status"] is False
    )
    assert (
        answers[3] == {"exchanged_value": 1.43}
        and after.worlds["TravelAPI"].state()["credit_card_list"]["c"]["balance"] == 1000 - cost
    )
    doors = "['driver', 'passenger', 'rear_left', 'rear_right']"
    answers, _ = run(
        "VehicleControlAPI",
        "startEngine('START')",
        f"lockDoors(False, {doors})",
        "pressBrakePedal(1.0)",
        "startEngine('START')",
        "setCruiseControl(62, True, 10)",
        "estimate_distance('74532', '83214')",
        config={"fuelLevel": 5.0},
    )
    assert (
        "error" in answers[0] and answers[1]["remainingUnlockedDoors"] == 0 and answers[3]["engineState"] == "running"
    )
    assert "error" in answers[4] and answers[5] == {"distance": 750.0}


def test_values_of_a_wrong_type_are_the_callers_error() -> None:
    for world, call in (
        ("TradingBot", "filter_stocks_by_price(3, 1, 2)"),
        ("TicketAPI", "edit_ticket(1)"),
        ("GorillaFileSystem", "cat(file_name=3)"),
        ("VehicleControlAPI", "fillFuelTank('a')"),
        ("TravelAPI", "list_all_airports(1)"),
    ):
        answer, good = GradedConversation([world], {}).execute(call)
        assert answer.startswith("Error during execution: ") and not good


@needs_shared
@pytest.mark.parametrize("world", sorted(DOCUMENTS))
def test_every_documented_function_is_there_with_its_parameters(world) -> None:
    import inspect

    rows = [
        json.loads(line)
        for line in (SHARED / "multi_turn_func_doc" / f"{DOCUMENTS[world]}.json").read_text().splitlines()
    ]
    assert {r["name"] for r in rows} == set(WORLDS[world].functions())
    for row in rows:
        parameters = dict(list(inspect.signature(getattr(WORLDS[world], row["name"])).parameters.items())[1:])
        assert set(parameters) == set(row["parameters"]["properties"]), row["name"]
        assert {n for n, p in parameters.items() if p.default is p.empty} == set(row["parameters"]["required"]), row[
            "name"
        ]


# -- the rules by turn -----------------------------------------------------------------------------

TRUTH = [["cd(folder='docs')", "mv(source='a', destination='c')"], [], ["cat(file_name='c')"]]


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        (TRUTH, None),
        (
            [[["cd('docs')"], [{"mv": {"source": "a", "destination": "c"}}]], [], ["ls()", "cat('c')"]],
            None,
        ),  # steps, other calls between
        ([[*TRUTH[0], "cat('c')"], [], ["pwd()"]], None),  # the answer was had a turn before
        ([TRUTH[0], ["ls()"], TRUTH[2]], None),  # a harmless call where none is asked for
        ([TRUTH[0], ["rm('c')"], TRUTH[2]], "turn 3: state: GorillaFileSystem.root"),
        ([TRUTH[0], [], []], "turn 3: no call where 1 are asked for"),
        ([TRUTH[0], [], ["pwd()"]], "turn 3: answer: no call got"),
        ([["cd('docs')", "cp('a', 'c')"], [], TRUTH[2]], "turn 1: state: GorillaFileSystem.root"),
        ([["mv('a', 'c')"], [], TRUTH[2]], "turn 1: state"),
        (TRUTH[:2], "turns: 2 where the task has 3"),
        ([["rubbish"], [], TRUTH[2]], "turn 1: state"),
    ],
)
def test_the_rules_by_turn(calls, reason) -> None:
    verdict = verify(calls, TRUTH, initial_config=CONFIG, involved_classes=["GorillaFileSystem"])
    assert verdict.correct is (reason is None)
    assert reason is None or verdict.reason.startswith(reason)


def test_the_command_and_unusable_lines(tmp_path) -> None:
    line = {
        "category": "multi_turn_base",
        "initial_config": CONFIG,
        "involved_classes": ["GorillaFileSystem"],
        "ground_truth": TRUTH,
        "calls": TRUTH,
    }
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(line) + "\n" + json.dumps(line | {"calls": []}) + "\n")
    assert [v["outcome"] for v in verify_file("tools", path)] == ["correct", "wrong"]
    for change, words in (
        ({"calls": ["ls()"]}, "calls of a multi-turn category must be a list of turns"),
        ({"involved_classes": ["GorilaFileSystem"]}, "did you mean 'GorillaFileSystem'"),
        ({"initial_config": None}, "initial_config must be a dict"),
    ):  # fmt: skip
        path.write_text(json.dumps(line | change) + "\n")
        with pytest.raises(DataError, match="line 1: ") as error:
            list(verify_file("tools", path, strict=True))
        assert words in str(error.value)


# -- the published tasks ---------------------------------------------------------------------------


def tasks(category: str) -> list[dict]:
    truth = {
        r["id"]: r["ground_truth"]
        for r in map(json.loads, (SHARED / "possible_answer" / f"BFCL_v4_{category}.json").read_text().splitlines())
    }
    rows = map(json.loads, (SHARED / f"BFCL_v4_{category}.json").read_text().splitlines())
    return [{"truth": truth[r["id"]], "category": category, **r} for r in rows]


def verdict_of(task: dict, calls: list):
    return verify(
        calls,
        task["truth"],
        initial_config=task["initial_config"],
        involved_classes=task["involved_classes"],
        category=task["category"],
    )


@needs_shared
@pytest.mark.parametrize(
    "category", ["multi_turn_base", "multi_turn_long_context", "multi_turn_miss_func", "multi_turn_miss_param"]
)
def test_every_true_call_runs_and_passes_and_mutations_fail(category) -> None:
    caught = tried = 0
    for task in tasks(category):
        truth = task["truth"]
        assert verdict_of(task, truth).correct, task["id"]
        conversation = GradedConversation(
            task["involved_classes"], task["initial_config"], long_context="long_context" in category
        )
        for call in (c for turn in truth for c in turn):
            answer, good = conversation.execute(call)
            assert good, (task["id"], call, answer)
        assert not verdict_of(task, [[] for _ in truth]).correct
        assert not verdict_of(task, truth[:-1]).correct
        # One call left out is seen, except where it leaves no trace: a repeated reading, or a login
        # that was there before.
        rng = random.Random(task["id"])
        turn = rng.choice([i for i, t in enumerate(truth) if t])
        mutated = copy.deepcopy(truth)
        del mutated[turn][rng.randrange(len(mutated[turn]))]
        tried += 1
        caught += not verdict_of(task, mutated).correct
    assert tried == 200 and caught >= 195
