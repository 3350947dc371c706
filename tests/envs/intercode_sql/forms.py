"""Statements in MySQL's words over the database `world_1`, and what MySQL answers.

Checked against MariaDB 10.11 (`test_mysql.py` does so again where a server is installed).
"""

from __future__ import annotations

FORMS: dict[str, list[tuple]] = {
    # names with their database
    "SELECT count(*) FROM world_1.country": [(239,)],
    "SELECT `world_1`.`city`.`Name` FROM `world_1`.`city` WHERE world_1.city.ID = 1": [("Kabul",)],
    "SELECT c.Name FROM World_1 . city AS c JOIN world_1.country ON c.CountryCode = country.Code WHERE c.ID = 5": [
        ("Amsterdam",)
    ],
    # comments and strings
    "SELECT 1 # 'a \" b\n, 2 -- it's\n, 3 /* it's */, 5--3 /*! , 9 */": [(1, 2, 3, 8, 9)],
    r"""SELECT 'it\'s', "it's", 'a"b', "a""b", "a''b", 'a\\b', 'a' 'b'""": [
        ("it's", "it's", 'a"b', 'a"b', "a''b", "a\\b", "ab")
    ],
    r"SELECT 'a_b' LIKE 'a\_b', 'axb' LIKE 'a\_b', 'x' NOT LIKE 'y\_', 'a%' LIKE '%\%'": [(1, 0, 1, 1)],
    'SELECT "Name" FROM city WHERE ID = 1': [("Name",)],
    # brackets around UNION's sides
    "(SELECT Name FROM city WHERE ID = 1) UNION (SELECT Name FROM country WHERE Code = 'NLD') ORDER BY 1": [
        ("Kabul",),
        ("Netherlands",),
    ],
    "(SELECT Name FROM city ORDER BY Population DESC LIMIT 1) UNION ALL (SELECT 'x' LIMIT 1)": [
        ("Mumbai (Bombay)",),
        ("x",),
    ],
    "((SELECT 2 UNION SELECT 1)) ORDER BY 1 LIMIT 1": [(1,)],
    "SELECT 1 UNION SELECT 2 INTERSECT SELECT 2 ORDER BY 1": [(1,), (2,)],
    # operators
    "SELECT IF(NULL, 1, 2), IF(2, 'a', 'b'), 7 DIV 2, -7 DIV 2, 7 DIV 0, 7 / 0, 17 MOD 5 * 2, 5.5 % 2": [
        (2, "a", 3, -3, None, None, 4, 1.5)
    ],
    "SELECT 7 / 2, 100 / 5 / 2": [(3.5, 10.0)],
    "SELECT 1 AND 0 XOR 1, NOT 1 XOR 1, NULL <=> NULL, 1 <=> NULL, 1 && 0, !0, 1 || 0, 'a' || 'b'": [
        (1, 1, 1, 0, 0, 1, 1, 0)
    ],
    "SELECT Name FROM country WHERE Population > ALL (SELECT Population FROM country WHERE Continent = 'Africa') "
    "AND Continent = 'North America'": [("United States",)],
    "SELECT 1 > ALL (SELECT NULL), 1 > ANY (SELECT NULL), 1 > ANY (SELECT 1 FROM city WHERE 0)": [(None, None, 0)],
    "SELECT 1 > ALL (SELECT 1 FROM city WHERE 0), 1 > ALL (SELECT 5 UNION SELECT NULL)": [(1, 0)],
    "SELECT 1 > ALL (SELECT 0 UNION SELECT NULL), 1 = ANY (SELECT 1), 1 <> ALL (SELECT 2), 3 <= SOME (SELECT 3)": [
        (None, 1, 1, 1)
    ],
    "SELECT CountryCode FROM city GROUP BY CountryCode HAVING count(*) >= ALL "
    "(SELECT count(*) FROM city GROUP BY CountryCode)": [("CHN",)],
    # aggregates
    "SELECT count(DISTINCT Continent, Region), count(DISTINCT HeadOfState, Capital) FROM country": [(25, 231)],
    "SELECT group_concat(DISTINCT Region ORDER BY Region DESC SEPARATOR '|') FROM country WHERE Continent = 'Europe'": [
        ("Western Europe|Southern Europe|Nordic Countries|Eastern Europe|British Islands|Baltic Countries",)
    ],
    "SELECT group_concat(Name, ':', Code ORDER BY Name) FROM country WHERE Region = 'Baltic Countries'": [
        ("Estonia:EST,Latvia:LVA,Lithuania:LTU",)
    ],
    "SELECT octet_length(group_concat(Name)) FROM country": [(1024,)],
    # functions
    "SELECT LEFT('abc', 2), RIGHT('abc', 2), LEFT('abc', -1), MID('abcdef', 2, 3), SUBSTRING_INDEX('a.b.c', '.', 2), "
    "SUBSTRING_INDEX('a.b.c', '.', -1), LPAD('a', 3, 'xy'), REVERSE('abc'), LOCATE('B', 'abc')": [
        ("ab", "bc", "", "bcd", "a.b", "c", "xya", "cba", 2)
    ],
    "SELECT TRIM(LEADING 'x' FROM 'xxaxx'), TRIM('x' FROM 'xax'), FIELD('b', 'a', 'B'), CONCAT_WS('-', 'a', NULL, 1), "
    "FORMAT(12332.2, 2), GREATEST(1, NULL), LEAST('b', 'A'), ISNULL(NULL)": [
        ("axx", "a", 2, "a-1", "12,332.20", None, "A", 1)
    ],
    "SELECT Name FROM country WHERE Name REGEXP '^[vw].*[[:alpha:]]u$' AND Name NOT RLIKE 'x' ORDER BY 1": [
        ("Vanuatu",)
    ],
    r"SELECT 'a1' REGEXP '\\d', 'Abc' REGEXP '^a', 'abc' REGEXP 'b{2}'": [(1, 1, 0)],
    "SELECT CAST('12abc' AS SIGNED), CAST(1.5 AS SIGNED), CAST('1.9' AS SIGNED), CAST(3.14159 AS CHAR(4)), "
    "CAST('2019-01-02 10:00:00' AS DATE), CONVERT('7', SIGNED), CAST('x' AS DATE)": [
        (12, 2, 1, "3.14", "2019-01-02", 7, None)
    ],
    "SELECT DATE_FORMAT('2009-10-04 22:23:00', '%W %M %Y %D %y %d %m %b %j %H %i %s %r %p %e %c %%')": [
        ("Sunday October 2009 4th 09 04 10 Oct 277 22 23 00 10:23:00 PM PM 4 10 %",)
    ],
    "SELECT DATE_ADD('2019-01-31', INTERVAL 1 MONTH), DATE_SUB('2020-02-29', INTERVAL 1 YEAR), "
    "'2019-01-02' - INTERVAL 1 WEEK, INTERVAL 2 DAY + '2019-01-02', DATE_ADD('2019-01-02', INTERVAL 90 MINUTE), "
    "ADDDATE('2019-01-02', 5), SUBDATE('2019-01-02', INTERVAL 1 QUARTER)": [
        ("2019-02-28", "2019-02-28", "2018-12-26", "2019-01-04", "2019-01-02 01:30:00", "2019-01-07", "2018-10-02")
    ],
    "SELECT TIMESTAMPDIFF(YEAR, '2000-03-05', '2019-03-04'), TIMESTAMPDIFF(MONTH, '2019-05-31', '2019-02-28'), "
    "DATEDIFF('2019-01-05 23:00:00', '2019-01-02'), EXTRACT(YEAR FROM '2019-07-02'), QUARTER('2019-12-01'), "
    "WEEK('2019-12-31'), DAYOFWEEK('2019-01-06'), DAYNAME('2019-01-06'), TO_DAYS('2019-01-01')": [
        (18, -3, 3, 2019, 4, 52, 1, "Sunday", 737425)
    ],
    "SELECT STR_TO_DATE('May 1, 2013', '%M %d, %Y'), STR_TO_DATE('10:11', '%H:%i'), STR_TO_DATE('x', '%Y')": [
        ("2013-05-01", "10:11:00", None)
    ],
    "SELECT NOW() > '2020', CURDATE() = CURRENT_DATE, 1 FROM DUAL": [(1, 1, 1)],
    "SELECT SQL_NO_CACHE Name FROM city USE INDEX (PRIMARY) WHERE ID = 1 FOR UPDATE": [("Kabul",)],
}

