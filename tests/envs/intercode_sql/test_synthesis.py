"""InterCodeSQL's synthetic questions: of the training side's kind, new, and answered by what is said to answer them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest

from sparring.core.types import Task, Trajectory
from sparring.envs.intercode_sql import InterCodeSQL, lexicon
from sparring.envs.intercode_sql.grammar import Scope
from sparring.envs.intercode_sql.official import normal_form
from sparring.envs.intercode_sql.questions import FAMILIES, skeleton
from sparring.envs.intercode_sql.synthesis import NUM_VARIATIONS
from sparring.envs.intercode_sql.wording import put_into_words
from sparring.envs.synthesis import Draft, Synthesis, synthesis_of
from tests.envs.proposing import judge, play, refusals

DATABASE = "singer"
AGES = "SELECT Name FROM singer WHERE Birth_Year > 1945"


@pytest.fixture(scope="module")
def offered(ours: InterCodeSQL) -> Synthesis:
    return synthesis_of(ours)


@pytest.fixture(scope="module")
def asked(ours: InterCodeSQL) -> Task:
    """A training question about singers."""
    return next(task for task in ours.tasks("train") if task.data["db"] == DATABASE)


@pytest.fixture(scope="module")
def scope(images: dict[str, bytes]) -> Iterator[Scope]:
    scope = Scope(DATABASE, images[DATABASE], lexicon.LEXICON[DATABASE])
    yield scope
    scope.close()


def submitted(ours: InterCodeSQL, task: Task, *statements: str) -> Trajectory:
    return play(ours.make_env(), task, [*statements, "submit"])


# ── Variations ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_variations_are_new_and_of_the_training_side(ours: InterCodeSQL, offered: Synthesis):
    given = {(task.data["db"], normal_form(task.data["gold"])) for side in SIDES for task in ours.tasks(side)}
    training = {(task.data["db"], skeleton(task.data["gold"])) for task in ours.tasks("train")}
    num = 0
    for task in ours.tasks("train")[::80]:
        found = offered.variations(task)
        assert found == offered.variations(task) and len(found) <= NUM_VARIATIONS
        for one in found:
            assert (one.kind, one.data["db"]) == (task.kind, task.data["db"])
            assert skeleton(one.data["gold"]) == skeleton(task.data["gold"])
            assert (one.data["db"], skeleton(one.data["gold"])) in training
            assert (one.data["db"], normal_form(one.data["gold"])) not in given
        num += len(found)
    assert num > 100


SIDES = ("train", "dev", "test")


@pytest.mark.parametrize("split", ["dev", "test"])
def test_evaluation_questions_are_no_material(ours: InterCodeSQL, offered: Synthesis, split: str):
    for task in ours.tasks(split)[::50]:
        assert offered.variations(task) == []
        assert offered.relabel(submitted(ours, task, task.data["gold"])) is None


def test_official_questions_have_no_variations(official_file: Path, real_dump: Path):
    world = InterCodeSQL(dump=str(real_dump), path=str(official_file))
    offered = synthesis_of(world)
    assert not any(offered.variations(task) for task in world.tasks("train")[:50])
    assert set(offered.footprint(world.tasks("train")[0])) == {"text", "query"}


# ── Hindsight ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_submitted_query_becomes_the_question(ours: InterCodeSQL, offered: Synthesis, asked: Task):
    episode = submitted(ours, asked, "SHOW TABLES", "select name from singer where birth_year >= 1946 limit 99", AGES)
    task = offered.relabel(episode)
    assert task is not None
    assert task.data == {
        "db": DATABASE,
        "question": "Show the name of every singer whose birth year is greater than 1945.",
        "gold": AGES,
    }
    assert submitted(ours, task, AGES).reward == 1.0
    assert ours.expert_actions([task])[task.id][-2:] == [AGES, "submit"]
    worded = offered.relabel(episode, "Who is young?")
    assert worded is not None
    assert worded.data["question"].splitlines() == ["Who is young?", task.data["question"]]
    assert (worded.data["gold"], worded.id != task.id) == (task.data["gold"], True)


@pytest.mark.parametrize(
    "statements",
    [
        (),
        ("SHOW TABLES",),
        ("SELECT table_name FROM information_schema.tables",),
        ("SELECT Nothing FROM singer",),
        ("SELECT Name FROM singer WHERE Birth_Year > 3000",),  # no rows
        ("SELECT Name FROM singer WHERE Birth_Year + 1 > 1945",),  # no words for it
        ("DELETE FROM singer WHERE Birth_Year < 1945", "SELECT Name FROM singer"),  # not the database's answer
    ],
)
def test_what_gives_no_answer_or_has_no_words_makes_no_question(
    ours: InterCodeSQL, offered: Synthesis, asked: Task, statements: Sequence[str]
):
    assert offered.relabel(submitted(ours, asked, *statements)) is None


def test_without_submit_nothing_was_answered(ours: InterCodeSQL, offered: Synthesis, asked: Task):
    assert offered.relabel(play(ours.make_env(), asked, [AGES])) is None


def test_a_question_that_a_split_has_is_not_made_again(ours: InterCodeSQL, offered: Synthesis, asked: Task):
    for side in SIDES:
        for task in ours.tasks(side)[::100]:
            other = Task(id="other/0", kind=task.kind, data=task.data)
            assert offered.relabel(submitted(ours, other, task.data["gold"])) is None


@pytest.mark.parametrize(
    ("query", "question"),
    [
        ("select count(*) from SINGER", "How many singers are there?"),
        (
            "SELECT DISTINCT Citizenship FROM singer;",
            "Show the different values of the citizenship of the singers, each once.",
        ),
        (
            "SELECT Name FROM `singer` ORDER BY Birth_Year ASC LIMIT 1",
            "Show the name of the singer with the lowest birth year.",
        ),
        (
            "SELECT Name FROM singer WHERE Citizenship <> 'France' AND Name LIKE '%Le%'",
            'Show the name of every singer whose citizenship is not "France" and whose name contains "Le".',
        ),
        (
            "SELECT Citizenship, COUNT(*) FROM singer GROUP BY Citizenship",
            "For each citizenship of the singers, show the citizenship and the number of singers.",
        ),
        ("SELECT MAX(Net_Worth_Millions) FROM singer", "What is the highest net worth in millions of all singers?"),
    ],
)
def test_queries_are_put_into_words(scope: Scope, query: str, question: str):
    draft = put_into_words(query, scope)
    assert draft is not None and draft.question == question
    assert sorted(scope.rows(draft.query)) == sorted(scope.rows(query))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM singer",
        "SELECT Name FROM singer LIMIT 3",
        "SELECT Name FROM singer ORDER BY Citizenship",  # ties: no one order
        "SELECT Name FROM singer WHERE Name = 'a' OR Name = 'b'",
        "SELECT Name FROM singer WHERE Name = 'a' OR Citizenship = 'b' AND Birth_Year > 1",
        "SELECT Name FROM singer WHERE Citizenship IN ('France')",
        "SELECT AVG(Name) FROM singer",
        "SELECT COUNT(Name) FROM singer",
        "SELECT Name, COUNT(*) FROM singer GROUP BY Name",
        "SELECT Name FROM nothing",
        "DROP TABLE singer",
        "",
    ],
)
def test_what_the_grammar_does_not_say_has_no_words(scope: Scope, query: str):
    assert put_into_words(query, scope) is None


def test_words_are_those_of_our_own_questions(ours: InterCodeSQL, images: dict[str, bytes]):
    """Whatever is understood of the 3,600 gold queries reads as its question does, and is the same query."""
    understood, told = 0, 0
    for database in sorted(lexicon.LEXICON):
        scope = Scope(database, images[database], lexicon.LEXICON[database])
        for task in (one for side in SIDES for one in ours.tasks(side) if one.data["db"] == database):
            draft = put_into_words(task.data["gold"], scope)
            if draft is not None:
                understood += 1
                told += draft.question == task.data["question"]
                assert normal_form(draft.query) == normal_form(task.data["gold"])
        scope.close()
    assert understood > 1000 and told > 0.97 * understood


# ── The rest of what is offered ───────────────────────────────────────────────────────────────────────────────────────


def test_what_is_made_passes_the_real_validation(ours: InterCodeSQL, offered: Synthesis, real_dump: Path):
    """Variations of every fiftieth task, and its queries without their conditions or orders, in hindsight."""
    drafts: list[Draft] = []
    for number, task in enumerate(ours.tasks("train")[::25]):
        for one in offered.variations(task)[:1] if number % 2 else ():
            drafts.append(Draft(task=one, actions=tuple(ours.expert_actions([one])[one.id])))
        cut = Random(number).choice((" WHERE ", " ORDER BY ", " DESC"))
        actions = ["SHOW TABLES", task.data["gold"].partition(cut)[0], "submit"]
        one = offered.relabel(play(ours.make_env(), task, actions))
        if one is not None:
            drafts.append(Draft(task=one, actions=tuple(actions)))
    vocabulary = [action for draft in drafts for action in draft.actions]
    verdicts = judge(drafts, ours, "intercode_sql", {"dump": str(real_dump)}, vocabulary)
    assert [text for text in refusals(verdicts) if "duplicate" not in text] == []
    assert sum(verdict.is_accepted for verdict in verdicts) >= 50


def test_a_footprint_tells_the_sides_apart(ours: InterCodeSQL, offered: Synthesis):
    sides = [{pair for task in ours.tasks(side) for pair in offered.footprint(task).items()} for side in SIDES]
    assert not sides[0] & (sides[1] | sides[2])
    assert {aspect for aspect, _ in sides[0]} == {"text", "query", "scenario"}


def test_patterns_are_verbs_and_clauses(offered: Synthesis):
    patterns = {
        "SELECT a FROM t": "select",
        "```sql\nselect a from t join u where b = ' order by ' order by a\n```": "select join where order by",
        "DESC t": "desc",
        "submit": "submit",
        "I think": "",
        "": "",
    }
    assert {action: offered.pattern(action) for action in patterns} == patterns


def test_looking_at_columns_asks_the_data_nothing(ours: InterCodeSQL, offered: Synthesis, asked: Task):
    for statements, has_changed in (
        (["SHOW TABLES", "DESC singer"], False),
        (["SELECT * FROM information_schema.columns", "SELECT x FROM singer"], False),
        ([AGES], True),
    ):
        assert offered.has_changed(submitted(ours, asked, *statements)) is has_changed


def test_there_are_no_restarts_and_no_chains(offered: Synthesis, asked: Task):
    draft = Draft(task=asked, actions=("submit",))
    assert offered.restart(asked, [AGES]) is None and offered.chain(draft, draft) is None
    assert asked.kind in FAMILIES
