"""Devices and process groups: the only folder that knows whether there is a GPU."""

from megatron_bielik.kernels.weight_gradient import install_weight_gradient_module
from megatron_bielik.parallel.quiet import silence_optional_package_notes

silence_optional_package_notes()
install_weight_gradient_module()  # megatron-core looks for it when it is imported