REFUSED: dict[str, str] = {
    "SELECT Name, count(*) FROM city GROUP BY CountryCode": (
        "Expression #1 of SELECT list is not in GROUP BY clause and contains nonaggregated column 'world_1.city.Name' "
        "which is not functionally dependent on columns in GROUP BY clause; this is incompatible with "
        "sql_mode=only_full_group_by"
    ),
    "SELECT c.CountryCode FROM city c GROUP BY c.countrycode ORDER BY c.population": (
        "Expression #1 of ORDER BY clause is not in GROUP BY clause and contains nonaggregated column "
        "'world_1.c.Population' which is not functionally dependent on columns in GROUP BY clause; this is "
        "incompatible with sql_mode=only_full_group_by"
    ),
    "SELECT name, max(Population) FROM city": (
        "In aggregated query without GROUP BY, expression #1 of SELECT list contains nonaggregated column "
        "'world_1.city.Name'; this is incompatible with sql_mode=only_full_group_by"
    ),
    "SELECT DISTINCT Name FROM city ORDER BY Population": (
        "Expression #1 of ORDER BY clause is not in SELECT list, references column 'world_1.city.Population' which is "
        "not in SELECT list; this is incompatible with DISTINCT"
    ),
    "SELECT Name FROM city WHERE CountryCode = (SELECT Code FROM country)": "Subquery returns more than 1 row",
    "SELECT Name FROM city WHERE ID IN (SELECT ID FROM city ORDER BY Population DESC LIMIT 1)": (
        "This version of MySQL doesn't yet support 'LIMIT & IN/ALL/ANY/SOME subquery'"
    ),
    "SELECT Name FROM (SELECT Name FROM city)": "Every derived table must have its own alias",
    "SELECT 1 FROM city c JOIN country c LIMIT 1": "Not unique table/alias: 'c'",
    "SELECT District, count(*) FROM city GROUP BY District HAVING population > 3": (
        "Unknown column 'population' in 'having clause'"
    ),
    "SELECT Population * 2 AS twice FROM city WHERE twice > 3": "Unknown column 'twice' in 'where clause'",
    "SELECT name FROM sqlite_master": "Table 'world_1.sqlite_master' doesn't exist",
}
"""Statements that SQLite takes and MySQL's default mode does not, with MySQL's message."""

