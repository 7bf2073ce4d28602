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
    """Connections for the work of the process itself."""
    readers: Pool
    """Connections for the requests that read: they wait for each other, and no other work waits for them."""
    names: Names
    name_store: NameStore
    disk: Disk
    pulse: Pulse
