"""Devices and process groups: the only folder that knows whether there is a GPU."""

from megatron_bielik.parallel.quiet import silence_optional_package_notes

silence_optional_package_notes()
