"""The run folder survives kills, full disks and other people's files."""

from __future__ import annotations

import errno
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparring.core import journal as journal_module
from sparring.core.errors import ConfigError, DataError, SparringError
from sparring.core.folder import Run, list_differences, versions
from sparring.core.journal import Journal, disk_errors, read_journal, read_json, read_jsonl, write_json_atomic
from sparring.core.records import (
    pair_to_json,
    pairs_from_json,
    read_trajectories,
    trajectory_from_json,
    trajectory_to_json,
)
from sparring.core.types import PairKind, PreferencePair, StopReason, Task, Trajectory, Turn

CONFIG = {"name": "trial", "seeds": [0], "arms": {"eto": {"dpo": {"lr": 1e-6, "epochs": 3}}}}
VERSIONS = {"sparring": "0", "torch": "2"}


def make_trajectory(name: str = "round-1/target/walk/1/0") -> Trajectory:
    turns = (
        Turn(
            observation="A room.\nExits: …",
            text="Thought: go\nAction: go",
            action="go",
            reward=0.1,
            token_ids=(5, 7, 2),
        ),
        Turn(observation="line\u2028separator \ud800", text="look", action="look", reward=1 / 3),
    )
    return Trajectory(
        id=name,
        task=Task(id="walk/1", kind="walk", data={"variation": 1, "names": ["a", "b"]}),
        agent="target",
        turns=turns,
        final_observation="the end",
        reward=1 / 3,
        stop=StopReason.TURN_LIMIT,
        seed=11,
        num_retries=1,
        error="EnvFault: silent",
    )


def test_trajectory_survives_json_exactly(tmp_path: Path) -> None:
    trajectory = make_trajectory()
    assert trajectory_from_json(json.loads(json.dumps(trajectory_to_json(trajectory)))) == trajectory
    journal = Journal(tmp_path / "deep" / "trajectories.jsonl")
    journal.append([trajectory_to_json(trajectory), trajectory_to_json(make_trajectory("other"))])
    assert read_trajectories(journal.path) == [trajectory, make_trajectory("other")]


def test_malformed_trajectory_is_named_by_line_and_field(tmp_path: Path) -> None:
    good = trajectory_to_json(make_trajectory())
    bad = {**good, "turns": [{"observation": "x"}]}
    journal = Journal(tmp_path / "t.jsonl")
    journal.append([good, bad])
    with pytest.raises(DataError, match=r"t\.jsonl:2: not a trajectory: no field 'text'"):
        read_trajectories(journal.path)
    with pytest.raises(DataError, match="'nonsense' is not a valid StopReason"):
        trajectory_from_json({**good, "stop": "nonsense"})


def test_pairs_name_trajectories_by_id() -> None:
    a, b = make_trajectory("a"), make_trajectory("b")
    pair = PreferencePair(kind=PairKind.FAILURE_FAILURE, chosen=a, rejected=b, chosen_turns=2, rejected_turns=1)
    record = json.loads(json.dumps(pair_to_json(pair)))
    assert pairs_from_json([record], {"a": a, "b": b}) == [pair]
    with pytest.raises(DataError, match="line 1: not a pair: no field or trajectory 'b'"):
        pairs_from_json([record], {"a": a})


def test_journal_drops_a_torn_last_line_with_a_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log.jsonl"
    Journal(path).append([{"step": 1}, {"step": 2}])
    whole = path.read_bytes()
    for length in range(len(whole) - 10, len(whole)):  # every place at which the second line may be torn
        caplog.clear()
        path.write_bytes(whole[:length])
        assert read_journal(path) == [{"step": 1}]
        assert path.read_bytes() == whole[:length], "reading alone changes nothing"
        assert Journal(path).read() == [{"step": 1}]
        assert "torn last line" in caplog.text
        path.write_bytes(whole[:length])
        Journal(path).append([{"step": 3}])
        assert read_journal(path) == [{"step": 1}, {"step": 3}]


def test_journal_names_a_corrupt_inner_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(DataError, match=r"log\.jsonl:2: not JSON"):
        Journal(path).read()
    path.write_text('{"a": 1}\n[2]\n')
    with pytest.raises(DataError, match=r"log\.jsonl:2: expected an object, found list"):
        Journal(path).read()


