"""The MySQL backend against a real MariaDB, started for these tests where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.core.errors import ConfigError
from sparring.envs.intercode_sql import InterCodeSQL, mysql
from sparring.envs.intercode_sql.mysql import Server
from sparring.envs.intercode_sql.reward import reward
from sparring.envs.intercode_sql.sandbox import MAX_ROWS
from tests.envs.intercode_sql.forms import FORMS, REFUSED
from tests.strangers import NOBODY, is_private, try_as

PASSWORD = "a test's password"


@pytest.fixture(scope="module")
def socket(real_dump: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A server of our own on a socket, with the 20 databases, a user who may read them and one who may do anything."""
    path = "/usr/sbin:/usr/bin:/usr/local/bin"
    daemon, install = shutil.which("mariadbd", path=path), shutil.which("mariadb-install-db", path=path)
    if not daemon or not install:
        pytest.skip("needs MariaDB: apt-get install mariadb-server")
    pymysql = pytest.importorskip("pymysql", reason="needs PyMySQL")
    folder = tmp_path_factory.mktemp("mariadb")
    data, file = folder / "data", folder / "socket"
    subprocess.run(
        [install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", "--user=root",
         "--skip-test-db"],
        check=True, capture_output=True,
    )  # fmt: skip
    server = subprocess.Popen(
        [daemon, "--no-defaults", f"--datadir={data}", f"--socket={file}", "--skip-networking", "--user=root",
         "--lower-case-table-names=1", f"--pid-file={folder / 'pid'}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not file.exists() and time.monotonic() < until and server.poll() is None:
            time.sleep(0.1)
        multi = pymysql.constants.CLIENT.MULTI_STATEMENTS
        root = pymysql.connect(unix_socket=str(file), user="root", client_flag=multi, autocommit=True)
        with root.cursor() as cursor:
            cursor.execute(real_dump.read_text(encoding="utf-8").partition("FLUSH PRIVILEGES;")[2])
            while cursor.nextset():
                pass
            cursor.execute("CREATE USER reader@localhost IDENTIFIED BY %s", (PASSWORD,))
            cursor.execute("SHOW DATABASES")
            for (name,) in cursor.fetchall():
                if name not in ("information_schema", "mysql", "performance_schema", "sys"):
                    cursor.execute(f"GRANT SELECT ON `{name}`.* TO reader@localhost")
            cursor.execute("CREATE USER curious@localhost IDENTIFIED BY %s", (PASSWORD,))
            cursor.execute("GRANT SELECT ON *.* TO curious@localhost")
            cursor.execute("CREATE USER nosy@localhost IDENTIFIED BY %s", (PASSWORD,))
            cursor.execute("GRANT SELECT ON world_1.* TO nosy@localhost")
            cursor.execute("GRANT SELECT ON mysql.db TO nosy@localhost")
            cursor.execute("CREATE USER writer@localhost IDENTIFIED BY %s", (PASSWORD,))
            cursor.execute("GRANT ALL ON world_1.* TO writer@localhost")
            cursor.execute("CREATE USER stranger@localhost IDENTIFIED BY %s", (PASSWORD,))
        root.close()
        yield file
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mysql.PASSWORD_VARIABLE, PASSWORD)


@pytest.fixture
def server(socket: Path) -> Server:
    return Server({"unix_socket": str(socket), "user": "reader"}, {"world_1"})


def test_a_stranger_does_not_reach_the_server_of_these_tests(socket: Path):
    """It has a root without a password. The folder around its socket is closed, and it has no port."""
    assert is_private(socket)
    assert try_as(None, calls=[(str(socket), "")]) and not try_as(NOBODY, calls=[(str(socket), "")])


def test_an_agent_looks_around(server: Server, images: dict[str, bytes]):
    session = server.open("world_1")
    assert session.run("SHOW TABLES").rows == (("city",), ("country",), ("countrylanguage",))
    desc = session.run("DESC city").rows or ()
    assert [row[0] for row in desc] == ["ID", "Name", "CountryCode", "District", "Population"]
    assert session.run("SELECT * FROM cities").error == "Table 'world_1.cities' doesn't exist"
    assert session.run("SELECT count(*) FROM city").rows == ((4079,),)
    session.close()
    session.close()


def test_both_backends_describe_tables_alike(server: Server, images: dict[str, bytes]):
    """Field, null, key and default are the same; types but for MariaDB's display widths; `Extra` is MySQL's alone."""
    from sparring.envs.intercode_sql.sandbox import Sandbox

    for database in ("world_1", "pets_1", "concert_singer", "dog_kennels"):
        ours, theirs = Sandbox(database, images[database]), server.open(database)
        for (table,) in ours.run("SHOW TABLES").rows or ():
            ours_rows, their_rows = ours.run(f"DESC {table}").rows or (), theirs.run(f"DESC {table}").rows or ()
            assert [(r[0], r[2], r[3], r[4]) for r in ours_rows] == [(r[0], r[2], r[3], r[4]) for r in their_rows], (
                table
            )
            assert all(right[1].startswith(left[1]) for left, right in zip(ours_rows, their_rows, strict=True))
        ours.close()
        theirs.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM city", "DROP TABLE city", "CREATE TABLE x (a int)", "SET GLOBAL general_log = 1", "COMMIT",
        "SET SESSION max_statement_time = 0", "LOAD DATA INFILE '/etc/passwd' INTO TABLE city", "PREPARE a FROM 'x'",
        "SELECT * FROM city INTO OUTFILE '/tmp/pwned'", "SELECT 1; DROP TABLE city", "KILL 1", "SHUTDOWN", "",
        "WITH t AS (SELECT 1) DELETE FROM city", "EXPLAIN DELETE FROM city", "\x00", "x" * 10_000, "SELECT %s",
    ],
)  # fmt: skip
def test_statements_that_do_more_than_read_are_refused(server: Server, statement: str):
    session = server.open("world_1")
    assert session.run(statement).error
    assert session.run("SELECT count(*) FROM city").rows == ((4079,),)
    session.close()


