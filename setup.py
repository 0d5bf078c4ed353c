"""The compiled core, which pyproject.toml cannot name (cffi adds this keyword to setup())."""

from setuptools import setup

setup(cffi_modules=["c_src/build_ffi.py:ffibuilder"])
