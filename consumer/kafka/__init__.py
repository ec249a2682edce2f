"""Everything of the service that knows Kafka."""
