"""Lists the packages of the wheel; everything else about the distribution stands in pyproject.toml.

The five rooms, and the examples, one of which is the demo, lie at the top level of the checkout and are installed as
`omium.<room>`. setuptools can find packages by itself or rename them, but pyproject.toml cannot say both, and a list
kept by hand drops a forgotten subpackage from the wheel without a word while every test in the checkout still passes.
So the list is computed here. `tests/house/test_wheel.py` compares the built wheel with the tree.
"""

from setuptools import find_packages, setup

ROOMS = ("orchestration", "storage", "clients", "tools", "server", "examples")

setup(
    package_dir={f"omium.{room}": room for room in ROOMS},
    packages=[f"omium.{name}" for room in ROOMS for name in find_packages(include=[room, f"{room}.*"])],
)