DETERMINED: tuple[str, ...] = (
    "SELECT Name, Population, count(*) FROM city GROUP BY ID",
    "SELECT c.Name, count(*) FROM country c JOIN city ON city.CountryCode = c.Code GROUP BY c.Code",
    "SELECT c.Name, count(*) FROM country c JOIN city ON city.CountryCode = c.Code GROUP BY city.CountryCode",
    "SELECT c.Name, count(city.ID) FROM country c LEFT JOIN city ON city.CountryCode = c.Code GROUP BY c.Code",
    "SELECT CountryCode, max(Population) FROM city WHERE CountryCode = 'NLD'",
    "SELECT upper(Name) AS u, count(*) FROM city GROUP BY u ORDER BY u",
    "SELECT Continent, count(*) AS n FROM country GROUP BY 1 HAVING n > 3 ORDER BY n DESC, Continent",
    "SELECT t.n, t.CountryCode FROM (SELECT CountryCode, count(*) AS n FROM city GROUP BY CountryCode) AS t "
    "GROUP BY t.CountryCode",
    "SELECT any_value(Name), count(*) FROM city GROUP BY CountryCode",
    "SELECT Name, (SELECT max(Population) FROM city WHERE CountryCode = Code) FROM country WHERE Continent = 'Europe'",
    "SELECT Name FROM city WHERE Population = (SELECT max(Population) FROM city)",
    "SELECT Name, rank() OVER (ORDER BY Population) FROM city ORDER BY ID LIMIT 3",
)
"""Statements that a hasty check would refuse and MySQL takes."""
