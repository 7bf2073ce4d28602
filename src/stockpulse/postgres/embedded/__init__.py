"""The PostgreSQL server that the process starts when `DATABASE_URL` is not set."""
