"""InterCodeSQL: questions answered by SQL, over many turns, on real databases.

dump        a MySQL dump → SQLite images, cached
dialect     SHOW, DESC and USE in SQLite's words
translator  other words of MySQL's in SQLite's, by way of sqlglot (rewriting)
strict      what MySQL refuses (scopes, schema)
functions   MySQL's functions in Python (dates, patterns, values)
sandbox     hostile SQL in, rows or an error out
reward      rows and gold rows → a number
env         one live world
questions   our own questions: templates over the schema (grammar, templates, lexicon)
official    InterCode's and Spider's question files, split by gold query
expert      the way to a known answer
walks       many ways to it, wrong turns included
mysql       the same on a MySQL or MariaDB server
benchmark   puts them together
"""

from sparring.envs.intercode_sql.benchmark import InterCodeSQL

__all__ = ["InterCodeSQL"]
