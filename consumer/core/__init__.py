"""Pure logic: no I/O, no Kafka, no torch, and no clock of its own."""
