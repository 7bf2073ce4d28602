"""The log on Kafka: one shard for each partition of the raw topic. Only this package talks to brokers."""
