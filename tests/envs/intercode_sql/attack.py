"""Statements meant to break out, to hang or to eat the memory, and a process that plays them and reports what it cost.

python -m tests.envs.intercode_sql.attack IMAGE DATABASE   → one JSON object
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sparring.envs.intercode_sql.benchmark import HEAP_MB
from sparring.envs.intercode_sql.sandbox import Sandbox, limit_heap

_PRAGMAS = (
    "journal_mode=WAL, writable_schema=1, temp_store_directory='/tmp', data_store_directory='/tmp', "
    "hard_heap_limit=0, soft_heap_limit=0, max_page_count=1073741823, temp_store=1, cache_size=-9999999, "
    "trusted_schema=1, recursive_triggers=1, mmap_size=999999999, page_size=65536, incremental_vacuum, optimize, "
    "wal_checkpoint, user_version=7, application_id=7, foreign_keys=1, integrity_check, quick_check, database_list, "
    "function_list, module_list, compile_options, collation_list, key=1, schema_version=99, query_only=0, "
    "case_sensitive_like=1, encoding='UTF-16', auto_vacuum=2, secure_delete=0, locking_mode=EXCLUSIVE, threads=8, "
    "busy_timeout=99999, cell_size_check=0, legacy_alter_table=1, stats, vdbe_trace=1, lock_status"
)
PRAGMAS = tuple(_PRAGMAS.split(", "))
_FORBIDDEN_CALLS = (
    "load_extension('/lib/x86_64-linux-gnu/libc.so.6'), readfile('/etc/passwd'), writefile('pwned','x'), edit('x'), "
    "randomblob(1000000000), zeroblob(1000000000), random(), printf('%.*c',1000000000,'a'), hex(zeroblob(99999)), "
    "quote(zeroblob(99999)), char(1,2,3), fts3_tokenizer('simple'), sqlite_version(), "
    "sqlite_source_id(), last_insert_rowid(), changes(), total_changes(), json_array(1), json_group_array(1), "
    "json('[1]'), sqlite_compileoption_get(0), soundex('a'), likelihood(1,0.5), unicode('a'), sqlite_log(1,'x'), "
    "rtreenode(1,x'00'), rtreecheck('x'), match('a','b'), "
    "sqlite_rename_table('a','b','c','d','e','f',1), shell('ls'), system('ls'), exec('ls'), load_file('/etc/passwd'), "
    "sys_exec('ls'), sleep(100), benchmark(1000000000,1), pg_sleep(100)"
)
FORBIDDEN_CALLS = tuple(_FORBIDDEN_CALLS.split(", "))
_TABLES = (
    "dbstat, sqlite_dbpage, sqlite_stmt, json_each('[1]'), json_tree('[1]'), fts5vocab, bytecode('select 1'), "
    "tables_used('select 1'), pragma_database_list, pragma_module_list, pragma_function_list, pragma_compile_options, "
    "pragma_integrity_check, pragma_optimize, pragma_wal_checkpoint, generate_series(1,1000000000), csv, "
    "pragma_writable_schema(1), pragma_journal_mode('wal'), fsdir('/'), zipfile('x'), mysql.user, "
    "information_schema.processlist"
)
TABLES = tuple(_TABLES.split(", "))
MODULES = ("fts3(a)", "fts4(a)", "fts5(a)", "rtree(a,b,c)", "dbstat", "csv(filename='/etc/passwd')", "fts4aux(a)")
RECURSIVE = "WITH RECURSIVE r(x) AS (SELECT {} UNION ALL SELECT {} FROM r) "
LONG = "'" + "a" * 1500 + "'"


def statements() -> Iterator[str]:
    """Yield a few hundred of them."""
    for pragma in PRAGMAS:
        yield f"PRAGMA {pragma}"
        yield f"PRAGMA main.{pragma}"
    for call in FORBIDDEN_CALLS:
        yield f"SELECT {call}"
        yield f"SELECT * FROM city ORDER BY {call}"
    for table in TABLES:
        yield f"SELECT * FROM {table}"
        yield f"WITH t AS (SELECT * FROM {table}) SELECT count(*) FROM t, t AS u"
    for i, module in enumerate(MODULES):
        yield f"CREATE VIRTUAL TABLE v{i} USING {module}"
        yield f"CREATE VIRTUAL TABLE temp.w{i} USING {module}"
    yield from ways_out()
    yield from bombs()
    yield from translated()
    yield from oddities()


def ways_out() -> Iterator[str]:
    for target in (
        "pwned.db",
        "/tmp/pwned.db",
        "file:pwned.db?mode=rwc",
        ":memory:",
        "",
        "file:x?mode=memory&cache=shared",
    ):
        yield f"ATTACH '{target}' AS pwned"
        yield f"ATTACH DATABASE '{target}' AS temp2"
        yield f"VACUUM INTO '{target}'"
        yield f"VACUUM main INTO '{target}'"
    yield from ("VACUUM", "DETACH main", "DETACH information_schema", "REINDEX", "ANALYZE", "BEGIN EXCLUSIVE", "COMMIT")
    yield from (
        "SAVEPOINT a",
        "ROLLBACK",
        "RELEASE a",
        "END",
        ".shell ls",
        ".read /etc/passwd",
        ".output pwned",
        "\\! ls",
    )
    yield from ("SELECT 1 INTO OUTFILE 'pwned'", "LOAD DATA INFILE '/etc/passwd' INTO TABLE city", "SOURCE pwned.sql")
    yield from (
        "GRANT ALL ON *.* TO x",
        "SET GLOBAL general_log=1",
        "SHOW PROCESSLIST",
        "SHUTDOWN",
        "KILL 1",
        "USE mysql",
    )
    yield "CREATE TRIGGER t AFTER INSERT ON city BEGIN INSERT INTO city SELECT * FROM city; END"
    yield "CREATE TEMP TRIGGER t AFTER DELETE ON country BEGIN SELECT load_extension('x'); END"
    yield "INSERT INTO sqlite_master VALUES ('table','x','x',2,'CREATE TABLE x(a)')"
    yield "UPDATE sqlite_schema SET sql = 'CREATE TABLE city(a)' WHERE name = 'city'"
    yield "DELETE FROM sqlite_master"
    yield "INSERT INTO information_schema.tables VALUES ('a', 'b', 'c')"
    yield "DROP TABLE information_schema.columns"
    yield "CREATE TABLE information_schema.pwned (a)"
    yield "ALTER TABLE city RENAME TO pwned"
    yield "SELECT 1; ATTACH 'pwned.db' AS p"
    yield "SELECT 1; -- \n PRAGMA writable_schema=1"


def bombs() -> Iterator[str]:
    yield RECURSIVE.format("1", "x + 1") + "SELECT count(*) FROM r"
    yield RECURSIVE.format("1", "x + 1") + "SELECT x FROM r"
    yield RECURSIVE.format(LONG, "x") + "SELECT x FROM r ORDER BY x"
    yield RECURSIVE.format(LONG, "x || 'a'") + "SELECT max(length(x)) FROM r"
    yield RECURSIVE.format("'ab'", "x || x") + "SELECT x FROM r"
    yield RECURSIVE.format(LONG, "x") + "SELECT group_concat(x) FROM r"
    yield f"WITH RECURSIVE r(x, n) AS (SELECT {LONG}, 1 UNION SELECT x, n + 1 FROM r) SELECT count(*) FROM r"
    counted = f"WITH RECURSIVE r(x, n) AS (SELECT {LONG}, 1 UNION ALL SELECT x, n + 1 FROM r) "
    yield counted + "SELECT x || n FROM r GROUP BY 1"
    yield f"CREATE TABLE bomb AS WITH RECURSIVE r(x) AS (SELECT {LONG} UNION ALL SELECT x FROM r) SELECT x FROM r"
    yield f"CREATE TEMP TABLE bomb AS WITH RECURSIVE r(x) AS (SELECT {LONG} UNION ALL SELECT x FROM r) SELECT x FROM r"
    yield "INSERT INTO city (Name) WITH RECURSIVE r(x) AS (SELECT 'a' UNION ALL SELECT x FROM r) SELECT x FROM r"
    yield "SELECT count(*) FROM city a, city b, city c, city d"
    yield "SELECT * FROM city a, city b"
    yield "SELECT DISTINCT a.Name || b.Name FROM city a, city b"
    yield "SELECT a.Name || b.Name FROM city a, city b ORDER BY 1"
    yield "SELECT group_concat(a.Name || b.Name) FROM city a, city b"
    yield "SELECT a.Name, count(*) OVER (PARTITION BY b.Name ORDER BY a.Name) FROM city a, city b"
    yield "SELECT max(a.Population * b.Population) FROM city a JOIN city b ON a.Name > b.Name"
    yield "SELECT * FROM " + ", ".join(f"city a{i}" for i in range(63))
    yield "SELECT " + ", ".join(f"a{i}.Name" for i in range(30)) + " FROM " + ", ".join(f"city a{i}" for i in range(30))
    yield "UPDATE city SET Name = " + " || ".join(["Name"] * 90)
    yield "SELECT " + " || ".join([LONG] * 2)
    for times in (10, 30, 60):
        yield "SELECT " + "replace(" * times + "'aaaaaaaa'" + ", 'a', 'aaaaaaaa')" * times
    yield f"SELECT replace({LONG}, 'a', {LONG})"
    for levels in (6, 12, 16, 20, 30, 45):
        joined = (f"c{i} AS (SELECT x.a FROM c{i - 1} x, c{i - 1} y)" for i in range(1, levels))
        yield f"WITH c0 AS (SELECT 1 AS a), {', '.join(joined)} SELECT count(*) FROM c{levels - 1}"
        doubled = (f"c{i} AS (SELECT a FROM c{i - 1} UNION SELECT a FROM c{i - 1})" for i in range(1, levels))
        yield f"WITH c0 AS (SELECT 1 AS a), {', '.join(doubled)} SELECT count(*) FROM c{levels - 1}"
    many = ", ".join(f"c1 y{i}" for i in range(60))
    yield f"WITH c0 AS (SELECT 1 AS a), c1 AS (SELECT 1 FROM {many.replace('c1', 'c0')}) SELECT count(*) FROM {many}"
    for i in range(1, 14):  # views on views, one statement each
        source = "city" if i == 1 else f"v{i - 1}"
        yield f"CREATE VIEW v{i} AS SELECT a.Name FROM {source} a, {source} b"
    yield "SELECT count(*) FROM v13"
    yield "SELECT * FROM v3"
    text, wild = "substr(group_concat(Name), 1, 4000)", "%a" * 30 + "%"
    joined_names = f"(SELECT {text} AS t FROM (SELECT Name FROM city LIMIT 300))"
    yield f"SELECT count(*) FROM city a, {joined_names} WHERE t LIKE '{wild}z'"
    slow = " OR ".join([f"t LIKE '%{'a' * 60}b'"] * 40)
    yield f"SELECT count(*) FROM (SELECT {LONG} || {LONG} AS t), city WHERE {slow}"
    yield f"SELECT {' + '.join(['length(trim(t, u))'] * 90)} FROM (SELECT {LONG} AS t, {LONG} || 'b' AS u)"
    yield f"SELECT {' + '.join(['instr(t, u)'] * 90)} FROM (SELECT {LONG} || {LONG} AS t, {LONG} || 'b' AS u), city"
    yield "SELECT pow(10, 300) * pow(10, 300), -9223372036854775808 / -1, abs(-9223372036854775808)"
    yield "SELECT sum(9223372036854775807) FROM city"
    yield "SELECT round(1.0, 1000000000), substr('a', -9223372036854775808, 9223372036854775807)"
    yield "SELECT date('now', " + ", ".join(["'+1000000 years'"] * 15) + ")"
    yield "SELECT strftime('" + "%s" * 1500 + "', 'now')"


def translated() -> Iterator[str]:
    """Yield statements that are put into SQLite's words, and so pass through a parser and Python's functions."""
    yield f"SELECT {LONG} REGEXP '(a+)+$x'"
    for pattern in ("a{1000000}", "(" * 60 + "a" + "){2}" * 60, "(?R)", "(a", "\\\\L<x>", "a{e<9}", "[" * 200):
        yield f"SELECT 'a' REGEXP '{pattern}'"
    yield from ("SELECT REPEAT('a', 1000000000)", "SELECT LPAD('a', 1000000000, 'b')", "SELECT SPACE(1e300)")
    yield "SELECT GROUP_CONCAT(a.Name ORDER BY b.Name) FROM city a, city b"
    yield "SELECT DATE_FORMAT('2019-01-01', '" + "%r%W" * 900 + "'), STR_TO_DATE('1', '%d%d')"
    yield "SELECT DATE_ADD('9999-12-31', INTERVAL 1e18 YEAR), FROM_UNIXTIME(1e18), CAST(1e300 AS SIGNED)"
    yield "SELECT FORMAT('%01000000000d', 1), LEFT('a', 1e999), 1e999 DIV 1, CURRENT_DATE"
    for call in ("load_extension('x')", "readfile('/etc/passwd')", "randomblob(9)", "zeroblob(99999)"):
        yield f"SELECT LEFT({call}, 1)"
    yield "SELECT LEFT(name, 1) FROM pragma_database_list"
    yield "INSERT INTO information_schema.tables SELECT LEFT('a', 1), 'b', 'c'"
    yield "SELECT 1 # \n; ATTACH 'pwned.db' AS y"
    yield "SELECT '\\'; ATTACH 'pwned.db' AS y; --'"
    yield "SELECT /*! 1; ATTACH 'pwned.db' AS y */"
    yield "SELECT LEFT('a', 1) INTO OUTFILE '/tmp/pwned'"
    for opening, closing in (("(", ")"), ("IF(", ", 1, 2)"), ("1 > ALL (SELECT ", ")"), ("CAST(", " AS SIGNED)")):
        for depth in (5, 40, 200):
            yield f"SELECT {opening * depth}1 DIV 1{closing * depth}"[:4000]
    yield "(" * 500 + "SELECT 1" + ") UNION (SELECT 2)" * 200
    yield "SELECT 1" + " + INTERVAL 1 DAY" * 200
    yield "SELECT " + "'a' " * 900


def oddities() -> Iterator[str]:
    yield from (
        "",
        " ",
        ";",
        ";;;",
        "--",
        "/*",
        "/* */",
        "'",
        '"',
        "`",
        "(",
        ")",
        "SELECT",
        "\x00",
        "SELECT '\x00'",
        "?",
    )
    yield from ("SELECT ?", "SELECT :a", "SELECT @a", "SELECT $a", "SELECT {}", "%s", "SELECT * FROM", "\ud800", "选择")
    yield "SELECT " + "(" * 3000 + "1" + ")" * 900
    yield "SELECT " + "NOT " * 900 + "1"
    yield "SELECT " + "-" * 3000 + "1"
    yield "SELECT " + " + ".join(["1"] * 1300)
    yield "SELECT " + ", ".join(["1"] * 1900)
    yield "SELECT 1 IN (" + ", ".join(["1"] * 1900) + ")"
    yield " UNION ALL ".join(["SELECT 1"] * 200)
    yield "VALUES " + ", ".join(["(1)"] * 900)
    yield "SELECT CASE " + "WHEN 1 THEN 1 " * 250 + "END"
    yield "x" * 1_000_000
    yield "SELECT '" + "x" * 1_000_000 + "'"
    yield "SELECT CAST(x'fffefd00ff' AS TEXT), x'00ff', 1e999, -1e999, CAST('1e500' AS REAL)"
    yield "DESC `" + "x" * 3000 + "`"
    yield "DESC city; DROP TABLE city"
    yield "SHOW TABLES LIKE '" + "%_" * 1000 + "'"
    yield "SHOW COLUMNS FROM city LIKE '' OR 1=1 --'"
    yield "DESC city' UNION SELECT sql FROM sqlite_master --"
    yield "EXPLAIN SELECT * FROM city a, city b"
    yield "EXPLAIN QUERY PLAN SELECT * FROM city a, city b"
    yield from (
        "DELETE FROM city",
        "DROP TABLE city",
        "DROP TABLE country",
        "DROP TABLE countrylanguage",
        "SHOW TABLES",
    )


def main() -> None:
    image, database = Path(sys.argv[1]).read_bytes(), sys.argv[2]
    limit_heap(HEAP_MB << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers, slowest, total = [], (0.0, ""), time.process_time()
    sandbox = Sandbox(database, image)
    for statement in statements():
        start = time.process_time()
        result = sandbox.run(statement)
        slowest = max(slowest, (time.process_time() - start, statement[:200]))
        answers.append((statement[:120], result.error, len(result.rows or ())))
    sandbox.close()
    fresh = Sandbox(database, image)
    rows = fresh.run("SELECT count(*), sum(Population) FROM city").rows
    fresh.close()
    report = {
        "answers": answers,
        "slowest": slowest,
        "total_s": time.process_time() - total,
        "grown_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "rows_after": rows,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