def test_a_users_file_ends_where_it_ends(tmp_path: Path) -> None:
    """The rule for torn journals holds for our own: a user's last line counts without a line break, or is an error."""
    path = tmp_path / "mine.jsonl"
    for content in (b'{"a": 1}\n{"a": 2}', b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n', b'{"a": 1}\n{"a": 2}\n\n \n'):
        path.write_bytes(content)
        assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
    (tmp_path / "mine.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}'))
    assert read_jsonl(tmp_path / "mine.jsonl.gz") == [{"a": 1}]
    for content in (b'{"a": 1}\n{"a": ', b'{"a": 1}\n\n{"a": 2}', b'{"a": 1}\n\xff\xfe'):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"mine\.jsonl:2: not JSON"):
            read_jsonl(path)


def test_a_checked_journal_notices_every_changed_byte(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log.jsonl", is_checked=True)
    journal.append([{"step": 1, "loss": 0.25}, {"step": 2, "text": '","crc":"00000000"}'}])
    records = Journal(journal.path, is_checked=True).read()
    assert records == [{"step": 1, "loss": 0.25}, {"step": 2, "text": '","crc":"00000000"}'}]
    whole = journal.path.read_bytes()
    for place in range(whole.index(b"\n")):
        journal.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"log\.jsonl:1: "):
            Journal(journal.path, is_checked=True).read()
    journal.path.write_text('{"step":1}\n')
    with pytest.raises(DataError, match=r"log\.jsonl:1: without checksum"):
        Journal(journal.path, is_checked=True).read()


def test_journal_of_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "none.jsonl")
    assert journal.read() == []
    journal.append([])
    assert not journal.path.exists()
    with pytest.raises(DataError, match="No such file"):
        read_jsonl(journal.path)


def test_a_packed_file_is_read_and_a_torn_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl.gz"
    whole = gzip.compress(b'{"a": 1}\n{"a": 2}\n')
    path.write_bytes(whole)
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
    for torn in (whole[:-9], b"not packed", whole[:12] + bytes(8) + whole[20:]):
        path.write_bytes(torn)
        with pytest.raises(DataError, match=r"log\.jsonl\.gz: "):
            read_jsonl(path)


def test_journal_replace_is_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log.jsonl")
    journal.append([{"i": i} for i in range(5)])
    journal.replace([{"i": 0}])
    journal.append([{"i": 9}])
    assert journal.read() == [{"i": 0}, {"i": 9}]
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_numbers_that_json_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"log\.jsonl"):
        Journal(tmp_path / "log.jsonl").append([{"loss": float("nan")}])
    write_json_atomic(tmp_path / "r.json", {"mean": 0.5})
    with pytest.raises(ValueError, match=r"r\.json"):
        write_json_atomic(tmp_path / "r.json", {"mean": float("inf")})
    assert read_json(tmp_path / "r.json") == {"mean": 0.5}


def test_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "log.jsonl")
    journal.append([{"step": 1}])
    write_json_atomic(tmp_path / "results.json", {"old": True})

    def full(file, content) -> None:
        file.write(content[:4])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal_module, "_write_all", full)
    with pytest.raises(SparringError, match=r"log\.jsonl: no space left on the disk.*free some space"):
        journal.append([{"step": 2}])
    with pytest.raises(SparringError, match=r"results\.json: no space left"):
        write_json_atomic(tmp_path / "results.json", {"old": False})
    monkeypatch.undo()
    assert journal.path.read_text() == '{"step":1}\n'
    assert read_json(tmp_path / "results.json") == {"old": True}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "results.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_really_full_device_is_named() -> None:
    full = Path("/dev/full")
    with pytest.raises(SparringError, match="no space left on the disk"), disk_errors(full), full.open("wb", 0) as file:
        file.write(b"x")


