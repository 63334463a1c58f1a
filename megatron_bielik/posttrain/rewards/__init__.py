"""Reward functions for completions, by name: those of this package, and any function a user names by its path.

A reward is a function f(completion: str, sample: Mapping[str, Any], **options: float) -> float.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable

from megatron_bielik.posttrain.rewards.spec import RewardError, RewardSpec

Reward = Callable[..., float]

# The modules are imported when they are asked for: the verifier of math_answer takes a second.
BUILTIN = {
    "math_answer": "megatron_bielik.posttrain.rewards.math_answer:math_answer",
    "choice": "megatron_bielik.posttrain.rewards.choice:choice",
    "tool_call": "megatron_bielik.posttrain.rewards.tool_call:tool_call",
    "format": "megatron_bielik.posttrain.rewards.format:boxed_format",
    "length": "megatron_bielik.posttrain.rewards.length:length",
}


def find_reward(name: str) -> Reward:
    """The function of a name in BUILTIN or of a path "package.module:function".

    Raises:
        RewardError: No such name, module or function, or what is there cannot be called.
    """
    path = BUILTIN.get(name, name)
    module_name, colon, function_name = path.partition(":")
    if not colon or not module_name or not function_name:
        near = difflib.get_close_matches(name, BUILTIN, 1, 0)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise RewardError(
            f"reward {name!r} is not known; {guess}known are {', '.join(BUILTIN)}, your own is given as package.module:function"
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise RewardError(
            f"reward {name!r}: {module_name} cannot be imported ({why}); it must be importable, set PYTHONPATH"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        near = difflib.get_close_matches(
            function_name, [key for key in vars(module) if callable(getattr(module, key))], 1
        )
        guess = f", did you mean {near[0]!r}?" if near else ""
        raise RewardError(f"reward {name!r}: {module_name} has no function {function_name!r}{guess}")
    return function


def check_options(spec: RewardSpec, function: Reward) -> None:
    """Raise RewardError where the function does not take an option of the spec."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature: the call will tell
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    # The first two are the completion and the sample.
    known = [parameter.name for parameter in list(parameters)[2:]]
    for option in spec.options:
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            guess = f", did you mean {near[0]!r}?" if near else ""
            raise RewardError(
                f"reward {spec.name!r} has no option {option!r}{guess} (it has {', '.join(known) or 'none'})"
            )
