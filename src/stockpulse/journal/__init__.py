"""The durable log of records, in PostgreSQL or on Kafka.

- **record**: a trade, a provider's own bar, the end of a recording. Records are appended and never changed.
- **shard**: the symbols whose records share one log: one shard in PostgreSQL, one for each partition on Kafka.
- **seq**: the number of a record, unique in the database. Within a shard, seqs grow in the order of the log.
- **offset**: a position in the log of a shard, counted as seq. A reader at an offset has read all records before it.
- **partition offset**: Kafka's own count within a partition: `seq = first_seq + partition offset`.
- **first_seq**: the seq of partition offset 0.
- **slot**: a range of 2^42 seqs. Each shard of each log has its own, so seqs never clash when a database changes logs.
- **head**: the offset that the next record gets.
- **checkpoint**: the offset up to which a shard is processed and stored, and the state of the engine there.
- **epoch**: a number that grows each time a process takes a shard over.
- **fencing**: a transaction for a shard fails if the epoch or the offset in the database is not the expected one.
- **segment**: a partition of the tick table with consecutive seqs. One is open for appends, the others are sealed.
- **retired log**: a log that the database followed before it moved to another one.
"""
