"""A small database of our own for every test, and the real ones where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.core.errors import ConfigError
from sparring.envs.intercode_sql import InterCodeSQL, dump

ZOO = """-- Server version 8.0
CREATE DATABASE  IF NOT EXISTS `zoo` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;
USE `zoo`;
DROP TABLE IF EXISTS `animal`;
CREATE TABLE `animal` (
  `ID` int NOT NULL AUTO_INCREMENT,
  `Name` varchar(20) COLLATE utf8mb4_general_ci DEFAULT NULL,
  `Weight` float(10,2) NOT NULL DEFAULT '0.00',
  `Price` decimal(19,4) DEFAULT NULL,
  `Born` date DEFAULT NULL,
  `Keeper_ID` int DEFAULT NULL,
  PRIMARY KEY (`ID`),
  KEY `FK_1` (`Keeper_ID`),
  CONSTRAINT `FK_1` FOREIGN KEY (`Keeper_ID`) REFERENCES `keeper` (`ID`)
) ENGINE=InnoDB AUTO_INCREMENT=6 DEFAULT CHARSET=utf8mb4;
LOCK TABLES `animal` WRITE;
/*!40000 ALTER TABLE `animal` DISABLE KEYS */;
{animals}
/*!40000 ALTER TABLE `animal` ENABLE KEYS */;
CREATE TABLE `keeper` (
  `ID` int NOT NULL,
  `Full Name` text COLLATE utf8mb4_general_ci,
  PRIMARY KEY (`ID`),
  UNIQUE KEY `u` (`ID`)
) ENGINE=InnoDB;
INSERT INTO `keeper` VALUES (1,'Zoë\\nB'),(2,'it''s');
CREATE DATABASE `bare`;
USE `bare`;
CREATE TABLE `nothing` (
  `a` int DEFAULT NULL
) ENGINE=InnoDB;
"""
ZOO = ZOO.replace(
    "{animals}",
    "INSERT INTO `animal` VALUES (1,'Ada',12.5,3.5000,'2019-01-02',1),"
    r"(2,'O\'Hara; \\ (x),(',-1.5,NULL,NULL,1),(3,'Cy  ',1e3,20,'2020-05-06',2);",
)
"""A dump as mysqldump writes it, with what is easy to get wrong: escapes, decimals, keys, an empty table."""


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this session's own, all its workers': what is tested is this code, not an earlier one."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def zoo() -> bytes:
    return dump.convert(ZOO, "zoo.sql")["zoo"]


@pytest.fixture
def zoo_dump(tmp_path: Path) -> Path:
    file = tmp_path / "zoo.sql"
    file.write_text(ZOO, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def real_dump(request: pytest.FixtureRequest) -> Path:
    """The dump with the 20 databases: from the package, or from the data folder."""
    try:
        return dump.find_dump(None)
    except ConfigError:
        file = request.getfixturevalue("data_dir") / "intercode_sql" / "ic_spider_dbs.sql"
        if not file.is_file():
            pytest.skip(f"needs the 20 databases: {dump.INSTALL}")
        return file


@pytest.fixture(scope="session")
def images(real_dump: Path, cache: Path) -> dict[str, bytes]:
    return dump.load_images(real_dump)


@pytest.fixture(scope="session")
def ours(real_dump: Path, cache: Path) -> InterCodeSQL:
    """The benchmark as it comes."""
    return InterCodeSQL(dump=str(real_dump))


@pytest.fixture(scope="session")
def official_file(data_dir: Path) -> Path:
    file = data_dir / "intercode_sql" / "ic_spider_dev.json"
    if not file.is_file():
        pytest.skip(f"needs the official questions; {file} is not there")
    return file
