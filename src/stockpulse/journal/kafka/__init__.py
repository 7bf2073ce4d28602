"""The log on Kafka: one shard for each partition of the raw topic. Nothing else speaks to brokers."""
