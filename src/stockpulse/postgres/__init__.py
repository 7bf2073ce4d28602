"""PostgreSQL: connections, tables, migrations, binary COPY, and the embedded server."""
