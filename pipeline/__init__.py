"""Find, name and segment every vertebra in a CT scan."""

__version__ = "0.1.0"
