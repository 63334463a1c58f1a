"""Builds the C++ extensions in csrc/; everything else about the package stands in pyproject.toml."""

from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

SOURCES = sorted(Path("csrc").glob("*.cpp"))

setup(
    ext_modules=[
        # csrc/name.cpp becomes megatron_bielik._name; headers of its own stand in csrc/name/
        Pybind11Extension(
            f"megatron_bielik._{path.stem}",
            [str(path)],
            depends=[str(header) for header in sorted(path.with_suffix("").glob("*.hpp"))],
            cxx_std=17,
            extra_compile_args=["-O3", "-pthread"],
            extra_link_args=["-pthread"],
        )
        for path in SOURCES
    ],
    cmdclass={"build_ext": build_ext},
)