def test_files_of_the_servers_are_out_of_reach(server: Server):
    session = server.open("world_1")
    assert session.run("SELECT LOAD_FILE('/etc/passwd')").rows == ((None,),)
    session.close()


@pytest.mark.slow
def test_results_and_time_are_bounded(server: Server):
    session = server.open("world_1")
    assert "too large" in session.run("SELECT * FROM city a, city b").error
    start = time.monotonic()
    assert session.run("SELECT count(*) FROM city a, city b, city c WHERE a.Name < b.Name").error
    session.run("SELECT SLEEP(60)")
    assert time.monotonic() - start < 40
    assert len(session.run(f"SELECT 1 FROM city a, country b LIMIT {MAX_ROWS}").rows or ()) == MAX_ROWS
    session.close()


@pytest.mark.parametrize(
    ("user", "databases", "message"),
    [
        ("writer", {"world_1"}, "may do more than read"),
        ("curious", {"world_1"}, "may read mysql.user"),
        ("nosy", {"world_1"}, "may read mysql.db"),
        ("stranger", {"world_1"}, "no database 'world_1'"),
        ("nobody", {"world_1"}, "no connection.*SPARRING_MYSQL_PASSWORD"),
    ],
)
def test_a_server_that_does_not_fit_is_refused(socket: Path, user: str, databases: set[str], message: str):
    with pytest.raises(ConfigError, match=message):
        Server({"unix_socket": str(socket), "user": user}, databases)


def test_our_questions_can_be_played_on_it(real_dump: Path, socket: Path):
    benchmark = InterCodeSQL(
        dump=str(real_dump), backend="mysql", mysql={"unix_socket": str(socket), "user": "reader"}
    )  # fmt: skip
    tasks = benchmark.tasks("dev")[::20]
    env, experts = benchmark.make_env(), benchmark.expert_actions(tasks)
    for task in tasks:
        env.reset(task, 0)
        steps = [env.step(action) for action in experts[task.id]]
        assert (steps[-1].reward, steps[-1].is_done) == (1.0, True), (task, steps)
    env.close()


def test_most_official_answers_are_the_same_on_both(real_dump: Path, socket: Path, official_file: Path):
    """What differs: ties under LIMIT 1, columns that are neither grouped nor aggregated, decimals, dates."""
    benchmark = InterCodeSQL(dump=str(real_dump), path=str(official_file))
    server = Server({"unix_socket": str(socket), "user": "reader"}, {"world_1"})
    tasks = [task for split in ("train", "dev", "test") for task in benchmark.tasks(split)]
    names = {task.data["db"] for task in tasks}
    sessions = {name: (benchmark.backend.open(name), server.open(name)) for name in names}
    same = 0
    for task in tasks:
        left, right = (session.run(task.data["gold"]) for session in sessions[task.data["db"]])
        plain = [[tuple(_plain(value) for value in row) for row in result.rows or ()] for result in (left, right)]
        same += not right.error and sorted(plain[0]) == sorted(plain[1])
        assert right.error or reward(right, right) == 1.0, task
    for session in [session for pair in sessions.values() for session in pair]:
        session.close()
    assert same >= 0.96 * len(tasks), same


def _plain(value: object) -> str:
    """A value as both backends would write it, were it not for their types."""
    try:
        return f"{float(str(value)):.4f}"
    except ValueError:
        return str(value).casefold().rstrip()


@pytest.mark.parametrize("statement", FORMS)
def test_a_server_answers_forms_as_the_sandbox_does(server: Server, statement: str):
    session = server.open("world_1")
    result = session.run(statement)
    session.close()
    if statement.startswith("SELECT octet_length(group_concat"):
        return  # MariaDB cuts at a million bytes, MySQL at 1,024
    plain = [[tuple(_plain(value) for value in row) for row in rows] for rows in (result.rows or (), FORMS[statement])]
    assert plain[0] == plain[1], result.error


@pytest.mark.parametrize("statement", [s for s in REFUSED if "SELECT list con" in REFUSED[s] or "1 row" in REFUSED[s]])
def test_a_strict_server_refuses_what_the_strict_sandbox_does(socket: Path, statement: str):
    server = Server({"unix_socket": str(socket), "user": "reader"}, {"world_1"}, is_strict=True)
    session = server.open("world_1")
    assert session.run(statement).error
    session.close()
    session = server.open("world_1", for_gold=True)
    if "only_full_group_by" in REFUSED[statement]:
        assert not session.run(statement).error
    session.close()
