"""How plans become batches: in this process, in worker processes or in a thread beside a GPU."""
