"""TRL fine-tuning jobs on the shards. Imports schemas and services. Nothing is here yet."""
