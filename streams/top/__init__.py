"""The live view of a running deployment: what its processes and Kafka say, side by side."""
