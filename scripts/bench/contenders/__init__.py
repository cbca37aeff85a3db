"""What a user would pick instead, each a process of its own: `python -m scripts.bench.contenders.NAME JSON`.

None of them imports headrace: two of them run in environments of their own.
"""
