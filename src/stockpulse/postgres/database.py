"""The database for all parts of the process: its address, its connections, its names."""

from dataclasses import dataclass

from stockpulse.market.symbology import Names
from stockpulse.postgres.connect import Pool
from stockpulse.postgres.disk import Disk
from stockpulse.postgres.pulse import Pulse
from stockpulse.postgres.symbology_store import NameStore


@dataclass(frozen=True)
class Database:
    """A PostgreSQL whose schema is up to date."""

    dsn: str
    pool: Pool
    names: Names
    name_store: NameStore
    disk: Disk
    pulse: Pulse
