"""What a file says of the network besides its parameters: which of them are frozen, and its modules without parameters."""

from __future__ import annotations

from typing import Any

from torch import nn

from sb3_sgmrl.util.archive import BadFileError


def network_of(policy: nn.Module) -> dict[str, Any]:
    """
    Describe a network.

    :param policy: The policy
    :return: The names of frozen parameters as ``frozen``, and the class of each activation or other leaf as ``leaves``
    """
    frozen = [name for name, parameter in policy.named_parameters() if not parameter.requires_grad]
    return {"frozen": frozen, "leaves": _leaves(policy)}


def _leaves(policy: nn.Module) -> dict[str, str]:
    return {name: type(module).__name__ for name, module in policy.named_modules() if name and not [*module.children()]}


def restore_network(policy: nn.Module, saved: Any) -> None:
    """
    Freeze the parameters that were frozen when a model was saved, and only these.

    :param policy: The policy, built from the settings of the file
    :param saved: The description of the saved network; None in files that lack it
    :raises BadFileError: When the description is not one, or the saved network is another one
    """
    if saved is None:
        return
    parameters, leaves = dict(policy.named_parameters()), _leaves(policy)
    if not (isinstance(saved, dict) and isinstance(saved.get("frozen"), list) and isinstance(saved.get("leaves"), dict)):
        raise BadFileError("holds no description of a network in `network`")
    for name in sorted({*saved["leaves"], *leaves}):
        before, now = (str(one.get(name, "nothing"))[:100] for one in (saved["leaves"], leaves))
        if before != now:
            raise BadFileError(
                f"holds a network that was changed after construction, with {before} in `{str(name)[:100]}` where `policy` "
                f"and `policy_kwargs` make {now}: make that network in a policy class of your own"
            )
    if not all(isinstance(name, str) and name in parameters for name in saved["frozen"]):
        raise BadFileError("freezes parameters in `network` which its network has not")
    for name, parameter in parameters.items():
        parameter.requires_grad_(name not in saved["frozen"])
