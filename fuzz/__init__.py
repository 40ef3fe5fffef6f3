"""Fuzzing of all that reads bytes of others: `make fuzz`, and a little of it in the default tests."""