def test_phase_is_done_once_finished(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", CONFIG, VERSIONS) as run:
        phase = run.phase("seed-0/eto/round-1/train-target")
        assert not phase.is_done
        phase.journal("log.jsonl").append([{"step": 1}])
        phase.finish({"steps": 1, "mean": 0.1})
        run.add_timing(phase="train-target", wall_s=0.5)
    with Run.open(tmp_path / "run", CONFIG, VERSIONS) as run:
        phase = run.phase("seed-0/eto/round-1/train-target")
        assert phase.is_done
        assert phase.result() == {"steps": 1, "mean": 0.1}
        assert phase.journal("log.jsonl").read() == [{"step": 1}]
    assert read_jsonl(tmp_path / "run" / "timings.jsonl") == [{"phase": "train-target", "wall_s": 0.5}]


def start_run(folder: Path) -> None:
    with Run.open(folder, CONFIG, VERSIONS) as run:
        run.phase("experts").finish()


def test_a_folder_in_which_nothing_was_made_takes_another_config(tmp_path: Path) -> None:
    Run.open(tmp_path, CONFIG, VERSIONS).close()
    Run.open(tmp_path, {"seeds": [5]}, VERSIONS).close()
    assert read_json(tmp_path / "config.json") == {"seeds": [5]}


def test_other_config_is_refused_with_what_differs(tmp_path: Path) -> None:
    start_run(tmp_path)
    other = {"name": "trial", "seeds": [1], "arms": {"eto": {"dpo": {"lr": 2e-6, "beta": 0.1, "epochs": 3}}}}
    with pytest.raises(ConfigError) as caught:
        Run.open(tmp_path, other, VERSIONS)
    message = str(caught.value)
    assert "seeds: [0] → [1]" in message
    assert "arms.eto.dpo.lr: 1e-06 → 2e-06" in message
    assert "arms.eto.dpo.beta: (absent) → 0.1" in message
    assert "epochs" not in message
    Run.open(tmp_path, CONFIG, VERSIONS).close()


def test_a_run_may_grow_by_seeds_and_arms_and_not_shrink(tmp_path: Path) -> None:
    start_run(tmp_path)
    grown = {**CONFIG, "seeds": [0, 1], "arms": {**CONFIG["arms"], "sft": {"sft": {"lr": 1e-3}}}}
    Run.open(tmp_path, grown, VERSIONS).close()
    assert read_json(tmp_path / "config.json") == grown
    with pytest.raises(ConfigError, match=r"another config(.|\n)*seeds: \[0, 1\] → \[0\](.|\n)*arms\.sft: "):
        Run.open(tmp_path, CONFIG, VERSIONS)


def test_tuples_and_lists_are_one_in_a_config(tmp_path: Path) -> None:
    with Run.open(tmp_path, {"seeds": (0, 1)}, VERSIONS) as run:
        run.phase("experts").finish()
    Run.open(tmp_path, {"seeds": [0, 1]}, VERSIONS).close()


def test_true_is_not_one() -> None:
    assert list_differences({"a": True}, {"a": 1}) == ["a: true → 1"]


def test_unreadable_config_is_named(tmp_path: Path) -> None:
    start_run(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json:1: not JSON"):
        Run.open(tmp_path, CONFIG, VERSIONS)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match=r"is not a run's folder .*, but holds 'thesis\.tex'"):
        Run.open(tmp_path, CONFIG, VERSIONS)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"my": "own"}')
    with pytest.raises(ConfigError, match=r"is not a run's folder .*, but holds 'config\.json'"):
        Run.open(other, CONFIG, VERSIONS)
    assert (other / "config.json").read_text() == '{"my": "own"}'
    with pytest.raises(ConfigError, match="is a file"):
        Run.open(tmp_path / "thesis.tex", CONFIG, VERSIONS)


def test_a_run_killed_while_it_was_created_can_be_opened(tmp_path: Path) -> None:
    (tmp_path / "versions.json").write_text("{}")
    (tmp_path / "config.json.tmp").write_text("{")
    with Run.open(tmp_path, CONFIG, VERSIONS):
        assert read_json(tmp_path / "config.json") == CONFIG


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from sparring.core.folder import Run\n"
        "run = Run.open(Path(sys.argv[1]), {'a': 1}, {})\n"
        "print('open', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"
    with pytest.raises(ConfigError, match="another process is at work"):
        Run.open(tmp_path, {"a": 1}, {})
    child.kill()
    child.wait()
    child.stdout.close()
    Run.open(tmp_path, {"a": 1}, {}).close()


def test_other_versions_are_noted_and_do_not_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start_run(tmp_path)
    for _ in range(2):
        Run.open(tmp_path, CONFIG, {**VERSIONS, "torch": "3"}).close()
    assert caplog.text.count('torch: "2" → "3"') == 1
    assert read_json(tmp_path / "versions.json") == {**VERSIONS, "resumed_with": [{**VERSIONS, "torch": "3"}]}


def test_versions_are_json_and_name_what_matters() -> None:
    found = versions()
    json.dumps(found)
    assert {"sparring", "python", "torch", "transformers", "revision"} <= set(found)
