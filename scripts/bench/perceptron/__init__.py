"""A domain that costs nothing but its model, for `bench scale`: copied beside a copy of headrace's packages.

`messages.py` becomes `schemas/perceptron.py`, `domain.py` becomes `processors/perceptron/__init__.py`.
"""
