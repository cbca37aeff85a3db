"""`headrace chaos`: faults by a seed against the real services under load, and the account of what came of it."""
