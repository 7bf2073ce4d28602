"""The pure engine: from the records of the log to bars. No I/O, no clock; the same log gives the same bytes."""
