"""Packages of fastdual: kernels/ and loaders/ install as fastdual.kernels and fastdual.loaders.

A top-level module called `kernels` would collide with a package of that name on PyPI.
"""

from setuptools import find_packages, setup

PACKAGE_DIR = {"fastdual.kernels": "kernels", "fastdual.loaders": "loaders"}

setup(
    package_dir=PACKAGE_DIR,
    packages=[
        *find_packages(include=["fastdual", "fastdual.*"]),
        *PACKAGE_DIR,
        *(f"fastdual.{name}" for name in find_packages(include=["kernels.*", "loaders.*"])),
    ],
    package_data={"fastdual": ["py.typed", "recipes/*.toml", "report/templates/*"]},
)
