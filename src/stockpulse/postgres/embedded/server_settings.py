"""The settings of the embedded server, with their reasons."""

import sys

PORT = 5432  # only part of the socket's file name

SETTINGS = {
    # Durability: acknowledged data survives a power cut, and no page is half written.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # No network: only our unix socket, and only for the server's user (and root).
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    # One app with a few pools.
    "max_connections": "50",
    # A query ends when its client is gone.
    "client_connection_check_interval": "5s",
    # There are no replicas: no process for them, and COPY into a new table skips the WAL.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    # A crash replays about 1 GB at most, which takes seconds: a checkpoint begins at half of max_wal_size or
    # after five minutes. Fewer checkpoints also mean fewer full pages in the WAL.
    "max_wal_size": "2GB",
    "checkpoint_timeout": "5min",
    "checkpoint_completion_target": "0.9",
    # These binaries have only pglz, which costs an appending load more than it saves.
    "wal_compression": "off",
    # Enough for the day's tables; the system's cache serves the rest better.
    "shared_buffers": "256MB",
    "huge_pages": "off",
    # For building the indexes of sealed segments.
    "maintenance_work_mem": "256MB",
    "max_parallel_maintenance_workers": "2",
    # The app itself needs processors too.
    "max_parallel_workers_per_gather": "2",
    # Compiling takes longer than our short queries.
    "jit": "off",
    "autovacuum": "on",
    # It would read the clock for every block, and nothing uses the result.
    "track_io_timing": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # The log file is rotated only at a start, so it must stay short.
    "log_min_messages": "warning",
    "log_checkpoints": "off",
}
if sys.platform == "linux":
    # The default lives in /dev/shm, which has 64 MB in a container: parallel queries would fail. SysV memory
    # has no such limit on Linux (but a tiny one on macOS, where the default is fine).
    SETTINGS["dynamic_shared_memory_type"] = "sysv"
